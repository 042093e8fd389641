// What the sampler needs of vectors beyond `simd.h`: products that stay products, exact sums, lanes and packing of the chosen.
#pragma once

#include "simd.h"

#include <array>

namespace pie {

constexpr int kHalfBits = 20;

// Product that is rounded: the compiler may not join it with a sum.
inline vf vmul(vf a, vf b) {
    vf product = a * b;
    asm("" : "+v"(product));
    return product;
}

#if defined(PIE_AVX512BF16)

struct Sum {  // of floats below 2^51, each rounded to a whole number
    __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    void add(vf x) {
        low = _mm512_add_epi64(low, _mm512_cvtps_epi64(_mm512_castps512_ps256(x)));
        high = _mm512_add_epi64(high, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(x, 1)));
    }
    int64_t total() const { return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high)); }
};

struct Products {  // of whole numbers: floats up to 2^40 and integers up to 2^22
    __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
    void half(__m256 x, __m256i y) {
        const __m512i whole = _mm512_cvtps_epi64(x), other = _mm512_cvtepu32_epi64(y);
        const __m512i mask = _mm512_set1_epi64((1 << kHalfBits) - 1);
        high = _mm512_add_epi64(high, _mm512_mul_epu32(_mm512_srli_epi64(whole, kHalfBits), other));
        low = _mm512_add_epi64(low, _mm512_mul_epu32(_mm512_and_si512(whole, mask), other));
    }
    void add(vf x, vi y) {
        half(_mm512_castps512_ps256(x), _mm512_castsi512_si256(y));
        half(_mm512_extractf32x8_ps(x, 1), _mm512_extracti32x8_epi32(y, 1));
    }
    __int128 total() const {
        return (static_cast<__int128>(_mm512_reduce_add_epi64(high)) << kHalfBits) + _mm512_reduce_add_epi64(low);
    }
};

using Lanes = __mmask16;
inline Lanes at_least(vi a, vi b) { return _mm512_cmpge_epu32_mask(a, b); }
inline Lanes equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Lanes unordered(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
inline Lanes greater_or_equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline int first_of(Lanes lanes) { return __builtin_ctz(lanes); }
inline int count_of(Lanes lanes) { return __builtin_popcount(lanes); }
inline Lanes first_lanes(int64_t count) { return count >= kWidth ? Lanes(0xffff) : Lanes((1u << count) - 1); }
inline vf only(Lanes lanes, vf x) { return _mm512_maskz_mov_ps(lanes, x); }
inline vi iset(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
inline vi iload(const void* p) { return _mm512_loadu_si512(p); }
inline void istore(void* p, vi x) { _mm512_storeu_si512(p, x); }
inline vi ifrom(int64_t first) {
    return _mm512_add_epi32(iset(static_cast<uint32_t>(first)),
                            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline vi bits_of(vf x) { return _mm512_castps_si512(x); }
inline vi whole_of(vf x) { return _mm512_cvtps_epi32(x); }
// The chosen lanes, packed, to p; whole vectors are written.
inline void pack(void* p, Lanes lanes, vi x) { _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(lanes, x)); }

#else

struct Sum {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
    static __m256i whole(__m128 x) {  // by the bits of a double, which is rounded: 2^52 + 2^51 + x
        const __m256d magic = _mm256_set1_pd(6755399441055744.0);
        const __m256d sum = _mm256_add_pd(_mm256_cvtps_pd(x), magic);
        return _mm256_sub_epi64(_mm256_castpd_si256(sum), _mm256_castpd_si256(magic));
    }
    void add(vf x) {
        low = _mm256_add_epi64(low, whole(_mm256_castps256_ps128(x)));
        high = _mm256_add_epi64(high, whole(_mm256_extractf128_ps(x, 1)));
    }
    int64_t total() const {
        int64_t part[4];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(part), _mm256_add_epi64(low, high));
        return part[0] + part[1] + part[2] + part[3];
    }
};

struct Products {
    __m256i high = _mm256_setzero_si256(), low = _mm256_setzero_si256();
    void half(__m128 x, __m128i y) {
        const __m256i whole = Sum::whole(x), other = _mm256_cvtepu32_epi64(y);
        const __m256i mask = _mm256_set1_epi64x((1 << kHalfBits) - 1);
        high = _mm256_add_epi64(high, _mm256_mul_epu32(_mm256_srli_epi64(whole, kHalfBits), other));
        low = _mm256_add_epi64(low, _mm256_mul_epu32(_mm256_and_si256(whole, mask), other));
    }
    void add(vf x, vi y) {
        half(_mm256_castps256_ps128(x), _mm256_castsi256_si128(y));
        half(_mm256_extractf128_ps(x, 1), _mm256_extracti128_si256(y, 1));
    }
    static int64_t sum(__m256i x) {
        int64_t part[4];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(part), x);
        return part[0] + part[1] + part[2] + part[3];
    }
    __int128 total() const { return (static_cast<__int128>(sum(high)) << kHalfBits) + sum(low); }
};

using Lanes = uint32_t;
inline Lanes lanes_of(__m256 mask) { return static_cast<Lanes>(_mm256_movemask_ps(mask)); }
inline Lanes at_least(vi a, vi b) {
    return lanes_of(_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a)));
}
inline Lanes equal(vf a, vf b) { return lanes_of(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
inline Lanes unordered(vf a, vf b) { return lanes_of(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)); }
inline Lanes greater_or_equal(vf a, vf b) { return lanes_of(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
inline int first_of(Lanes lanes) { return __builtin_ctz(lanes); }
inline int count_of(Lanes lanes) { return __builtin_popcount(lanes); }
inline Lanes first_lanes(int64_t count) { return count >= kWidth ? 0xffu : (1u << count) - 1; }
inline vi iset(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
inline vf only(Lanes lanes, vf x) {
    const vi bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(iset(lanes), bit), bit)));
}
inline vi iload(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void istore(void* p, vi x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
inline vi ifrom(int64_t first) {
    return _mm256_add_epi32(iset(static_cast<uint32_t>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline vi bits_of(vf x) { return _mm256_castps_si256(x); }
inline vi whole_of(vf x) { return _mm256_cvtps_epi32(x); }
// For every choice of lanes their numbers, in order.
constexpr auto kChosen = [] {
    std::array<std::array<uint8_t, 8>, 256> numbers{};
    for (int lanes = 0; lanes < 256; lanes++) {
        for (int lane = 0, at = 0; lane < 8; lane++) {
            if (lanes >> lane & 1) numbers[lanes][at++] = static_cast<uint8_t>(lane);
        }
    }
    return numbers;
}();
inline void pack(void* p, Lanes lanes, vi x) {
    const __m128i numbers = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kChosen[lanes].data()));
    istore(p, _mm256_permutevar8x32_epi32(x, _mm256_cvtepu8_epi32(numbers)));
}

#endif

}  // namespace pie
