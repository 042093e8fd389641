// Products of rows with a weight matrix that was laid out once: y = x W^T + bias.
//
// All arithmetic is float32, whatever the weights' format. Every element of the result is one chain of fused multiply-adds over
// k = 0, 1, 2, ..., however many rows, columns or threads take part: a row's result depends on nothing but the row.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "simd.h"

namespace pie {

enum Format : int32_t { kFloat32 = 0, kBfloat16 = 1 };

// A panel is kPanel output columns: for k = 0, 1, ... the kPanel weights of input k. In bfloat16 word j holds column j in its low
// half and column j + kWidth in its high half, so that a shift and a mask widen a whole panel row. Missing columns are zero.
constexpr int kPanel = 2 * kWidth;

struct Weight {
    const void* panels;
    const float* bias;  // [out] or null
    int64_t out;
    int64_t in;
    int32_t format;
};

// Rows as the kernels read them: blocks of at most kMostRows rows, in each for k = 0, 1, ... the float32 values of all its rows.
#if defined(PIE_AVX512BF16)
constexpr int kMostRows = 14;
#else
constexpr int kMostRows = 6;
#endif

// How `rows` rows are cut into blocks as equal as can be.
struct Blocks {
    int64_t rows, count, size, longer;  // the first `longer` blocks have `size` rows, the others one less

    explicit Blocks(int64_t n)
        : rows(n), count((n + kMostRows - 1) / kMostRows), size((n + count - 1) / count), longer(n - count * (size - 1)) {}
    int64_t first(int64_t block) const { return block * size - (block > longer ? block - longer : 0); }
    int64_t width(int64_t block) const { return block < longer ? size : size - 1; }
};

// Memory that is kept for the next call; one for every thread that uses it.
class Room {
  public:
    float* floats(int64_t count) {
        if (count > have_) {
            held_.reset(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>((count * 4 + 63) / 64 * 64))));
            have_ = held_ ? count : 0;
            if (!held_) throw std::bad_alloc();
        }
        return held_.get();
    }

  private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::unique_ptr<float, Free> held_;
    int64_t have_ = 0;
};

// Packs one block: get(r, k) is the vector of inputs k .. k + kWidth - 1 of row r. `in` is a multiple of kWidth.
template <class Get>
inline void pack_block(int64_t width, int64_t in, float* to, Get&& get) {
    if (width == 1) {
        for (int64_t k = 0; k < in; k += kWidth) vstore(to + k, get(0, k));
        return;
    }
    for (int64_t k = 0; k < in; k += kWidth) {
        vf tile[kWidth];
        for (int64_t r = 0; r < kWidth; r++) tile[r] = r < width ? get(r, k) : vzero();
        vtranspose(tile);
        for (int64_t j = 0; j < kWidth; j++) vstore_first(to + (k + j) * width, tile[j], static_cast<int>(width));
    }
}

// Room for rows in the layout above: [rows * in] floats.
template <class T>
void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t in, float* packed, int threads);

// y: [rows, out] in format `y_format`, row stride in elements; `packed` as pack_rows makes it.
void multiply(const float* packed, int64_t rows, const Weight& weight, void* y, int32_t y_format, int64_t y_stride, int threads);

// y += x W^T + bias
void multiply_add(const float* packed, int64_t rows, const Weight& weight, float* y, int64_t y_stride, int threads);

// silu(gate) * up, packed for the next product. Both weights have one shape and format, and a multiple of kPanel outputs.
void gated(const float* packed, int64_t rows, const Weight& gate, const Weight& up, float* result, int threads);

}  // namespace pie
