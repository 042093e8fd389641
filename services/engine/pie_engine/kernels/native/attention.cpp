// Paged attention with grouped heads: stores the KV of a pass, then attends. See attention_block.h for the arithmetic.
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "attend.h"
#include "attention_block.h"
#include "attention_plan.h"
#include "pool.h"

extern "C" {

// One layer. Strides in elements: row r, head h of `query` begins at query + r * query_row + h * query_head. `out` is
// [rows, heads, head_dim], contiguous. Everything has the number format of the pool, `sinks` [heads] is float32 or null.
struct PieAttention {
    const void* query;
    const void* key;
    const void* value;
    void* out;
    const float* sinks;
    int64_t query_row, query_head;
    int64_t key_row, key_head;
    int64_t value_row, value_head;
    int32_t heads;
    int32_t layer;
    int32_t window;  // 0: none
    int32_t threads;
    float scale;
    float softcap;  // 0: none
};
}

namespace pie {
namespace {

constexpr float kLog2e = 1.44269504f;
constexpr int kMostLines = 1024;  // Of an item: the tile target, or the query heads of a KV head when they are more.
constexpr int kRecordTail = 16;  // Floats behind the values of a record: maximum, sum, and padding.
constexpr int kRowsAtOnce = 16;  // Rows whose KV one piece of work stores.

// Memory of a thread for one item; grows, never shrinks.
class Scratch {
  public:
    float* take(size_t floats) {
        if (floats > capacity_) {
            memory_.reset(static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t{64})));
            capacity_ = floats;
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<float, Free> memory_;
    size_t capacity_ = 0;
};

thread_local Scratch scratch;

template <class T>
class Layer {
  public:
    Layer(Plan& plan, const PieAttention& call)
        : plan_(plan),
          pass_(plan.pass()),
          call_(call),
          dim_(pass_.head_dim),
          share_(call.heads / pass_.kv_heads),
          head_size_(static_cast<int64_t>(pass_.page_size) * dim_),
          schedule_(plan.schedule(call.heads, call.window, call.threads)) {
        base_ = static_cast<T*>(pass_.pool) + call.layer * 2 * pass_.kv_heads * head_size_;
        records_ = plan.records(static_cast<size_t>(schedule_.total_records) * call.heads * record_size());
    }

    void run() {
        parallel_ranges(call_.threads, pass_.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) { store(begin, end); });
        for (const auto* items : {&schedule_.before, &schedule_.last}) {
            parallel_for(call_.threads, static_cast<int64_t>(items->size()), [&](int64_t i) { attend((*items)[i]); });
        }
    }

  private:
    int record_size() const { return dim_ + kRecordTail; }
    float* record(int row, int index, int head) const {
        return records_ + (static_cast<int64_t>(schedule_.first_record[row] + index) * call_.heads + head) * record_size();
    }

    void store(int64_t begin, int64_t end) const {
        const int64_t values = pass_.kv_heads * head_size_;
        for (int64_t r = begin; r < end; r++) {
            const int slot = pass_.write_slots[r];
            T* to = base_ + slot / pass_.page_size * pass_.page_elements + slot % pass_.page_size * dim_;
            const T* key = static_cast<const T*>(call_.key) + r * call_.key_row;
            const T* value = static_cast<const T*>(call_.value) + r * call_.value_row;
            for (int h = 0; h < pass_.kv_heads; h++) {
                std::memcpy(to + h * head_size_, key + h * call_.key_head, dim_ * sizeof(T));
                std::memcpy(to + h * head_size_ + values, value + h * call_.value_head, dim_ * sizeof(T));
            }
        }
    }

