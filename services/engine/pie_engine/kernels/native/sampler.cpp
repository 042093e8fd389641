// Draws tokens from rows of logits without sorting: equal, token by token, to `torch_sampler.py`, which says what is computed.
//
// A row: the largest logit; the sum of all weights, whole numbers in floats that hold them exactly; a cut for every
// truncation; the draw over what is left, in order of ids. Weights are computed again rather than kept, as a row of logits
// stays in the cache and two such would not. A cut is found among candidates: tokens that a bound cannot rule out, or that a
// sample of the row takes for those and the exact sum of their weights confirms. Halving the range of their keys leads to
// the last one kept; every halving discards one side. Logits that are to be edited are copied first.
#include "pool.h"
#include "sampler_edits.h"
#include "sampler_lanes.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

namespace pie {
namespace {

constexpr int kScaleBits = 40;
constexpr int kLevelBits = 16;
constexpr float kLowest = -64.0f;
constexpr uint32_t kFar = 64u << kLevelBits;
constexpr int64_t kBlock = 1024;    // tokens with one sum, when nothing is cut
constexpr int64_t kSampled = 1024;  // tokens that tell where a nucleus is likely to end
constexpr double kSlack = 0.25;     // by which their light ones may err
constexpr int kBucketShift = 20;    // weights with the same bits from here on are counted together: eight to a power of two
constexpr int kTogether = 8;        // vectors that are weighed together
constexpr double kDoubt = 0.15;     // by which depths may be less normal than is thought, and at least so far
constexpr double kLeastReach = 1 << (kLevelBits - 2);
constexpr int64_t kFew = 24;        // candidates that are sorted
constexpr int64_t kAhead = 4096;    // bytes that are fetched early, as the processor by itself stops at the end of a page
constexpr int64_t kNotNumbers = -1;
constexpr int64_t kNothing = -2;

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
        constexpr int64_t kStep = 4 * kWidth;  // as one maximum waits for the one before
        vf most[4] = {rest_, rest_, rest_, rest_};
        Lanes none = unordered(rest_, rest_);
        int64_t i = 0;
        for (; i + kStep <= whole_; i += kStep) {
            for (int64_t ahead = 0; ahead < kStep * int64_t(sizeof(T)); ahead += 64) {
                __builtin_prefetch(reinterpret_cast<const char*>(x_ + i) + kAhead + ahead);
            }
            vf value[4];
            for (int j = 0; j < 4; j++) value[j] = vload(x_ + i + j * kWidth);
            none |= unordered(value[0], value[1]) | unordered(value[2], value[3]);
            for (int j = 0; j < 4; j++) most[j] = vmax(most[j], value[j]);
        }
        for (; i < whole_; i += kWidth) {
            const vf value = vload(x_ + i);
            none |= unordered(value, value);
            most[0] = vmax(most[0], value);
        }
        largest_ = vmaximum(vmax(vmax(most[0], most[1]), vmax(most[2], most[3])));
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

    // Levels become what their tokens weigh, not yet rounded. That the coefficients are 2^40 times the twin's changes no
    // rounding. Several vectors take every step together, as a step waits for the one before.
    template <int kCount>
    static void weigh(vf* x) {
        constexpr float kScale = 1ll << kScaleBits;
        constexpr float kPolynomial[] = {1.339887440266574e-3f, 9.618437357674640e-3f, 5.550332471162809e-2f,
                                         2.402264791363012e-1f, 6.931472028550421e-1f, 1.0f};
        vf whole[kCount], power[kCount];
        for (int j = 0; j < kCount; j++) whole[j] = vround(x[j]);
        for (int j = 0; j < kCount; j++) x[j] -= whole[j];
        for (int j = 0; j < kCount; j++) power[j] = vset(kScale * 1.535336188319500e-4f);
        for (const float coefficient : kPolynomial) {
            for (int j = 0; j < kCount; j++) power[j] = vmul(power[j], x[j]);
            for (int j = 0; j < kCount; j++) power[j] += vset(kScale * coefficient);
        }
        for (int j = 0; j < kCount; j++) x[j] = vscale(power[j], whole[j]);
    }

