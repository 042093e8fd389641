#include "linear.h"

#include <algorithm>

#include "pool.h"

namespace pie {
namespace {

constexpr int64_t kDepth = 384;              // inputs whose panel rows and row values stay in the first-level cache
constexpr int64_t kRowsBytes = 1024 * 1024;  // of packed rows that stay in the second-level cache
constexpr int64_t kAhead = 2048;             // bytes of a panel that are fetched before they are needed
constexpr int64_t kFewValues = 65536;        // that one thread packs sooner than two

struct Narrow {  // a bfloat16 panel
    using Word = uint32_t;
    static constexpr int kWords = kWidth;
    static inline void load(const uint32_t* p, vf& low, vf& high) {
#if defined(PIE_AVX512BF16)
        const __m512i both = _mm512_loadu_si512(p);
        low = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        high = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
#else
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        low = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
        high = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
#endif
    }
};

struct Wide {  // a float32 panel
    using Word = float;
    static constexpr int kWords = kPanel;
    static inline void load(const float* p, vf& low, vf& high) {
        low = vload(p);
        high = vload(p + kWidth);
    }
};

// `sums` [ROWS, PANELS * kPanel] gets (or continues) the products of ROWS rows with PANELS panels, `panel_step` words apart.
template <class P, int ROWS, int PANELS, bool FETCH>
inline void kernel(const float* x, const typename P::Word* w, int64_t panel_step, int64_t depth, float* sums, bool go_on) {
    vf acc[ROWS][2 * PANELS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < 2 * PANELS; c++) {
            acc[r][c] = go_on ? vload(sums + (r * 2 * PANELS + c) * kWidth) : vzero();
        }
    }
    for (int64_t k = 0; k < depth; k++) {
        vf b[2 * PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < PANELS; p++) {
            const typename P::Word* at = w + p * panel_step + k * P::kWords;
            if constexpr (FETCH) _mm_prefetch(reinterpret_cast<const char*>(at) + kAhead, _MM_HINT_T0);
            P::load(at, b[2 * p], b[2 * p + 1]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const vf value = vset(x[k * ROWS + r]);
#pragma GCC unroll 8
            for (int c = 0; c < 2 * PANELS; c++) acc[r][c] = vfma(b[c], value, acc[r][c]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
        for (int c = 0; c < 2 * PANELS; c++) vstore(sums + (r * 2 * PANELS + c) * kWidth, acc[r][c]);
    }
}

template <class P, int PANELS, bool FETCH, int ROWS = kMostRows>
inline void kernel_of(int64_t rows, const float* x, const typename P::Word* w, int64_t panel_step, int64_t depth, float* sums,
                      bool go_on) {
    if constexpr (ROWS * PANELS > kMostRows) {
        kernel_of<P, PANELS, FETCH, ROWS - 1>(rows, x, w, panel_step, depth, sums, go_on);
    } else {
        if (rows == ROWS) {
            kernel<P, ROWS, PANELS, FETCH>(x, w, panel_step, depth, sums, go_on);
        } else if constexpr (ROWS > 1) {
            kernel_of<P, PANELS, FETCH, ROWS - 1>(rows, x, w, panel_step, depth, sums, go_on);
        }
    }
}

// Adds the bias and writes the columns of one panel that exist, or with ADD adds them to what is there. `sums` rows are `sum_stride` floats apart.
template <bool ADD, class T>
void write_panel(const float* sums, int64_t sum_stride, int64_t rows, int64_t column, const Weight& weight, T* y,
                 int64_t y_stride) {
    const int64_t columns = std::min<int64_t>(kPanel, weight.out - column);
    for (int64_t r = 0; r < rows; r++) {
        const float* from = sums + r * sum_stride;
        T* to = y + r * y_stride + column;
        if (columns == kPanel) {
            for (int c = 0; c < kPanel; c += kWidth) {
                vf value = vload(from + c);
                if (weight.bias) value = value + vload(weight.bias + column + c);
                if constexpr (ADD) value = vload(to + c) + value;
                vstore(to + c, value);
            }
        } else {
            for (int64_t c = 0; c < columns; c++) {
                const float value = from[c] + (weight.bias ? weight.bias[column + c] : 0.0f);
                from_float(ADD ? to_float(to[c]) + value : value, to + c);
            }
        }
    }
}

// Rows that fit into registers at once: weights are read once, straight from memory, several panels at a time so that there are
// enough sums under way and enough memory is being fetched.
template <class P, int PANELS, bool ADD, class T>
void stream(const float* x, int64_t rows, const Weight& weight, T* y, int64_t y_stride, int threads) {
    const auto* panels = static_cast<const typename P::Word*>(weight.panels);
    const int64_t step = weight.in * P::kWords;
    const int64_t count = (weight.out + kPanel - 1) / kPanel;
    parallel_for(threads, (count + PANELS - 1) / PANELS, [&](int64_t group) {
        alignas(64) float sums[kMostRows * kPanel];
        const int64_t first = group * PANELS;
        if (first + PANELS <= count) {
            kernel_of<P, PANELS, true>(rows, x, panels + first * step, step, weight.in, sums, false);
            for (int p = 0; p < PANELS; p++) {
                write_panel<ADD>(sums + p * kPanel, PANELS * kPanel, rows, (first + p) * kPanel, weight, y, y_stride);
            }
        } else {
            for (int64_t panel = first; panel < count; panel++) {
                kernel_of<P, 1, true>(rows, x, panels + panel * step, step, weight.in, sums, false);
                write_panel<ADD>(sums, kPanel, rows, panel * kPanel, weight, y, y_stride);
            }
        }
    });
}

// Many rows: a part of a panel, in the first-level cache, meets all rows of a group, which stay in the second-level cache.
template <class P, bool ADD, class T>
void blocked(const float* x, const Blocks& blocks, const Weight& weight, T* y, int64_t y_stride, int threads) {
    const auto* const words = static_cast<const typename P::Word*>(weight.panels);
    const int64_t panels = (weight.out + kPanel - 1) / kPanel;
    const int64_t per_group = std::max<int64_t>(1, kRowsBytes / (weight.in * blocks.size * 4));
    const int64_t groups = (blocks.count + per_group - 1) / per_group;
    const int64_t even = (blocks.count + groups - 1) / groups;
    parallel_for(threads, groups * panels, [&](int64_t piece) {
        const int64_t group = piece / panels, panel = piece % panels;
        const int64_t begin = group * even, end = std::min(blocks.count, begin + even);
        if (begin >= end) return;
        thread_local Room room;
        float* const sums = room.floats(even * blocks.size * kPanel);
        for (int64_t first = 0; first < weight.in; first += kDepth) {
            const int64_t depth = std::min(kDepth, weight.in - first);
            const auto* const w = words + (panel * weight.in + first) * P::kWords;
            for (int64_t block = begin; block < end; block++) {
                const int64_t width = blocks.width(block);
                const float* const rows = x + blocks.first(block) * weight.in + first * width;
                float* const to = sums + (block - begin) * blocks.size * kPanel;
                if (block == begin) {
                    kernel_of<P, 1, true>(width, rows, w, 0, depth, to, first > 0);
                } else {
                    kernel_of<P, 1, false>(width, rows, w, 0, depth, to, first > 0);
                }
            }
        }
        for (int64_t block = begin; block < end; block++) {
            write_panel<ADD>(sums + (block - begin) * blocks.size * kPanel, kPanel, blocks.width(block), panel * kPanel, weight,
                        y + blocks.first(block) * y_stride, y_stride);
        }
    });
}

template <class P, bool ADD, class T>
void multiply_to(const float* x, int64_t rows, const Weight& weight, T* y, int64_t y_stride, int threads) {
    if (rows > kMostRows) {
        blocked<P, ADD>(x, Blocks(rows), weight, y, y_stride, threads);
    } else if (rows * 4 <= kMostRows) {
        stream<P, 4, ADD>(x, rows, weight, y, y_stride, threads);
    } else if (rows * 2 <= kMostRows) {
        stream<P, 2, ADD>(x, rows, weight, y, y_stride, threads);
    } else {
        stream<P, 1, ADD>(x, rows, weight, y, y_stride, threads);
    }
}

template <bool ADD, class T>
void multiply_by(const float* x, int64_t rows, const Weight& weight, T* y, int64_t y_stride, int threads) {
    if (weight.format == kBfloat16) {
        multiply_to<Narrow, ADD>(x, rows, weight, y, y_stride, threads);
    } else {
        multiply_to<Wide, ADD>(x, rows, weight, y, y_stride, threads);
    }
}

// A panel of the gate and the same one of the up projection, for one group of blocks after the other.
template <class P>
void gated_by(const float* x, int64_t rows, const Weight& gate, const Weight& up, float* packed, int threads) {
    const Blocks blocks(rows);
    const auto* const gates = static_cast<const typename P::Word*>(gate.panels);
    const auto* const ups = static_cast<const typename P::Word*>(up.panels);
    const int64_t panels = gate.out / kPanel, size = blocks.size * kPanel;
    const int64_t per_group = std::max<int64_t>(1, kRowsBytes / (gate.in * blocks.size * 4));
    const int64_t groups = (blocks.count + per_group - 1) / per_group;
    const int64_t even = (blocks.count + groups - 1) / groups;
    parallel_for(threads, groups * panels, [&](int64_t piece) {
        const int64_t group = piece / panels, panel = piece % panels;
        const int64_t begin = group * even, end = std::min(blocks.count, begin + even);
        if (begin >= end) return;
        thread_local Room room;
        // Few rows: both panels at once, for as many sums under way as there are registers.
        const bool paired = rows * 2 <= kMostRows;
        float* const gate_sums = room.floats(2 * even * size);
        float* const up_sums = gate_sums + (paired ? kPanel : even * size);
        const int64_t stride = paired ? 2 * kPanel : kPanel;
        const int64_t depth_at_once = blocks.count == 1 ? gate.in : kDepth;
        for (int64_t first = 0; first < gate.in; first += depth_at_once) {
            const int64_t depth = std::min(depth_at_once, gate.in - first);
            const int64_t at = (panel * gate.in + first) * P::kWords;
            for (int64_t block = begin; block < end; block++) {
                const int64_t width = blocks.width(block), place = (block - begin) * size;
                const float* const row = x + blocks.first(block) * gate.in + first * width;
                float* const gate_to = gate_sums + place;
                float* const up_to = up_sums + place;
                if (paired) {
                    kernel_of<P, 2, true>(width, row, gates + at, ups - gates, depth, gate_to, false);
                } else if (block == begin) {
                    kernel_of<P, 1, true>(width, row, gates + at, 0, depth, gate_to, first > 0);
                    kernel_of<P, 1, true>(width, row, ups + at, 0, depth, up_to, first > 0);
                } else {
                    kernel_of<P, 1, false>(width, row, gates + at, 0, depth, gate_to, first > 0);
                    kernel_of<P, 1, false>(width, row, ups + at, 0, depth, up_to, first > 0);
                }
            }
        }
        const float* const gate_bias = gate.bias ? gate.bias + panel * kPanel : nullptr;
        const float* const up_bias = up.bias ? up.bias + panel * kPanel : nullptr;
        for (int64_t block = begin; block < end; block++) {
            const int64_t width = blocks.width(block), place = (block - begin) * size;
            float* const to = packed + blocks.first(block) * gate.out + panel * kPanel * width;
            pack_block(width, kPanel, to, [&](int64_t r, int64_t c) {
                vf g = vload(gate_sums + place + r * stride + c), u = vload(up_sums + place + r * stride + c);
                if (gate_bias) g = g + vload(gate_bias + c);
                if (up_bias) u = u + vload(up_bias + c);
                return g / (vset(1.0f) + vexp(vzero() - g)) * u;
            });
        }
    });
}

template <class T>
void lay_out(const T* weight, int64_t out, int64_t in, T* packed, int threads) {
    parallel_for(threads, (out + kPanel - 1) / kPanel, [&](int64_t panel) {
        T* const to = packed + panel * in * kPanel;
        for (int64_t j = 0; j < kPanel; j++) {
            const int64_t column = panel * kPanel + j;
            // In bfloat16 the two halves of a word are columns kWidth apart.
            const int64_t place = sizeof(T) == 2 ? (j % kWidth) * 2 + j / kWidth : j;
            for (int64_t k = 0; k < in; k++) {
                if (column < out) {
                    to[k * kPanel + place] = weight[column * in + k];
                } else {
                    std::memset(to + k * kPanel + place, 0, sizeof(T));
                }
            }
        }
    });
}

}  // namespace

template <class T>
void pack_rows(const T* x, int64_t stride, int64_t rows, int64_t in, float* packed, int threads) {
    const Blocks blocks(rows);
    parallel_for(rows * in < kFewValues ? 1 : threads, blocks.count, [&](int64_t block) {
        const int64_t first = blocks.first(block), width = blocks.width(block), whole = in / kWidth * kWidth;
        const T* const from = x + first * stride;
        float* const to = packed + first * in;
        pack_block(width, whole, to, [&](int64_t r, int64_t k) { return vload(from + r * stride + k); });
        for (int64_t k = whole; k < in; k++) {
            for (int64_t r = 0; r < width; r++) to[k * width + r] = to_float(from[r * stride + k]);
        }
    });
}

template void pack_rows<float>(const float*, int64_t, int64_t, int64_t, float*, int);
template void pack_rows<bf16>(const bf16*, int64_t, int64_t, int64_t, float*, int);

void multiply(const float* packed, int64_t rows, const Weight& weight, void* y, int32_t y_format, int64_t y_stride,
              int threads) {
    if (rows <= 0) return;
    if (y_format == kBfloat16) {
        multiply_by<false>(packed, rows, weight, static_cast<bf16*>(y), y_stride, threads);
    } else {
        multiply_by<false>(packed, rows, weight, static_cast<float*>(y), y_stride, threads);
    }
}

void multiply_add(const float* packed, int64_t rows, const Weight& weight, float* y, int64_t y_stride, int threads) {
    if (rows > 0) multiply_by<true>(packed, rows, weight, y, y_stride, threads);
}

void gated(const float* packed, int64_t rows, const Weight& gate, const Weight& up, float* result, int threads) {
    if (gate.format == kBfloat16) {
        gated_by<Narrow>(packed, rows, gate, up, result, threads);
    } else {
        gated_by<Wide>(packed, rows, gate, up, result, threads);
    }
}

}  // namespace pie

// Bytes of a laid-out weight matrix [out, in].
PIE_API int64_t pie_linear_bytes(int64_t out, int64_t in, int32_t format) {
    const int64_t panels = (out + pie::kPanel - 1) / pie::kPanel;
    return panels * pie::kPanel * in * (format == pie::kBfloat16 ? 2 : 4);
}

// `weight` [out, in], contiguous, both in `format`.
PIE_API void pie_linear_lay_out(const void* weight, int64_t out, int64_t in, int32_t format, void* packed, int32_t threads) {
    if (format == pie::kBfloat16) {
        pie::lay_out(static_cast<const pie::bf16*>(weight), out, in, static_cast<pie::bf16*>(packed), threads);
    } else {
        pie::lay_out(static_cast<const float*>(weight), out, in, static_cast<float*>(packed), threads);
    }
}

// x [rows, in] and y [rows, out] in `format`, row strides in elements.
PIE_API void pie_linear(const pie::Weight* weight, const void* x, int64_t x_stride, int64_t rows, void* y, int64_t y_stride,
                        int32_t format, int32_t threads) {
    if (rows <= 0) return;
    thread_local pie::Room room;
    float* const packed = room.floats(rows * weight->in);
    if (format == pie::kBfloat16) {
        pie::pack_rows(static_cast<const pie::bf16*>(x), x_stride, rows, weight->in, packed, threads);
    } else {
        pie::pack_rows(static_cast<const float*>(x), x_stride, rows, weight->in, packed, threads);
    }
    pie::multiply(packed, rows, *weight, y, format, y_stride, threads);
}
