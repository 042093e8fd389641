// What all layers of a pass share: who attends to what, in which pieces of work.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

extern "C" {

// The arrays of a pass, as in `pie_engine.passes.batch.Batch`, and the pool they refer to. Everything outlives the plan.
struct PieAttentionPass {
    int32_t rows;
    int32_t segments;
    int32_t page_size;
    int32_t causal;
    const int32_t* row_slots;
    const int32_t* write_slots;
    const int32_t* interval_ptr;
    const int32_t* intervals;
    const int32_t* segment_rows;
    const int32_t* page_ptr;
    const int32_t* pages;
    void* pool;             // [pages + 1, layers, 2, kv_heads, page_size, head_dim]
    int64_t page_elements;  // of one page, all layers
    int32_t pool_pages;     // with the scratch page
    int32_t layers;
    int32_t kv_heads;
    int32_t head_dim;
    int32_t wide;    // 1: float32, 0: bfloat16
    int32_t shares;  // 1: a prefix that one-row segments share is read once for all of them
};
}

namespace pie {

// Rows that attend together: they have the same pages in blocks [begin, end).
struct Unit {
    int32_t segment;  // whose page table is read
    int32_t first;    // rows are order[first : first + count]
    int32_t count;
    int32_t begin;
    int32_t end;
};

// A unit, or some of its blocks, for KV heads [head, head_end). `record`: where per row the result goes, counted from the
// row's own first record; with `each` every block has a record of its own. -1: the result is final.
struct Item {
    Unit unit;
    int32_t head;
    int32_t head_end;
    int32_t record;
    bool each;
};

// The work of a layer, for one window and number of threads. Items of `before` leave records of parts of rows behind, which
// those of `last` begin with.
struct Schedule {
    int32_t heads;
    int32_t window;
    int32_t threads;
    std::vector<int32_t> order;
    std::vector<Item> before;
    std::vector<Item> last;
    std::vector<int32_t> first_record;  // by row
    std::vector<int32_t> records;       // by row
    int32_t total_records;
};

class Plan {
  public:
    // Throws std::invalid_argument when the arrays do not fit together.
    explicit Plan(const PieAttentionPass& pass);

    const PieAttentionPass& pass() const { return pass_; }
    const Schedule& schedule(int heads, int window, int threads);
    // Visible slots of `row` in [64 * block, 64 * block + 64): bit i for slot i of the block.
    uint64_t seen(int row, int block, int window) const;
    // Slots that a row can see lie in [first, last).
    int first_slot(int row, int window) const;
    int last_slot(int row) const;
    // Grows, never shrinks; what it holds is lost when it grows.
    float* records(size_t floats);

  private:
    void check() const;
    void sort_intervals();

    PieAttentionPass pass_;
    std::vector<int32_t> sorted_;
    std::vector<int32_t> segment_of_;
    std::vector<std::unique_ptr<Schedule>> schedules_;
    std::unique_ptr<float[]> records_;
    size_t capacity_ = 0;

    friend class Scheduling;
};

}  // namespace pie
