// Draws tokens from rows of logits without sorting: equal, token by token, to `torch_sampler.py`, which says what is computed.
//
// A row: the largest logit; the sum of all weights, whole numbers in floats that hold them exactly; a cut for every
// truncation; the draw over what is left, in order of ids. Weights are computed again rather than kept, as a row of logits
// stays in the cache and two such would not. A cut is found among candidates: tokens that a bound cannot rule out, a few
// hundred or thousand. Halving the range of their keys leads to the last one kept; every halving discards one side. Logits
// that are to be edited are copied first.
#include "pool.h"
#include "simd.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

namespace pie {
namespace {

constexpr int kScaleBits = 40;
constexpr int kLevelBits = 16;
constexpr int kHalfBits = 20;
constexpr float kLowest = -64.0f;
constexpr uint32_t kFar = 64u << kLevelBits;
constexpr int64_t kBlock = 1024;    // tokens with one sum, when nothing is cut
constexpr float kHeavy = -12.0f;    // most nuclei have no token of a lower level
constexpr int64_t kFew = 24;        // candidates that are sorted
constexpr int64_t kNotNumbers = -1;
constexpr int64_t kNothing = -2;
const float kInfinity = HUGE_VALF;

// Product that is rounded: the compiler may not join it with a sum.
inline vf vmul(vf a, vf b) {
    vf product = a * b;
    asm("" : "+v"(product));
    return product;
}
inline float rounded(float x) {
    asm("" : "+v"(x));
    return x;
}

#if defined(PIE_AVX512BF16)

struct Sum {  // of whole numbers in floats, each below 2^51
    __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    void add(vf x) {
        low = _mm512_add_epi64(low, _mm512_cvtps_epi64(_mm512_castps512_ps256(x)));
        high = _mm512_add_epi64(high, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(x, 1)));
    }
    // Of `some` lanes to the other sum, too.
    void add_both(vf x, __mmask16 some, Sum& other) {
        const __m512i first = _mm512_cvtps_epi64(_mm512_castps512_ps256(x));
        const __m512i second = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(x, 1));
        low = _mm512_add_epi64(low, first);
        high = _mm512_add_epi64(high, second);
        other.low = _mm512_mask_add_epi64(other.low, static_cast<__mmask8>(some), other.low, first);
        other.high = _mm512_mask_add_epi64(other.high, static_cast<__mmask8>(some >> 8), other.high, second);
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
inline Lanes unordered(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
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
inline vf power_of_two(vi exponent) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(exponent, iset(127)), 23)); }
// The chosen lanes, packed, to p; whole vectors are written.
inline void pack(void* p, Lanes lanes, vi x) { _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(lanes, x)); }

#else

struct Sum {
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
    static __m256i whole(__m128 x) {  // by the bits of a double: 2^52 + 2^51 + x
        const __m256d magic = _mm256_set1_pd(6755399441055744.0);
        const __m256d sum = _mm256_add_pd(_mm256_cvtps_pd(x), magic);
        return _mm256_sub_epi64(_mm256_castpd_si256(sum), _mm256_castpd_si256(magic));
    }
    void add(vf x) {
        low = _mm256_add_epi64(low, whole(_mm256_castps256_ps128(x)));
        high = _mm256_add_epi64(high, whole(_mm256_extractf128_ps(x, 1)));
    }
    void add_both(vf x, uint32_t some, Sum& other);
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
inline Lanes unordered(vf a) { return lanes_of(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
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
inline void Sum::add_both(vf x, uint32_t some, Sum& other) {
    add(x);
    other.add(only(some, x));
}
inline vf power_of_two(vi exponent) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, iset(127)), 23)); }
inline void pack(void* p, Lanes lanes, vi x) {
    uint32_t all[8];
    istore(all, x);
    for (auto* out = static_cast<uint32_t*>(p); lanes; lanes &= lanes - 1) *out++ = all[__builtin_ctz(lanes)];
}

#endif

// The order in which candidates are kept, and what of them is counted.
enum By { kNumber, kWeight, kSurprisal };
constexpr int32_t kLastId = 0x7fffffff;