    static vf weight(vf level) {
        weigh<1>(&level);
        return vround(level);
    }

    int64_t sample(const Draw& d) {
        factor_ = d.factor;
        const bool limited = d.top_k > 0 && d.top_k < vocab_;
        const bool nucleus = d.top_p < 1.0;
        if (d.typical_p < 1.0 && !limited && !nucleus && d.least == 0) {
            collect_typical(d.typical_p, weigh_all<true>());
            return pick(d.draw);
        }
        weigh_all<false>();
        if (limited) {
            collect(bound_of_rank(d.top_k));
            keep_first<kNumber>(d.top_k);
        }
        if (nucleus) {
            const int64_t goal = goal_of(d.top_p);
            keep_first<kWeight>(goal, limited ? 0 : collect_nucleus(goal));
        } else if (!limited) {
            if (d.least == 0 && d.typical_p >= 1.0) return pick_from_all(d.draw);
            collect(d.least);
        }
        if (d.least > 0) keep(weight_keys(), key_of(at_least_float(d.least)), kLastId);
        if (d.typical_p < 1.0) {
            const int64_t goal = goal_of(d.typical_p);
            order_by_surprisal(look_at_depths());
            keep_first<kSurprisal>(goal);
        }
        return pick(d.draw);
    }

    // Depths are levels below the largest, in whole numbers.
    static vi depth(vf level) { return whole_of(level * vset(-float(1 << kLevelBits))); }

    // Where the weight of all tokens lies: its mean depth, and about how far it spreads.
    struct Depths {
        int32_t mean = 0;
        double spread = 0.0;
    };

    template <bool kDepths>
    Depths weigh_all() {
        total_ = 0;
        Products products;
        vf squares = vset(0.0f);
        const auto look = [&](vf level, vf weight) {
            products.add(weight, depth(level));
            squares += weight * level * level;
        };
        for (int64_t block = 0; block < vocab_; block += kBlock) {
            Sum sum;
            const int64_t end = std::min(block + kBlock, whole_);
            int64_t i = block;
            for (; i + kTogether * kWidth <= end; i += kTogether * kWidth) {
                vf x[kTogether];
                for (int j = 0; j < kTogether; j++) x[j] = level(vload(x_ + i + j * kWidth));
                vf own[kTogether];
                if constexpr (kDepths) std::copy(x, x + kTogether, own);
                weigh<kTogether>(x);
                for (int j = 0; j < kTogether; j++) sum.add(x[j]);
                if constexpr (kDepths) {
                    for (int j = 0; j < kTogether; j++) look(own[j], x[j]);
                }
            }
            const auto one = [&](vf x) {
                const vf own = level(x), mine = weight(own);
                sum.add(mine);
                if constexpr (kDepths) look(own, mine);
            };
            for (; i < end; i += kWidth) one(vload(x_ + i));
            if (block + kBlock >= vocab_ && whole_ < vocab_) one(rest_);
            total_ += s_.sums[block / kBlock] = sum.total();
        }
        if constexpr (!kDepths) return {};
        const auto mean = static_cast<int32_t>(products.total() / total_);
        const double bits = static_cast<double>(mean) / (1 << kLevelBits);
        float square[kWidth];
        vstore(square, squares);
        double sum = 0.0;
        for (const float each : square) sum += each;
        return {mean, std::sqrt(std::max(0.0, sum / static_cast<double>(total_) - bits * bits))};
    }

    // What typical sampling keeps of all tokens. The last one kept is about as far from the mean as it were if depths were
    // distributed normally; that those collected include it is checked, as what is less far has to weigh enough.
    void collect_typical(double share, Depths depths) {
        const int64_t goal = goal_of(share);
        const double normal = std::sqrt(-1.5708 * std::log(1.0 - share * share));
        const double likely = normal * depths.spread * (1 << kLevelBits);
        for (double reach = (1.0 + kDoubt) * likely + kLeastReach;; reach *= 2) {
            const auto far = static_cast<int32_t>(std::min(reach, double(kFar)));
            const double lowest = -(static_cast<double>(depths.mean) + far + 2) / (1 << kLevelBits);
            const bool all = lowest < -kScaleBits - 2;
            collect<true>(all ? 0 : weight_at(static_cast<float>(lowest)));
            order_by_surprisal(depths.mean);
            const auto near = static_cast<uint32_t>(std::min((1.0 - kDoubt) * likely, double(kFar - 1)));
            if (all || weight_from(kFar - far) >= goal) return keep_first<kSurprisal>(goal, kFar - near);
        }
    }

