#include <algorithm>
#include <numeric>

#include "attention_plan.h"

namespace pie {
namespace {

constexpr int kSlots = 64;           // Of a block.
constexpr int kTileTarget = 96;      // Rows times query heads of a KV head that read a block together, about.
constexpr int kPackingCost = 24;     // Of reading a block, in rows that attend to it.
constexpr int kFewestBlocks = 4;     // Worth a piece of work of its own.
constexpr int kPiecesPerThread = 4;  // Enough to keep threads equally busy.
constexpr int kWorthSharing = 4;     // Blocks saved.

// One-row segments with a common beginning: members[begin : end] share their first `blocks`.
struct Group {
    int begin;
    int end;
    int blocks;
};

}  // namespace

// Builds one schedule.
class Scheduling {
  public:
    Scheduling(const Plan& plan, Schedule& schedule)
        : plan_(plan), pass_(plan.pass_), s_(schedule), share_(s_.heads / pass_.kv_heads) {}

    void run() {
        s_.records.assign(pass_.rows, 0);
        start_.assign(pass_.rows, 0);
        for (int r = 0; r < pass_.rows; r++) start_[r] = plan_.first_slot(r, s_.window) / kSlots;
        std::vector<Unit> shared = pass_.shares ? shared_units() : std::vector<Unit>{};
        std::vector<Unit> own = own_units();
        for (const auto* units : {&shared, &own}) {
            for (const Unit& unit : *units) total_ += cost(unit) * pass_.kv_heads;
        }
        for (const Unit& unit : shared) split(unit, unit.end);
        const bool many = static_cast<int>(own.size()) >= kPiecesPerThread * s_.threads;
        for (Unit& unit : own) {
            unit.begin = split(unit, unit.end - chunk(unit));
            if (many && unit.count == 1) {
                s_.last.push_back({unit, 0, pass_.kv_heads, -1, false});
            } else {
                for (int h = 0; h < pass_.kv_heads; h++) s_.last.push_back({unit, h, h + 1, -1, false});
            }
        }
        for (auto* items : {&s_.before, &s_.last}) {
            std::stable_sort(items->begin(), items->end(), [&](const Item& a, const Item& b) {
                return cost(a.unit) * (a.head_end - a.head) > cost(b.unit) * (b.head_end - b.head);
            });
        }
        s_.first_record.resize(pass_.rows);
        s_.total_records = 0;
        for (int r = 0; r < pass_.rows; r++) {
            s_.first_record[r] = s_.total_records;
            s_.total_records += s_.records[r];
        }
    }

  private:
    int64_t cost(const Unit& unit) const {
        return static_cast<int64_t>(unit.end - unit.begin) * (unit.count * share_ + kPackingCost);
    }

    int tile_rows() const { return std::max(1, kTileTarget / share_); }

    // Blocks of a unit that one thread should do at a time.
    int chunk(const Unit& unit) const {
        const int blocks = unit.end - unit.begin;
        if (s_.threads < 2 || blocks < 2 * kFewestBlocks) return blocks;
        const int64_t fair = std::max<int64_t>(1, total_ / (kPiecesPerThread * s_.threads));
        const int64_t pieces = std::min<int64_t>((cost(unit) + fair - 1) / fair, blocks / kFewestBlocks);
        return static_cast<int>((blocks + pieces - 1) / pieces);
    }

    // Makes items before the last ones of the blocks of `unit` below `end`; returns where they stop.
    int split(const Unit& unit, int end) {
        const int step = chunk(unit);
        const int32_t* rows = s_.order.data() + unit.first;
        for (int at = unit.begin; at < end; at += step) {
            const int record = s_.records[rows[0]];
            const Unit part{unit.segment, unit.first, unit.count, at, std::min(at + step, end)};
            // What a row begins with is merged as it comes; later blocks wait for those before them.
            const bool each = record > 0;
            for (int h = 0; h < pass_.kv_heads; h++) s_.before.push_back({part, h, h + 1, record, each});
            for (int i = 0; i < unit.count; i++) s_.records[rows[i]] += each ? part.end - part.begin : 1;
        }
        return std::max(unit.begin, end);
    }

    void add_tiles(std::vector<Unit>& units, int segment, int first, int count, int begin, int end) const {
        for (int at = 0; at < count; at += tile_rows()) {
            units.push_back({segment, first + at, std::min(tile_rows(), count - at), begin, end});
        }
    }

