// LoRA in a pass: rows get the sums of low-rank products of the adapters they have.
#pragma once

#include <cstdint>

#include "linear.h"
#include "pool.h"
#include "simd.h"

extern "C" {

// What an adapter adds to a linear layer; null where it leaves the layer as it is.
struct PieLoraWeight {
    const float* a;  // [columns, in]
    const float* b;  // [columns, out]
    int64_t columns;
};

struct PieLora {
    const PieLoraWeight* weights;  // [layers, 7, adapters]: query, key, value, output, gate, up, down
    const int32_t* rows;           // the rows that have adapters, ascending
    const float* gates;            // [count, adapters]: weights; 0 where a row has not the adapter
    int64_t count;
    int64_t adapters;
};
}

namespace pie {

// Columns whose sums are kept in registers at once.
constexpr int kLoraColumns = 4;

// y += gate * (x a^T) b, `in` and `out` multiples of kWidth. The order of summation depends on nothing but sizes.
inline void add_lora(const PieLoraWeight& w, float gate, const float* x, int64_t in, float* y, int64_t out) {
    for (int64_t c = 0; c < w.columns; c += kLoraColumns) {
        const int64_t width = w.columns - c < kLoraColumns ? w.columns - c : kLoraColumns;
        const float* a[kLoraColumns];
        const float* b[kLoraColumns];
        vf sums[kLoraColumns];
        for (int64_t j = 0; j < kLoraColumns; j++) {
            const int64_t column = c + (j < width ? j : 0);
            a[j] = w.a + column * in;
            b[j] = w.b + column * out;
            sums[j] = vzero();
        }
        for (int64_t k = 0; k < in; k += kWidth) {
            const vf value = vload(x + k);
            for (int j = 0; j < kLoraColumns; j++) sums[j] = vfma(value, vload(a[j] + k), sums[j]);
        }
        vf factors[kLoraColumns];
        for (int64_t j = 0; j < kLoraColumns; j++) factors[j] = vset(j < width ? gate * vsum(sums[j]) : 0.0f);
        for (int64_t k = 0; k < out; k += kWidth) {
            vf value = vload(y + k);
            for (int j = 0; j < kLoraColumns; j++) value = vfma(factors[j], vload(b[j] + k), value);
            vstore(y + k, value);
        }
    }
}

// For every adapted row i (row number r): output(r) += what its adapters give for input(i, r). `place` counts as PieLora says.
template <class Input, class Output>
void adapt(const PieLora& lora, int64_t place, int64_t in, int64_t out, int threads, Input&& input, Output&& output) {
    const PieLoraWeight* const weights = lora.weights + place * lora.adapters;
    const int64_t grain = 8;
    parallel_ranges(lora.count <= grain ? 1 : threads, lora.count, grain, [&](int64_t begin, int64_t end) {
        // Adapters outside, so that one's matrices serve all rows while they are near.
        for (int64_t s = 0; s < lora.adapters; s++) {
            if (!weights[s].a) continue;
            for (int64_t i = begin; i < end; i++) {
                const float gate = lora.gates[i * lora.adapters + s];
                if (gate != 0.0f) add_lora(weights[s], gate, input(i, lora.rows[i]), in, output(lora.rows[i]), out);
            }
        }
    });
}

}  // namespace pie