    // What candidates with this key or more weigh.
    int64_t weight_from(uint32_t key) const {
        const uint32_t* keys = s_.keys.get();
        Sum sum;
        for (int64_t i = 0; i < count_; i += kWidth) {
            const Lanes chosen = Lanes(at_least(iload(keys + i), iset(key)) & first_lanes(count_ - i));
            sum.add(only(chosen, vload(s_.kept.get() + i)));
        }
        return sum.total();
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

    // Candidates that hold `goal`: all tokens of some weight or more. A key that few of them are likely to be between and the
    // last one of the nucleus, or 0.
    uint32_t collect_nucleus(int64_t goal) {
        const auto [low, high] = likely_cut(static_cast<double>(total_ - goal));
        if (low > 1 && collect(low) >= goal) return high;
        // Tokens lighter than this have less than what the nucleus may leave out, all of them together.
        collect((total_ - goal) / vocab_);
        return high;
    }

    // What the nucleus leaves out, `rest` in all, are light tokens and many, which a sample knows well: a weight that its last
    // token is likely to reach, and the key of one that it is not. As the sum of all is exact, heavy tokens, which a sample
    // may miss, do not matter.
    std::pair<int64_t, uint32_t> likely_cut(double rest) const {
        constexpr uint32_t kFirst = 127u << (23 - kBucketShift), kBuckets = (kScaleBits + 1) << (23 - kBucketShift);
        int64_t mass[kBuckets] = {};
        const int64_t vectors = whole_ / kWidth, stride = std::max<int64_t>(1, vectors / (kSampled / kWidth));
        int64_t taken = 0;
        for (int64_t i = 0; i < vectors; i += stride, taken++) {
            float weights[kWidth];
            vstore(weights, weight(level(vload(x_ + i * kWidth))));
            for (const float w : weights) {
                if (w > 0.0f) mass[(key_of(w) >> kBucketShift) - kFirst] += static_cast<int64_t>(w);
            }
        }
        const double share = rest * static_cast<double>(taken * kWidth) / static_cast<double>(vocab_);
        const auto least = static_cast<int64_t>(share * (1.0 - kSlack)), most = static_cast<int64_t>(share * (1.0 + kSlack));
        uint32_t low = 0, high = 0;
        for (int64_t upto = 0; high < kBuckets && (upto += mass[high]) <= most; high++) {
            if (mass[high] > 0 && upto <= least) low = high + 1;
        }
        return {static_cast<int64_t>(float_of((low + kFirst) << kBucketShift)), (high + 1 + kFirst) << kBucketShift};
    }

    // The candidates: all tokens of weight `bound` or more, and more than 0, in order of ids. Says what they weigh. Their
    // depths become their keys, if asked for.
    template <bool kDepths = false>
    int64_t collect(int64_t bound) {
        const int64_t needed = std::max<int64_t>(1, bound);
        const vf least = vset(at_least_float(needed));
        const vf lowest = vset(lowest_logit(needed));
        float* const kept = s_.kept.get();
        int32_t* const ids = s_.ids.get();
        int64_t likely = 0, count = 0;
        const auto take = [&](int64_t i, vf own) {
            const Lanes chosen = greater_or_equal(own, lowest);
            pack(kept + likely, chosen, bits_of(own));
            pack(ids + likely, chosen, ifrom(i));
            likely += count_of(chosen);
        };
        for (int64_t i = 0; i < whole_; i += kWidth) take(i, vload(x_ + i));
        if (whole_ < vocab_) take(whole_, rest_);
        Sum sum;
        for (int64_t i = 0; i < likely; i += kWidth) {
            const vf height = level(vload(kept + i)), value = weight(height);
            const Lanes chosen = Lanes(greater_or_equal(value, least) & first_lanes(likely - i));
            if constexpr (kDepths) pack(s_.keys.get() + count, chosen, depth(height));
            const vi own = iload(ids + i);
            sum.add(only(chosen, value));
            pack(kept + count, chosen, bits_of(value));
            pack(ids + count, chosen, own);
            count += count_of(chosen);
        }
        count_ = count;
        return sum.total();
    }

    // Logits below this weigh less than `weight`, however the roundings went.
    float lowest_logit(int64_t weight) const {
        const double level = std::log2(static_cast<double>(weight) - 0.5) - kScaleBits - 1e-3;
        const double logit = largest_ + level / factor_ * (1.0 + 1e-5);
        return std::nextafter(static_cast<float>(std::max(logit, static_cast<double>(std::numeric_limits<float>::lowest()))), -kInfinity);
    }

    // Weights are positive floats, so their bits are in the same order.
    const uint32_t* weight_keys() const { return reinterpret_cast<const uint32_t*>(s_.kept.get()); }

    // The depths of the candidates become their keys; their mean.
    int32_t look_at_depths() {
        uint32_t* keys = s_.keys.get();
        float* x = s_.work.get();
        for (int64_t i = 0; i < count_; i++) x[i] = to_float(x_[s_.ids[i]]);
        Products products;
        for (int64_t i = 0; i < count_; i += kWidth) {
            const Lanes lanes = first_lanes(count_ - i);
            const vi own = depth(level(only(lanes, vload(x + i))));
            products.add(only(lanes, vload(s_.kept.get() + i)), own);
            istore(keys + i, own);
        }
        return static_cast<int32_t>(products.total() / total_);
    }

    // Keys, now depths, become the larger the closer a depth is to the mean.
    void order_by_surprisal(int32_t mean) {
        uint32_t* keys = s_.keys.get();
        for (int64_t i = 0; i < count_; i++) keys[i] = kFar - std::abs(static_cast<int32_t>(keys[i]) - mean);
    }

    // Keep the fewest candidates of largest keys, lower ids first, that together have `goal`: in number for kNumber, else in
    // weight. Keys are the weights, or for kSurprisal those that `order_by_surprisal` has made. The first cut is at `pivot`.
    template <By kBy>
    void keep_first(int64_t goal, uint32_t pivot = 0) {
        const uint32_t* const all = kBy == kSurprisal ? s_.keys.get() : weight_keys();
        // Those of which some are the last to be kept; `before` is the goal's part that larger ones have.
        const uint32_t* keys = all;
        const int32_t* ids = s_.ids.get();
        const float* weights = s_.kept.get();
        int64_t left = count_, before = 0;
        const auto cut_at = [&](uint32_t middle) {
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
            if (!up) before += upper;
            uint32_t* const new_keys = s_.work_keys.get();
            int32_t* const new_ids = s_.work_ids.get();
            float* const new_weights = kBy == kSurprisal ? s_.work.get() : reinterpret_cast<float*>(new_keys);
            int64_t taken = 0;
            for (int64_t i = 0; i < left; i += kWidth) {
                const vi key = iload(keys + i);
                const Lanes above = at_least(key, iset(middle));
                const Lanes chosen = Lanes((up ? above : ~above) & first_lanes(left - i));
                if (!chosen) continue;
                const vi id = iload(ids + i), weight = iload(weights + i);
                pack(new_keys + taken, chosen, key);
                pack(new_ids + taken, chosen, id);
                if constexpr (kBy == kSurprisal) pack(new_weights + taken, chosen, weight);
                taken += count_of(chosen);
            }
            keys = new_keys;
            ids = new_ids;
            weights = new_weights;
            left = taken;
            return up;
        };
        if (pivot > 0) cut_at(pivot);
        uint32_t least = ~0u, most = 0;
        for (int64_t i = 0; i < left; i++) {
            least = std::min(least, keys[i]);
            most = std::max(most, keys[i]);
        }
        while (left > kFew && least < most) {
            const uint32_t middle = least + (most - least) / 2 + 1;
            if (cut_at(middle)) {
                least = middle;
            } else {
                most = middle - 1;
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