    std::vector<Unit> own_units() {
        std::vector<Unit> units;
        for (int s = 0; s < pass_.segments; s++) {
            const int begin = pass_.segment_rows[s], end = pass_.segment_rows[s + 1];
            const size_t made = units.size();
            const int first = static_cast<int>(s_.order.size());
            for (int r = begin; r < end; r++) s_.order.push_back(r);
            add_tiles(units, s, first, end - begin, 0, 0);
            for (size_t u = made; u < units.size(); u++) {
                Unit& unit = units[u];
                unit.begin = start_[s_.order[unit.first]];
                for (int i = 0; i < unit.count; i++) {
                    const int row = s_.order[unit.first + i];
                    unit.begin = std::min(unit.begin, start_[row]);
                    unit.end = std::max(unit.end, (plan_.last_slot(row) + kSlots - 1) / kSlots);
                }
                unit.end = std::max(unit.begin, unit.end);
            }
        }
        return units;
    }

    // Blocks from slot 0 on that `row` sees completely.
    int full_blocks(int row) const {
        if (plan_.first_slot(row, s_.window) > 0) return 0;
        if (pass_.causal) return (pass_.row_slots[row] + 1) / kSlots;
        const int at = pass_.interval_ptr[row];
        return at == pass_.interval_ptr[row + 1] ? 0 : pass_.intervals[2 * at + 1] / kSlots;
    }

    int common_blocks(int a, int b) const {
        const int32_t *x = pass_.pages + pass_.page_ptr[a], *y = pass_.pages + pass_.page_ptr[b];
        const int most = std::min(pass_.page_ptr[a + 1] - pass_.page_ptr[a], pass_.page_ptr[b + 1] - pass_.page_ptr[b]);
        const int64_t same = std::mismatch(x, x + most, y).first - x;
        const int full = std::min(full_blocks(pass_.segment_rows[a]), full_blocks(pass_.segment_rows[b]));
        return static_cast<int>(std::min<int64_t>(same * pass_.page_size / kSlots, full));
    }

    std::vector<Unit> shared_units() {
        std::vector<int> members;
        for (int s = 0; s < pass_.segments; s++) {
            const int row = pass_.segment_rows[s];
            if (pass_.segment_rows[s + 1] == row + 1 && full_blocks(row) > 0) members.push_back(s);
        }
        const auto table = [&](int s) { return pass_.pages + pass_.page_ptr[s]; };
        std::sort(members.begin(), members.end(), [&](int a, int b) {
            return std::lexicographical_compare(table(a), table(a + 1), table(b), table(b + 1));
        });
        common_.clear();
        for (size_t i = 0; i + 1 < members.size(); i++) common_.push_back(common_blocks(members[i], members[i + 1]));
        std::vector<Unit> units;
        std::vector<Group> groups;
        best_groups(0, static_cast<int>(members.size()), groups);
        for (const Group& group : groups) {
            const int first = static_cast<int>(s_.order.size());
            for (int i = group.begin; i < group.end; i++) {
                const int row = pass_.segment_rows[members[i]];
                s_.order.push_back(row);
                start_[row] = group.blocks;
            }
            add_tiles(units, members[group.begin], first, group.end - group.begin, 0, group.blocks);
        }
        return units;
    }

    // Adds groups among sorted members [begin, end) that save most, and returns the blocks they save: the members all
    // together, with what is common to all, or the best groups on either side of where they have least in common.
    int64_t best_groups(int begin, int end, std::vector<Group>& groups) const {
        if (end - begin < 2) return 0;
        const int least = *std::min_element(common_.begin() + begin, common_.begin() + end - 1);
        const size_t before = groups.size();
        int64_t apart = 0;
        for (int from = begin, i = begin; i < end; i++) {
            if (i == end - 1 || common_[i] == least) {
                apart += best_groups(from, i + 1, groups);
                from = i + 1;
            }
        }
        const int64_t together = static_cast<int64_t>(end - begin - 1) * least;
        if (together < kWorthSharing || together < apart) return apart;
        groups.resize(before);
        groups.push_back({begin, end, least});
        return together;
    }

    const Plan& plan_;
    const PieAttentionPass& pass_;
    Schedule& s_;
    const int share_;
    int64_t total_ = 0;
    std::vector<int> start_;   // By row: blocks before this one are done, or empty.
    std::vector<int> common_;  // Blocks that a member shares with the next one.
};

const Schedule& Plan::schedule(int heads, int window, int threads) {
    for (const auto& s : schedules_) {
        if (s->heads == heads && s->window == window && s->threads == threads) return *s;
    }
    schedules_.push_back(std::make_unique<Schedule>());
    Schedule& made = *schedules_.back();
    made.heads = heads;
    made.window = window;
    made.threads = threads;
    Scheduling(*this, made).run();
    return made;
}

}  // namespace pie
