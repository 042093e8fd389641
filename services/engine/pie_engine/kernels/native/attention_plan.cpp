#include "attention_plan.h"

#include <algorithm>
#include <stdexcept>

namespace pie {

Plan::Plan(const PieAttentionPass& pass) : pass_(pass) {
    check();
    if (!pass_.causal) sort_intervals();
}

void Plan::check() const {
    const PieAttentionPass& p = pass_;
    const int64_t slots = static_cast<int64_t>(p.pool_pages) * p.page_size;
    if (p.segment_rows[0] != 0 || p.segment_rows[p.segments] != p.rows) throw std::invalid_argument("rows of segments");
    for (int s = 0; s < p.segments; s++) {
        const int begin = p.segment_rows[s], end = p.segment_rows[s + 1];
        const int64_t room = static_cast<int64_t>(p.page_ptr[s + 1] - p.page_ptr[s]) * p.page_size;
        if (begin > end) throw std::invalid_argument("rows of segments");
        for (int r = begin; r < end; r++) {
            if (p.row_slots[r] < 0 || p.row_slots[r] >= room) throw std::invalid_argument("row slots");
            if (p.write_slots[r] < 0 || p.write_slots[r] >= slots) throw std::invalid_argument("write slots");
            if (p.causal) continue;
            for (int i = p.interval_ptr[r]; i < p.interval_ptr[r + 1]; i++) {
                const int from = p.intervals[2 * i], to = p.intervals[2 * i + 1];
                if (from < 0 || from > to || to > room) throw std::invalid_argument("intervals");
            }
        }
    }
    for (int i = p.page_ptr[0]; i < p.page_ptr[p.segments]; i++) {
        if (p.pages[i] < 0 || p.pages[i] >= p.pool_pages) throw std::invalid_argument("pages");
    }
}

// Intervals of a row ascend, so that a block's can be searched for; a copy is made when they do not.
void Plan::sort_intervals() {
    const int32_t* ptr = pass_.interval_ptr;
    const auto ascend = [&](const int32_t* x, int begin, int end) {
        for (int i = begin + 1; i < end; i++) {
            if (x[2 * i] < x[2 * i - 2] || x[2 * i + 1] < x[2 * i - 1]) return false;
        }
        return true;
    };
    for (int r = 0; r < pass_.rows; r++) {
        if (ascend(pass_.intervals, ptr[r], ptr[r + 1])) continue;
        if (sorted_.empty()) {
            sorted_.assign(pass_.intervals, pass_.intervals + 2 * static_cast<size_t>(ptr[pass_.rows]));
            pass_.intervals = sorted_.data();
        }
        using Pair = std::pair<int32_t, int32_t>;
        static_assert(sizeof(Pair) == 2 * sizeof(int32_t));
        std::vector<Pair> row;
        for (int i = ptr[r]; i < ptr[r + 1]; i++) row.emplace_back(sorted_[2 * i], sorted_[2 * i + 1]);
        std::sort(row.begin(), row.end());
        // Where one lies within another, its end is moved: the union stays, and ends ascend.
        int32_t end = 0;
        for (size_t i = 0; i < row.size(); i++) {
            end = std::max(end, row[i].second);
            sorted_[2 * (ptr[r] + i)] = row[i].first;
            sorted_[2 * (ptr[r] + i) + 1] = end;
        }
    }
}

int Plan::first_slot(int row, int window) const {
    const int limit = window > 0 ? std::max(0, pass_.row_slots[row] + 1 - window) : 0;
    if (pass_.causal) return limit;
    const int begin = pass_.interval_ptr[row], end = pass_.interval_ptr[row + 1];
    return begin == end ? 0 : std::max(limit, pass_.intervals[2 * begin]);
}

int Plan::last_slot(int row) const {
    if (pass_.causal) return pass_.row_slots[row] + 1;
    const int begin = pass_.interval_ptr[row], end = pass_.interval_ptr[row + 1];
    return begin == end ? 0 : pass_.intervals[2 * end - 1];
}

namespace {

constexpr int kBits = 64;

// Bits [from, to) of a word.
uint64_t range(int64_t from, int64_t to) {
    from = std::max<int64_t>(from, 0);
    to = std::min<int64_t>(to, kBits);
    if (from >= to) return 0;
    const uint64_t upto = to == kBits ? ~0ull : (1ull << to) - 1;
    return upto & ~((1ull << from) - 1);
}

}  // namespace

uint64_t Plan::seen(int row, int block, int window) const {
    const int64_t base = static_cast<int64_t>(block) * kBits;
    const int64_t low = window > 0 ? static_cast<int64_t>(pass_.row_slots[row]) + 1 - window - base : 0;
    if (pass_.causal) return range(low, pass_.row_slots[row] + 1 - base);
    const int32_t* x = pass_.intervals;
    int at = pass_.interval_ptr[row];
    const int end = pass_.interval_ptr[row + 1];
    for (int count = end - at; count > 0;) {  // The first one that ends beyond the block's first slot.
        const int half = count / 2;
        if (x[2 * (at + half) + 1] <= base) {
            at += half + 1;
            count -= half + 1;
        } else {
            count = half;
        }
    }
    uint64_t word = 0;
    for (; at < end && x[2 * at] < base + kBits; at++) word |= range(x[2 * at] - base, x[2 * at + 1] - base);
    return window > 0 ? word & range(low, kBits) : word;
}

float* Plan::records(size_t floats) {
    if (floats > capacity_) {
        records_.reset(new float[floats]);
        capacity_ = floats;
    }
    return records_.get();
}

}  // namespace pie