    void attend(const Item& item) const {
        const Unit& unit = item.unit;
        const int32_t* rows = schedule_.order.data() + unit.first;
        const int lines = unit.count * share_;  // Rows times query heads of a KV head.
        const int heads = item.head_end - item.head;
        float* at = scratch.take(static_cast<size_t>(kBlock) * dim_ * 2 + static_cast<size_t>(heads) * lines * (2 * dim_ + 2));
        Block<T> block;
        block.keys = at;
        block.values = block.keys + kBlock * dim_;
        block.packed = lines > kTileRows;
        float* queries = block.values + kBlock * dim_;
        State state{};
        state.values = queries + static_cast<size_t>(heads) * lines * dim_;
        state.top = state.values + static_cast<size_t>(heads) * lines * dim_;
        state.sum = state.top + heads * lines;
        const auto of_head = [&](int h) {
            return State{state.top + h * lines, state.sum + h * lines, state.values + static_cast<size_t>(h) * lines * dim_};
        };
        const float cap = call_.softcap > 0.0f ? call_.softcap * kLog2e : 0.0f;
        const float query_scale = call_.softcap > 0.0f ? call_.scale / call_.softcap : call_.scale * kLog2e;
        for (int h = 0; h < heads; h++) {
            load_queries(item.head + h, rows, unit.count, query_scale, queries + static_cast<size_t>(h) * lines * dim_);
            clear(of_head(h), lines);
            if (item.record < 0) begin_with_records(item.head + h, rows, unit.count, of_head(h));
        }
        uint64_t seen[kMostLines];
        int64_t offsets[2][kBlock];
        int located = -1;  // The block whose offsets are known already.
        int done = 0;
        for (int b = unit.begin; b < unit.end; b++) {
            uint64_t any = 0;
            for (int i = 0; i < unit.count; i++) {
                const uint64_t word = plan_.seen(rows[i], b, call_.window);
                for (int g = 0; g < share_; g++) seen[i * share_ + g] = word;
                any |= word;
            }
            if (any != 0) {
                const int first = __builtin_ctzll(any), last = kBlock - __builtin_clzll(any);
                const int64_t* here = offsets[b % 2];
                if (located != b) locate(unit.segment, b, offsets[b % 2]);
                const bool ahead = !block.packed && b + 1 < unit.end;
                if (ahead) {
                    located = b + 1;
                    locate(unit.segment, located, offsets[located % 2]);
                }
                for (int h = 0; h < heads; h++) {
                    block.here = slots(item.head + h, here);
                    const bool inside = h + 1 < heads;
                    const int64_t* next = block.packed ? nullptr : inside ? here : ahead ? offsets[located % 2] : nullptr;
                    block.fetcher = {slots(item.head + (inside ? h + 1 : 0), next), dim_, next == nullptr ? kBlock : 0};
                    pack_keys(block, dim_, first, last);
                    if (block.packed) pack_values(block, dim_, first, last);
                    attend_block(queries + static_cast<size_t>(h) * lines * dim_, seen, block, lines, cap, of_head(h));
                }
            }
            if (item.each) {
                for (int h = 0; h < heads; h++) {
                    save(item.head + h, rows, unit.count, item.record + done, of_head(h));
                    clear(of_head(h), lines);
                }
                done++;
            }
        }
        for (int h = 0; h < heads; h++) {
            if (item.record < 0) {
                finish(item.head + h, rows, unit.count, of_head(h));
            } else if (!item.each) {
                save(item.head + h, rows, unit.count, item.record, of_head(h));
            }
        }
    }

    void load_queries(int head, const int32_t* rows, int count, float scale, float* to) const {
        for (int i = 0; i < count; i++) {
            for (int g = 0; g < share_; g++, to += dim_) {
                const T* from =
                    static_cast<const T*>(call_.query) + rows[i] * call_.query_row + (head * share_ + g) * call_.query_head;
                for (int d = 0; d < dim_; d += kWidth) vstore(to + d, vload(from + d) * vset(scale));
            }
        }
    }

    void clear(State state, int lines) const {
        std::fill_n(state.top, lines, kNone);
        std::fill_n(state.sum, lines, 0.0f);
        std::fill_n(state.values, static_cast<size_t>(lines) * dim_, 0.0f);
    }

    void begin_with_records(int head, const int32_t* rows, int count, State state) const {
        for (int i = 0; i < count; i++) {
            for (int n = 0; n < schedule_.records[rows[i]]; n++) {
                for (int g = 0; g < share_; g++) {
                    const int line = i * share_ + g;
                    const float* part = record(rows[i], n, head * share_ + g);
                    merge(state, line, part[dim_], part[dim_ + 1], part);
                }
            }
        }
    }

    // The same operations as at the end of a block.
    void merge(State state, int line, float top, float sum, const float* values) const {
        alignas(64) float keep[kWidth], take[kWidth];
        merge_weights<1>(state.top + line, state.sum + line, &top, &sum, keep, take);
        float* to = state.values + static_cast<size_t>(line) * dim_;
        for (int d = 0; d < dim_; d += kWidth) {
            vstore(to + d, vfma(vload(to + d), vset(keep[0]), vload(values + d) * vset(take[0])));
        }
    }

    void save(int head, const int32_t* rows, int count, int index, State state) const {
        for (int i = 0; i < count; i++) {
            for (int g = 0; g < share_; g++) {
                const int line = i * share_ + g;
                float* to = record(rows[i], index, head * share_ + g);
                std::memcpy(to, state.values + static_cast<size_t>(line) * dim_, dim_ * sizeof(float));
                to[dim_] = state.top[line];
                to[dim_ + 1] = state.sum[line];
            }
        }
    }

