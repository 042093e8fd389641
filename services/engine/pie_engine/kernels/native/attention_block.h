// Attention of a few rows over one block of slots, and how the parts of a row are put together.
//
// A row's slots are cut into blocks of 64, counted from slot 0. Every block is computed by itself (its own maximum, sum and
// weighted values) and merged into the row's state in ascending order. What a row gets is therefore the same, bit for bit,
// whichever rows run beside it, however its blocks are spread over threads, and whether a block was read for it alone or for
// all rows that share it. The merge is that of online softmax (Milakov and Gimelshein, arXiv:1805.02867); tiling as in
// FlashAttention (Dao et al., arXiv:2205.14135).
//
// Arithmetic is float32 throughout: on the processors at hand two float32 multiply-adds a cycle beat bfloat16 dot products.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"
#include "transpose.h"

namespace pie {

constexpr int kBlock = 64;  // Slots; as many as bits of the word that says which of them a row sees.
// A register tile: rows by vectors. Accumulators, one operand each and a spare fit the registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = kWidth == 16 ? 4 : 2;
// Smaller than every score; differences with it are finite.
constexpr float kNone = -1e38f;

// 2^x for x <= 0 to 2 units in the last place (polynomial of Cephes' exp2f); 0 below 2^-126. Not-a-number stays one.
PIE_INLINE vf vexp2(vf x) {
    vf n = vround(x);
    const vf r = x - n;
    vf p = vset(1.535336188319500e-4f);
    p = vfma(p, r, vset(1.339887440266574e-3f));
    p = vfma(p, r, vset(9.618437357674640e-3f));
    p = vfma(p, r, vset(5.550332471162809e-2f));
    p = vfma(p, r, vset(2.402264791363012e-1f));
    p = vfma(p, r, vset(6.931472028550421e-1f));
    p = vfma(p, r, vset(1.0f));
    if constexpr (kWidth == 8) n = vmax(vset(-127.0f), n);
    return vscale(p, n);
}

// tanh(x) = 1 - 2 / (e^2x + 1), to 1e-7 absolutely.
inline vf vtanh(vf x) { return vset(1.0f) - vset(2.0f) / (vexp(x + x) + vset(1.0f)); }

// A row of values is kept in the order in which it unpacks fastest: of two neighbouring vectors of bfloat16 the even
// elements, then the odd ones. Sums over slots do not mind; `store_values` restores the order.
template <int N>
PIE_INLINE void load_values(const float* p, vf* out) {
    for (int j = 0; j < N; j++) out[j] = vload(p + j * kWidth);
}
template <int N>
PIE_INLINE void load_values(const bf16* p, vf* out) {
    for (int j = 0; j + 1 < N; j += 2) load_pairs(p + j * kWidth, out[j], out[j + 1]);
    if constexpr (N % 2) out[N - 1] = vload(p + (N - 1) * kWidth);
}
template <int N>
PIE_INLINE void store_values(float* p, const vf* in) {
    for (int j = 0; j < N; j++) vstore(p + j * kWidth, in[j]);
}
template <int N>
PIE_INLINE void store_values(bf16* p, const vf* in) {
    for (int j = 0; j + 1 < N; j += 2) store_pairs(p + j * kWidth, in[j], in[j + 1]);
    if constexpr (N % 2) vstore(p + (N - 1) * kWidth, in[N - 1]);
}

// f(std::integral_constant<int, n>) for n in [1, Most].
template <int Most, class F>
inline void with_constant(int n, F&& f) {
    if constexpr (Most > 1) {
        if (n < Most) return with_constant<Most - 1>(n, std::forward<F>(f));
    }
    f(std::integral_constant<int, Most>{});
}

// f(first vector, std::integral_constant<int, vectors>) over the vectors of a row of `width` floats, tile by tile.
template <class F>
inline void over_columns(int width, F&& f) {
    const int vectors = width / kWidth;
    for (int at = 0; at < vectors; at += kTileVectors) {
        with_constant<kTileVectors>(std::min(kTileVectors, vectors - at), [&](auto n) { f(at, n); });
    }
}

// The slots of a block, of one head: slot i begins at keys + offsets[i], its value at values + offsets[i].
template <class T>
struct Slots {
    const T* keys;
    const T* values;
    const int64_t* offsets;  // [kBlock]; null: no slots
};

// Fetches the slots that are needed next, a few at a time while others are computed with: memory delivers a line every ten
// cycles or so, and a burst of requests would stall.
template <class T>
struct Fetcher {
    Slots<T> next;
    int dim;
    int done;  // kBlock: nothing to do

    PIE_INLINE void step(int slots) {
        for (const int end = std::min(kBlock, done + slots); done < end; done++) {
            const int64_t offset = next.offsets[done];
            row(next.keys + offset);
            row(next.values + offset);
        }
    }

