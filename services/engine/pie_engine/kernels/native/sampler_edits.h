// What one output wants of a row, and its changes to the logits: mask, forbidden ids, bias and penalties.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace pie {

const float kInfinity = HUGE_VALF;

// What one output wants; mirrored by `native_sampler.py`. Lists that are not there have length 0.
struct Draw {
    int64_t row;
    double draw;        // uniform in (0, 1)
    double top_p;       // 1: off
    double typical_p;   // 1: off
    int64_t least;      // min-p: least weight; 0: off
    int64_t top_k;      // 0: off
    const uint32_t* mask;
    const int32_t* bias_ids;
    const float* bias;
    int64_t biased;
    const int32_t* forbidden;
    int64_t forbids;
    const int32_t* history;
    int64_t tokens;     // of the history
    int64_t start;      // where generated ones begin
    float factor;       // from logits to levels; 0: greedy
    float repetition, presence, frequency;
};

inline float rounded(float x) {
    asm("" : "+v"(x));
    return x;
}

// `counts` are zeros, and again afterwards.
inline void penalise(float* x, const Draw& d, int32_t* counts) {
    if (d.repetition != 1.0f) {
        for (int64_t i = 0; i < d.tokens; i++) {
            const int32_t id = d.history[i];
            if (counts[id]++ == 0) x[id] = x[id] > 0.0f ? x[id] / d.repetition : x[id] * d.repetition;
        }
        for (int64_t i = 0; i < d.tokens; i++) counts[d.history[i]] = 0;
    }
    for (int64_t i = d.start; i < d.tokens; i++) counts[d.history[i]]++;
    for (int64_t i = d.start; i < d.tokens; i++) {
        const int32_t id = d.history[i];
        if (counts[id] == 0) continue;
        x[id] = rounded(x[id] - rounded(static_cast<float>(counts[id]) * d.frequency)) - d.presence;
        counts[id] = 0;
    }
}

// Mask, forbidden ids, bias and penalties, in place.
inline void edit(float* x, int64_t vocab, const Draw& d, int32_t* counts) {
    if (d.mask) {
        for (int64_t i = 0; i < vocab; i += 32) {
            const uint32_t word = d.mask[i / 32];
            const int64_t end = std::min<int64_t>(vocab - i, 32);
            if (word == 0) {
                std::fill(x + i, x + i + end, -kInfinity);
            } else if (word != ~0u) {
                for (int64_t j = 0; j < end; j++) x[i + j] = word >> j & 1 ? x[i + j] : -kInfinity;
            }
        }
    }
    for (int64_t i = 0; i < d.forbids; i++) x[d.forbidden[i]] = -kInfinity;
    for (int64_t i = 0; i < d.biased; i++) x[d.bias_ids[i]] += d.bias[i];
    if (d.tokens) penalise(x, d, counts);
}

}  // namespace pie
