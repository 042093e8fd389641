// Square transposes and bit tricks on vectors, for kernels that turn rows into columns.
#pragma once

#include "simd.h"

// Register tiles only stay in registers when everything around them is inlined.
#define PIE_INLINE inline __attribute__((always_inline))

namespace pie {

// Keeps a vector in a register: compilers like to read it from memory again for every use.
PIE_INLINE vf held(vf x) {
    asm("" : "+v"(x));
    return x;
}

#if defined(PIE_AVX512BF16)

PIE_INLINE vi load_bits(const void* p) { return _mm512_loadu_si512(p); }
PIE_INLINE vf as_floats(vi x) { return _mm512_castsi512_ps(x); }
// Of pairs of bfloat16, the first and the second ones as floats.
PIE_INLINE vf low_halves(vi x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
PIE_INLINE vf high_halves(vi x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// The inverse, rounding.
PIE_INLINE void store_pairs(bf16* p, vf even, vf odd) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    _mm512_storeu_si512(p, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}
// Lane i is that of `x` where bit i is set, else that of `y`.
PIE_INLINE vf pick(uint32_t bits, vf x, vf y) { return _mm512_mask_mov_ps(y, static_cast<__mmask16>(bits), x); }

// rows[i] lane j and rows[j] lane i change places.
PIE_INLINE void transpose(vi* rows) {
    vi t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

#else

PIE_INLINE vi load_bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
PIE_INLINE vf as_floats(vi x) { return _mm256_castsi256_ps(x); }
PIE_INLINE vf low_halves(vi x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
PIE_INLINE vf high_halves(vi x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
PIE_INLINE void store_pairs(bf16* p, vf even, vf odd) {
    alignas(16) bf16 low[8], high[8];
    vstore(low, even);
    vstore(high, odd);
    const __m128i a = _mm_load_si128(reinterpret_cast<const __m128i*>(low));
    const __m128i b = _mm_load_si128(reinterpret_cast<const __m128i*>(high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi16(a, b));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm_unpackhi_epi16(a, b));
}
PIE_INLINE vf pick(uint32_t bits, vf x, vf y) {
    const __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lanes);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lanes)));
}

PIE_INLINE void transpose(vi* rows) {
    vi t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        rows[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x20);
        t[i + 4] = _mm256_permute2x128_si256(rows[i], rows[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) rows[i] = t[i];
}

#endif

// The even elements and the odd ones of two vectors' worth of bfloat16.
PIE_INLINE void load_pairs(const bf16* p, vf& even, vf& odd) {
    const vi raw = load_bits(p);
    even = low_halves(raw);
    odd = high_halves(raw);
}

}  // namespace pie