    // Where the slots of a block lie; those beyond the pages repeat the last one.
    void locate(int segment, int b, int64_t* offsets) const {
        const int32_t* table = pass_.pages + pass_.page_ptr[segment];
        const int32_t* const table_end = pass_.pages + pass_.page_ptr[segment + 1];
        const int size = pass_.page_size;
        const unsigned slot = static_cast<unsigned>(b) * kBlock;
        table += slot / size;
        int place = static_cast<int>(slot % size);
        int i = 0;
        for (; i < kBlock && table < table_end; table++, place = 0) {
            int64_t at = *table * pass_.page_elements + place * dim_;
            const int end = std::min(kBlock, i + size - place);
            for (; i < end; i++, at += dim_) offsets[i] = at;
        }
        for (; i < kBlock; i++) offsets[i] = offsets[i - 1];
    }

    Slots<T> slots(int head, const int64_t* offsets) const {
        const T* const keys = base_ + head * head_size_;
        return {keys, keys + pass_.kv_heads * head_size_, offsets};
    }

    void attend_block(const float* queries, const uint64_t* seen, Block<T>& block, int lines, float cap,
                      const State& state) const {
        for (int at = 0; at < lines; at += kTileRows) {
            const State of_tile{state.top + at, state.sum + at, state.values + at * dim_};
            with_constant<kTileRows>(std::min(kTileRows, lines - at), [&](auto n) {
                if (block.packed) {
                    attend_tile<n, true>(queries + at * dim_, seen + at, block, dim_, cap, of_tile);
                } else {
                    attend_tile<n, false>(queries + at * dim_, seen + at, block, dim_, cap, of_tile);
                }
            });
        }
    }

    void finish(int head, const int32_t* rows, int count, State state) const {
        for (int i = 0; i < count; i++) {
            for (int g = 0; g < share_; g++) {
                const int line = i * share_ + g, of = head * share_ + g;
                if (call_.sinks != nullptr) {
                    // A score that takes weight and gives no value.
                    const float sink = call_.sinks[of] * kLog2e;
                    const float most = std::max(sink, state.top[line]);
                    alignas(64) float both[kWidth] = {state.top[line] - most, sink - most};
                    vstore(both, vexp2(vload(both)));
                    state.sum[line] = state.sum[line] * both[0] + both[1];
                    float* values = state.values + static_cast<size_t>(line) * dim_;
                    for (int d = 0; d < dim_; d += kWidth) vstore(values + d, vload(values + d) * vset(both[0]));
                }
                const vf share = vset(state.sum[line] == 0.0f ? 0.0f : 1.0f / state.sum[line]);
                const float* values = state.values + static_cast<size_t>(line) * dim_;
                T* to = static_cast<T*>(call_.out) + (static_cast<int64_t>(rows[i]) * call_.heads + of) * dim_;
                over_columns(dim_, [&](int at, auto n) {
                    vf row[n];
                    for (int j = 0; j < n; j++) row[j] = vload(values + (at + j) * kWidth) * share;
                    store_values<n>(to + at * kWidth, row);
                });
            }
        }
    }

    Plan& plan_;
    const PieAttentionPass& pass_;
    const PieAttention& call_;
    const int dim_;
    const int share_;
    const int64_t head_size_;
    const Schedule& schedule_;
    T* base_;
    float* records_;
};

void run(Plan& plan, const PieAttention& call) {
    if (plan.pass().wide) {
        Layer<float>(plan, call).run();
    } else {
        Layer<bf16>(plan, call).run();
    }
}

}  // namespace
}  // namespace pie

// A plan for the pass, or null when its arrays do not fit together.
PIE_API void* pie_attention_begin(const PieAttentionPass* pass) {
    try {
        return new pie::Plan(*pass);
    } catch (const std::invalid_argument&) {
        return nullptr;
    }
}

PIE_API void pie_attention_end(void* plan) { delete static_cast<pie::Plan*>(plan); }

PIE_API void pie_attention(void* plan, const PieAttention* call) { pie::run(*static_cast<pie::Plan*>(plan), *call); }

// A `pie_attend_fn`.
PIE_API void pie_attend(void* plan, const PieAttend* call) {
    const PieAttentionPass& pass = static_cast<pie::Plan*>(plan)->pass();
    const int64_t dim = pass.head_dim, row = call->stride;
    // Heads of query, key and value follow one another in a row, so the distance to the keys tells their number.
    const int64_t bytes = static_cast<const char*>(call->key) - static_cast<const char*>(call->query);
    const int heads = static_cast<int>(bytes / (pass.wide ? 4 : 2) / dim);
    pie::run(*static_cast<pie::Plan*>(plan),
             {call->query, call->key, call->value, call->out, nullptr, row, dim, row, dim, row, dim, heads, call->layer,
              call->window, call->threads, call->scale, 0.0f});
}