  private:
    PIE_INLINE void row(const T* at) const {
        const char* from = reinterpret_cast<const char*>(at);
        for (int i = 0; i < dim * static_cast<int>(sizeof(T)); i += 64) _mm_prefetch(from + i, _MM_HINT_T1);
    }
};

constexpr int kFetchParts = 16;  // Of a block, during each of four phases.

// A block ready for tiles. `keys` is [dim][kBlock], `values` [kBlock][dim] in the order of `load_values`. Values that only one
// tile needs stay where they are: that tile is a decode's, which waits for memory, so it also fetches what comes next.
template <class T>
struct Block {
    float* keys;
    float* values;
    bool packed;
    Slots<T> here;
    Fetcher<T> fetcher;
};

// keys[d][j] = (slot j)[d] for kWidth slots; `slot(j)` is where slot j begins.
template <class Slot>
PIE_INLINE void pack_columns(Slot slot, const float*, int dim, float* keys) {
    for (int d = 0; d < dim; d += kWidth) {
        vi rows[kWidth];
        for (int j = 0; j < kWidth; j++) rows[j] = load_bits(slot(j) + d);
        transpose(rows);
        for (int j = 0; j < kWidth; j++) vstore(keys + (d + j) * kBlock, as_floats(rows[j]));
    }
}
template <class Slot>
PIE_INLINE void pack_columns(Slot slot, const bf16*, int dim, float* keys) {
    // Two bfloat16 move as one element and part afterwards.
    int d = 0;
    for (; d + 2 * kWidth <= dim; d += 2 * kWidth) {
        vi rows[kWidth];
        for (int j = 0; j < kWidth; j++) rows[j] = load_bits(slot(j) + d);
        transpose(rows);
        for (int j = 0; j < kWidth; j++) {
            vstore(keys + (d + 2 * j) * kBlock, low_halves(rows[j]));
            vstore(keys + (d + 2 * j + 1) * kBlock, high_halves(rows[j]));
        }
    }
    for (; d < dim; d++) {
        for (int j = 0; j < kWidth; j++) keys[d * kBlock + j] = to_float(slot(j)[d]);
    }
}

// Packs the vectors that slots [first, last) lie in.
template <class T>
inline void pack_keys(Block<T>& block, int dim, int first, int last) {
    const Slots<T>& from = block.here;
    for (int i = first / kWidth * kWidth; i < last; i += kWidth) {
        block.fetcher.step(kFetchParts * kWidth / kBlock);
        const int64_t* offsets = from.offsets + i;
        if (offsets[kWidth - 1] - offsets[0] == (kWidth - 1) * dim) {  // They lie in one page.
            const T* const begin = from.keys + offsets[0];
            pack_columns([&](int j) { return begin + j * dim; }, begin, dim, block.keys + i);
        } else {
            pack_columns([&](int j) { return from.keys + offsets[j]; }, from.keys, dim, block.keys + i);
        }
    }
}

template <class T>
inline void pack_values(const Block<T>& block, int dim, int first, int last) {
    over_columns(dim, [&](int at, auto n) {
        for (int i = first; i < last; i++) {
            vf row[n];
            load_values<n>(block.here.values + block.here.offsets[i] + at * kWidth, row);
            for (int j = 0; j < n; j++) vstore(block.values + i * dim + (at + j) * kWidth, row[j]);
        }
    });
}

// What is computed of a row and head so far: maximum of the scores (in units of log 2), sum of the weights, weighted values.
struct State {
    float* top;
    float* sum;
    float* values;
};

// What a call asks of scores. With a cap, queries are scaled so that products are the argument of tanh.
struct Scoring {
    float query_scale;
    float cap;  // in units of log 2; 0: none
};

// Products of `R` queries with the keys of slots [first, last), by whole vectors.
template <int R, bool Packed, class T>
PIE_INLINE void multiply_keys(const float* query, Block<T>& block, int dim, int first, int last, float* scores) {
    const int begin = first / kWidth, end = (last + kWidth - 1) / kWidth;
    for (int at = begin; at < end; at += kTileVectors) {
        with_constant<kTileVectors>(std::min(kTileVectors, end - at), [&](auto n) {
            vf sums[R][n];
            for (int r = 0; r < R; r++) {
                for (int j = 0; j < n; j++) sums[r][j] = vzero();
            }
            const float* key = block.keys + at * kWidth;
            int wait = 0;
            for (int d = 0; d < dim; d++, key += kBlock) {
                if constexpr (!Packed) {
                    if (wait-- == 0) {
                        block.fetcher.step(1);
                        wait = dim / kFetchParts - 1;
                    }
                }
                vf column[n];
                for (int j = 0; j < n; j++) column[j] = held(vload(key + j * kWidth));
                for (int r = 0; r < R; r++) {
                    const vf q = vset(query[r * dim + d]);
                    for (int j = 0; j < n; j++) sums[r][j] = vfma(q, column[j], sums[r][j]);
                }
            }
            for (int r = 0; r < R; r++) {
                for (int j = 0; j < n; j++) vstore(scores + r * kBlock + (at + j) * kWidth, sums[r][j]);
            }
        });
    }
}

// Scores of one row become weights relative to their maximum, zero where `seen` has no bit; returns maximum and sum.
PIE_INLINE void weigh(float* scores, uint64_t seen, int first, int last, float cap, float& top, float& sum) {
    const int begin = first / kWidth * kWidth;
    if (seen == 0) {
        for (int i = begin; i < last; i += kWidth) vstore(scores + i, vzero());
        top = kNone;
        sum = 0.0f;
        return;
    }
    vf most = vset(kNone);
    for (int i = begin; i < last; i += kWidth) {
        vf x = vload(scores + i);
        if (cap != 0.0f) x = vtanh(x) * vset(cap);
        x = pick(static_cast<uint32_t>(seen >> i), x, vset(kNone));
        vstore(scores + i, x);
        most = vmax(most, x);
    }
    top = vmaximum(most);
    const vf base = vset(top);
    vf total = vzero();
    for (int i = begin; i < last; i += kWidth) {
        const vf x = vexp2(vload(scores + i) - base);
        vstore(scores + i, x);
        total = total + x;
    }
    sum = vsum(total);
}

// The state of `R` rows takes in a part of the row: `keep` and `take`, by lanes, say what old and new values are worth.
template <int R>
PIE_INLINE void merge_weights(float* top, float* sum, const float* part_top, const float* part_sum, float* keep, float* take) {
    static_assert(R <= kWidth);
    vf before = vzero(), part = vzero();
    for (int r = 0; r < R; r++) {
        // By lanes in registers: a vector that was stored number by number would have to wait for memory.
        before = pick(1u << r, vset(top[r]), before);
        part = pick(1u << r, vset(part_top[r]), part);
    }
    const vf most = vmax(before, part);
    vstore(keep, vexp2(before - most));
    vstore(take, vexp2(part - most));
    for (int r = 0; r < R; r++) {
        top[r] = part_top[r] > top[r] ? part_top[r] : top[r];
        sum[r] = sum[r] * keep[r] + part_sum[r] * take[r];
    }
}

// Attends with `R` rows, of several tiles (`Packed`) or as the only tile (queries [R][dim], `seen[r]` their visible slots of the block) and merges the result into `state`.
template <int R, bool Packed, class T>
inline void attend_tile(const float* query, const uint64_t* seen, Block<T>& block, int dim, float cap,
                        const State& state) {
    uint64_t any = 0;
    for (int r = 0; r < R; r++) any |= seen[r];
    if (any == 0) return;
    const int first = __builtin_ctzll(any), last = kBlock - __builtin_clzll(any);
    alignas(64) float scores[R * kBlock];
    multiply_keys<R, Packed>(query, block, dim, first, last, scores);
    float top[R], sum[R];
    alignas(64) float keep[kWidth], take[kWidth];
    for (int r = 0; r < R; r++) {
        if constexpr (!Packed) block.fetcher.step(kFetchParts / R);
        weigh(scores + r * kBlock, seen[r], first, last, cap, top[r], sum[r]);
    }
    merge_weights<R>(state.top, state.sum, top, sum, keep, take);
    over_columns(dim, [&](int at, auto n) {
        vf sums[R][n];
        for (int r = 0; r < R; r++) {
            for (int j = 0; j < n; j++) sums[r][j] = vzero();
        }
        for (int i = first; i < last; i++) {
            vf row[n];
            if constexpr (Packed) {
                for (int j = 0; j < n; j++) row[j] = held(vload(block.values + i * dim + (at + j) * kWidth));
            } else {
                if (i % (kBlock / kFetchParts) == 0) block.fetcher.step(1);
                load_values<n>(block.here.values + block.here.offsets[i] + at * kWidth, row);
            }
            for (int r = 0; r < R; r++) {
                const vf weight = vset(scores[r * kBlock + i]);
                for (int j = 0; j < n; j++) sums[r][j] = vfma(weight, row[j], sums[r][j]);
            }
        }
        for (int r = 0; r < R; r++) {
            float* out = state.values + r * dim + at * kWidth;
            for (int j = 0; j < n; j++) {
                vstore(out + j * kWidth, vfma(vload(out + j * kWidth), vset(keep[r]), sums[r][j] * vset(take[r])));
            }
        }
    });
}

}  // namespace pie
