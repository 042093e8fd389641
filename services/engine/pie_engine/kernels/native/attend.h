// How a pass that runs natively from end to end attends: the attention kernel gives a function and a plan.
#pragma once

#include <cstdint>

extern "C" {

// One layer. Row r of query, key and value begins `stride` elements after row r - 1 (the three are parts of one matrix), heads
// one after the other, in the number format of the pool; `out` is [rows, heads * head_dim], contiguous, same format.
struct PieAttend {
    const void* query;
    const void* key;
    const void* value;
    void* out;
    int64_t stride;
    int32_t layer;
    int32_t window;  // slots that a row sees back from and with its own; 0: no limit
    float scale;
    int32_t threads;
};

// Stores keys and values of all rows of the pass that `plan` was made for, then attends.
typedef void (*pie_attend_fn)(void* plan, const PieAttend* call);
}