inline uint32_t key_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

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

// A thread's own arrays, as long as a vocabulary, padded to whole vectors and one more.
struct Scratch {
    int64_t size = 0;
    std::unique_ptr<float[]> logits, kept, work;
    std::unique_ptr<int32_t[]> ids, work_ids, counts;
    std::unique_ptr<uint32_t[]> keys, work_keys;
    std::unique_ptr<int64_t[]> sums;

    void fit(int64_t vocab) {
        const int64_t wanted = (vocab + 3 * kBlock - 1) / kBlock * kBlock;
        if (wanted <= size) return;
        for (auto* floats : {&logits, &kept, &work}) floats->reset(new float[wanted]);
        for (auto* ints : {&ids, &work_ids}) ints->reset(new int32_t[wanted]);
        for (auto* words : {&keys, &work_keys}) words->reset(new uint32_t[wanted]);
        counts.reset(new int32_t[wanted]());
        sums.reset(new int64_t[wanted / kBlock + 1]);
        size = wanted;
    }
};

thread_local Scratch scratch;

// `counts` are zeros, and again afterwards.
void penalise(float* x, const Draw& d, int32_t* counts) {
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
void edit(float* x, int64_t vocab, const Draw& d, int32_t* counts) {
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

// One row, `vocab` logits.
template <class T>
class Row {
   public:
    Row(Scratch& s, const T* logits, int64_t vocab) : s_(s), x_(logits), vocab_(vocab), whole_(vocab / kWidth * kWidth) {
        float rest[kWidth];
        for (int64_t i = 0; i < kWidth; i++) rest[i] = whole_ + i < vocab ? to_float(logits[whole_ + i]) : -kInfinity;
        rest_ = vload(rest);
    }

    // False if the largest logit is no finite number.
    bool find_largest() {
        vf most = rest_;
        Lanes none = unordered(rest_);
        for (int64_t i = 0; i < whole_; i += kWidth) {
            const vf value = vload(x_ + i);
            none |= unordered(value);
            most = vmax(most, value);
        }
        largest_ = vmaximum(most);
        return !none && std::isfinite(largest_);
    }

    int64_t draw(const Draw& d) { return d.factor == 0.0f ? first_largest() : sample(d); }

   private:
    vf at(int64_t i) const { return i < whole_ ? vload(x_ + i) : rest_; }

    int64_t first_largest() const {
        int64_t i = 0;
        for (;; i += kWidth) {
            if (const Lanes found = equal(at(i), vset(largest_))) return i + first_of(found);
        }
    }

    // Binary logarithms of probabilities over the largest one.
    vf level(vf x) const { return vmax(vmul(x - vset(largest_), vset(factor_)), vset(kLowest)); }

    static vf weight(vf level) {
        const vf whole = vround(level);
        const vf part = level - whole;
        vf power = vset(1.535336188319500e-4f);
        power = vmul(power, part) + vset(1.339887440266574e-3f);
        power = vmul(power, part) + vset(9.618437357674640e-3f);
        power = vmul(power, part) + vset(5.550332471162809e-2f);
        power = vmul(power, part) + vset(2.402264791363012e-1f);
        power = vmul(power, part) + vset(6.931472028550421e-1f);
        power = vmul(power, part) + vset(1.0f);
        const vf scaled = whole + vset(static_cast<float>(kScaleBits));
        return vround(power * power_of_two(whole_of(scaled)));
    }

    int64_t sample(const Draw& d) {
        factor_ = d.factor;
        const bool limited = d.top_k > 0 && d.top_k < vocab_;
        const bool nucleus = d.top_p < 1.0;
        Sum heavy;
        total_ = 0;
        for (int64_t block = 0; block < vocab_; block += kBlock) {
            Sum sum;
            for (int64_t i = block, end = std::min(block + kBlock, vocab_); i < end; i += kWidth) {
                const vf own = level(at(i)), value = weight(own);
                if (nucleus) {
                    sum.add_both(value, greater_or_equal(own, vset(kHeavy)), heavy);
                } else {
                    sum.add(value);
                }
            }
            total_ += s_.sums[block / kBlock] = sum.total();
        }
        if (limited) {
            collect(bound_of_rank(d.top_k));
            keep_first<kNumber>(d.top_k);
        }
        if (nucleus) {
            const int64_t goal = goal_of(d.top_p);
            // Tokens lighter than this have less than what the nucleus may leave out, all of them together.
            if (!limited) collect(heavy.total() >= goal ? weight_at(kHeavy) : (total_ - goal) / vocab_);
            keep_first<kWeight>(goal);
        } else if (!limited) {
            if (d.least == 0 && d.typical_p >= 1.0) return pick_from_all(d.draw);
            collect(d.least);
        }
        if (d.least > 0) keep(weight_keys(), key_of(at_least_float(d.least)), kLastId);
        if (d.typical_p < 1.0) {
            const int64_t goal = goal_of(d.typical_p);
            order_by_surprisal();
            keep_first<kSurprisal>(goal);
        }
        return pick(d.draw);
    }

    int64_t goal_of(double share) const {
        const auto goal = static_cast<int64_t>(std::ceil(share * static_cast<double>(total_)));
        return std::min(total_, std::max<int64_t>(1, goal));
    }

    // The smallest float that is not below.
    static float at_least_float(int64_t weight) {
        const auto nearest = static_cast<float>(weight);
        return static_cast<int64_t>(nearest) < weight ? std::nextafter(nearest, kInfinity) : nearest;
    }

    // A little below what the tokens of this level weigh, rounding considered.
    static int64_t weight_at(float level) {
        return static_cast<int64_t>(std::exp2(static_cast<double>(level) + kScaleBits) * (1.0 - 1e-5));
    }

    // A weight that at least `rank` tokens have: of as many groups of tokens, all have one.
    int64_t bound_of_rank(int64_t rank) {
        float* most = s_.work.get();
        int64_t groups = 0;
        for (int64_t block = 0; block < vocab_; block += kBlock, groups += kWidth) {
            vf value = at(block);
            for (int64_t i = block + kWidth, end = std::min(block + kBlock, vocab_); i < end; i += kWidth) {
                value = vmax(value, at(i));
            }
            vstore(most + groups, value);
        }
        if (rank > groups) return 0;
        std::nth_element(most, most + rank - 1, most + groups, std::greater<float>());
        float levels[kWidth];
        vstore(levels, level(vset(most[rank - 1])));
        return weight_at(levels[0]);
    }

    // The candidates: all tokens of weight `bound` or more, and more than 0, in order of ids.
    void collect(int64_t bound) {
        const int64_t needed = std::max<int64_t>(1, bound);
        const vf least = vset(at_least_float(needed));
        // Levels below this round to less, however the rounding went.
        const vf lowest = vset(static_cast<float>(std::log2(static_cast<double>(needed) - 0.5) - kScaleBits - 1e-3));
        count_ = 0;
        for (int64_t i = 0; i < vocab_; i += kWidth) {
            const vf own = level(at(i));
            const Lanes chosen = greater_or_equal(own, lowest);
            pack(s_.kept.get() + count_, chosen, bits_of(own));
            pack(s_.ids.get() + count_, chosen, ifrom(i));
            count_ += count_of(chosen);
        }
        const int64_t likely = count_;
        count_ = 0;
        for (int64_t i = 0; i < likely; i += kWidth) {
            const vf value = weight(only(first_lanes(likely - i), vload(s_.kept.get() + i)));
            const Lanes chosen = Lanes(greater_or_equal(value, least) & first_lanes(likely - i));
            const vi ids = iload(s_.ids.get() + i);
            pack(s_.kept.get() + count_, chosen, bits_of(value));
            pack(s_.ids.get() + count_, chosen, ids);
            count_ += count_of(chosen);
        }
    }

    // Weights are positive floats, so their bits are in the same order.
    const uint32_t* weight_keys() const { return reinterpret_cast<const uint32_t*>(s_.kept.get()); }

    void order_by_surprisal() {
        uint32_t* depths = s_.keys.get();
        float* x = s_.work.get();
        for (int64_t i = 0; i < count_; i++) x[i] = to_float(x_[s_.ids[i]]);
        for (int64_t i = 0; i < count_; i += kWidth) {
            const vf own = only(first_lanes(count_ - i), vload(x + i));
            istore(depths + i, whole_of(level(own) * vset(-float(1 << kLevelBits))));
        }
        Products products;
        for (int64_t i = 0; i < count_; i += kWidth) {
            const Lanes lanes = first_lanes(count_ - i);
            products.add(only(lanes, vload(s_.kept.get() + i)), iload(depths + i));
        }
        const auto mean = static_cast<int32_t>(products.total() / total_);
        for (int64_t i = 0; i < count_; i++) depths[i] = kFar - std::abs(static_cast<int32_t>(depths[i]) - mean);
    }

    // Keep the fewest candidates of largest keys, lower ids first, that together have `goal`: in number for kNumber, else in
    // weight. Keys are the weights, or for kSurprisal those that `order_by_surprisal` has made.
    template <By kBy>
    void keep_first(int64_t goal) {
        const uint32_t* all = kBy == kSurprisal ? s_.keys.get() : weight_keys();
        uint32_t* keys = s_.work_keys.get();
        int32_t* ids = s_.work_ids.get();
        float* weights = kBy == kSurprisal ? s_.work.get() : reinterpret_cast<float*>(keys);
        std::memcpy(keys, all, count_ * sizeof(uint32_t));
        std::memcpy(ids, s_.ids.get(), count_ * sizeof(int32_t));
        if constexpr (kBy == kSurprisal) std::memcpy(weights, s_.kept.get(), count_ * sizeof(float));
        uint32_t least = ~0u, most = 0;
        for (int64_t i = 0; i < count_; i++) {
            least = std::min(least, keys[i]);
            most = std::max(most, keys[i]);
        }
        int64_t left = count_, before = 0;
        while (left > kFew && least < most) {
            const uint32_t middle = least + (most - least) / 2 + 1;
            int64_t upper = 0;
            Sum sum;
            for (int64_t i = 0; i < left; i += kWidth) {
                const Lanes above = Lanes(at_least(iload(keys + i), iset(middle)) & first_lanes(left - i));
                if constexpr (kBy == kNumber) {
                    upper += count_of(above);
                } else {
                    sum.add(only(above, vload(weights + i)));
                }
            }
            if constexpr (kBy != kNumber) upper = sum.total();
            const bool up = before + upper >= goal;
            int64_t taken = 0;
            for (int64_t i = 0; i < left; i += kWidth) {
                const vi key = iload(keys + i);
                const Lanes above = at_least(key, iset(middle));
                const Lanes chosen = Lanes((up ? above : ~above) & first_lanes(left - i));
                if (!chosen) continue;
                const vi id = iload(ids + i), weight = iload(weights + i);
                pack(keys + taken, chosen, key);
                pack(ids + taken, chosen, id);
                if constexpr (kBy == kSurprisal) pack(weights + taken, chosen, weight);
                taken += count_of(chosen);
            }
            left = taken;
            if (up) {
                least = middle;
            } else {
                most = middle - 1;
                before += upper;
            }
        }
        // All have the same key and stand in order of ids, or they are few.
        int32_t order[kFew];
        const bool few = left <= kFew;
        if (few) {
            for (int32_t i = 0; i < left; i++) order[i] = i;
            std::sort(order, order + left, [&](int32_t a, int32_t b) {
                return keys[a] != keys[b] ? keys[a] > keys[b] : ids[a] < ids[b];
            });
        }
        for (int64_t i = 0; i < left; i++) {
            const int64_t at = few ? order[i] : i;
            before += kBy == kNumber ? 1 : static_cast<int64_t>(kBy == kSurprisal ? weights[at] : float_of(keys[at]));
            if (before >= goal) return keep(all, keys[at], ids[at]);
        }
        keep(all, 0, kLastId);
    }

    // Candidates with a key above `key`, or this one and an id up to `id`, remain, in their order.
    void keep(const uint32_t* keys, uint32_t key, int32_t id) {
        float* weights = s_.kept.get();
        int32_t* ids = s_.ids.get();
        int64_t taken = 0;
        Sum total;
        for (int64_t i = 0; i < count_; i += kWidth) {
            const vi mine = iload(keys + i), own = iload(ids + i);
            const Lanes reaches = at_least(mine, iset(key)), equals_or_less = at_least(iset(key), mine);
            const Lanes early = at_least(iset(static_cast<uint32_t>(id)), own);
            const Lanes chosen = Lanes(reaches & (~equals_or_less | early) & first_lanes(count_ - i));
            if (!chosen) continue;
            const vf weight = vload(weights + i);
            total.add(only(chosen, weight));
            pack(weights + taken, chosen, bits_of(weight));
            pack(ids + taken, chosen, own);
            taken += count_of(chosen);
        }
        count_ = taken;
        total_ = total.total();
    }

    int64_t target(double draw) const {
        return std::min(total_ - 1, static_cast<int64_t>(draw * static_cast<double>(total_)));
    }

    int64_t pick(double draw) const {
        const int64_t wanted = target(draw);
        int64_t upto = 0, i = 0;
        while ((upto += static_cast<int64_t>(s_.kept[i])) <= wanted) i++;
        return s_.ids[i];
    }

    int64_t pick_from_all(double draw) const {
        const int64_t wanted = target(draw);
        int64_t upto = 0, block = 0;
        while (upto + s_.sums[block] <= wanted) upto += s_.sums[block++];
        float weights[kBlock];
        const int64_t first = block * kBlock, end = std::min(first + kBlock, vocab_);
        for (int64_t i = first; i < end; i += kWidth) vstore(weights + i - first, weight(level(at(i))));
        int64_t i = 0;
        while ((upto += static_cast<int64_t>(weights[i])) <= wanted) i++;
        return first + i;
    }

    Scratch& s_;
    const T* x_;
    const int64_t vocab_, whole_;  // of which whole vectors
    vf rest_;                      // the last logits, padded
    float largest_ = 0.0f, factor_ = 0.0f;
    int64_t count_ = 0;  // of candidates
    int64_t total_ = 0;  // weight of what is left
};

template <class T>
int64_t draw_one(Scratch& s, const T* logits, int64_t vocab, const Draw& d) {
    Row<T> row(s, logits, vocab);
    if (!row.find_largest()) return kNotNumbers;
    if (!d.mask && !d.biased && !d.forbids && !d.tokens) return row.draw(d);
    float* x = s.logits.get();
    for (int64_t i = 0; i < vocab; i++) x[i] = to_float(logits[i]);
    edit(x, vocab, d, s.counts.get());
    Row<float> edited(s, x, vocab);
    return edited.find_largest() ? edited.draw(d) : kNothing;
}

template <class T>
void sample(const T* logits, int64_t stride, int64_t vocab, const Draw* draws, int64_t count, int threads, int64_t* tokens) {
    parallel_for(threads, count, [&](int64_t i) {
        scratch.fit(vocab);
        tokens[i] = draw_one(scratch, logits + draws[i].row * stride, vocab, draws[i]);
    });
}

}  // namespace
}  // namespace pie

// tokens[i] becomes what draws[i] wants of its row of `logits`, rows `stride` apart: a token, -1 if the row's logits are no
// numbers, -2 if nothing may be drawn.
PIE_API void pie_sample_f32(const float* logits, int64_t stride, int64_t vocab, const pie::Draw* draws, int64_t count,
                            int threads, int64_t* tokens) {
    pie::sample(logits, stride, vocab, draws, count, threads, tokens);
}
PIE_API void pie_sample_bf16(const pie::bf16* logits, int64_t stride, int64_t vocab, const pie::Draw* draws, int64_t count,
                             int threads, int64_t* tokens) {
    pie::sample(logits, stride, vocab, draws, count, threads, tokens);
}
