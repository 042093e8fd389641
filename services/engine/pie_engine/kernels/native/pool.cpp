#include "pool.h"

#include <atomic>
#include <chrono>
#include <new>
#include <system_error>
#include <thread>

#include <pthread.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pie {
namespace {

constexpr int kMostThreads = 256;
// How long a helper looks for the next loop before it sleeps: a pass is hundreds of loops, a few microseconds apart.
constexpr auto kSpin = std::chrono::microseconds(50);
// Looks of the caller at pieces that helpers have begun, before it sleeps until they are done: longer than a piece takes.
constexpr int kSpinsForPieces = 2000;
constexpr uint64_t kClosed = 0xffffffffu;

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// `ticket` is (loop number << 32 | next piece). A piece is taken by incrementing it, which fails once the loop has changed, so
// that a helper which was away for long takes nothing of a loop that it knows nothing about. While a loop is set up its next
// piece is kClosed.
struct Pool {
    std::atomic<uint64_t> ticket{kClosed};
    std::atomic<uint32_t> signal{0};
    std::atomic<uint32_t> finished{0};
    std::atomic<int64_t> pieces{0};
    std::atomic<int> helpers{0};
    std::atomic<Piece> piece{nullptr};
    std::atomic<void*> body{nullptr};
    std::atomic<bool> taken{false};
    int started = 0;
};

alignas(Pool) unsigned char place[sizeof(Pool)];

// Never destroyed: helpers run until the process ends. Threads do not survive a fork, so the child begins with a new pool.
Pool& pool() {
    static Pool* const only = [] {
        pthread_atfork(nullptr, nullptr, [] { new (place) Pool; });
        return new (place) Pool;
    }();
    return *only;
}

void work(Pool& p) {
    uint64_t ticket = p.ticket.load(std::memory_order_acquire);
    for (;;) {
        const uint64_t index = ticket & 0xffffffffu;
        const Piece piece = p.piece.load(std::memory_order_relaxed);
        void* const body = p.body.load(std::memory_order_relaxed);
        if (index == kClosed || static_cast<int64_t>(index) >= p.pieces.load(std::memory_order_relaxed)) break;
        if (!p.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
            continue;
        }
        piece(body, static_cast<int64_t>(index));
        // Told at once: the caller may be waiting for this very piece. It costs no call of the system unless that sleeps.
        p.finished.fetch_add(1, std::memory_order_seq_cst);
        p.finished.notify_one();
        ticket = p.ticket.load(std::memory_order_acquire);
    }
}

void help(Pool& p, int number) {
    uint32_t seen = 0;
    for (;;) {
        uint32_t now = p.signal.load(std::memory_order_acquire);
        if (now == seen) {
            const auto until = std::chrono::steady_clock::now() + kSpin;
            do {
                for (int i = 0; i < 32; i++) relax();
                now = p.signal.load(std::memory_order_acquire);
            } while (now == seen && std::chrono::steady_clock::now() < until);
            if (now == seen) {
                p.signal.wait(seen, std::memory_order_acquire);
                now = p.signal.load(std::memory_order_acquire);
            }
        }
        seen = now;
        if (number < p.helpers.load(std::memory_order_relaxed)) work(p);
    }
}

// At least `count` helpers, as far as the system gives threads. Called by the owner of the pool.
void ensure(Pool& p, int count) {
    while (p.started < count) {
        try {
            std::thread([&p, number = p.started] { help(p, number); }).detach();
        } catch (const std::system_error&) {
            return;
        }
        p.started++;
    }
}

}  // namespace

void run_pieces(int threads, int64_t pieces, Piece piece, void* body) {
    Pool& p = pool();
    const int helpers = static_cast<int>((threads < pieces ? threads : pieces) - 1);
    if (helpers < 1 || pieces >= static_cast<int64_t>(kClosed) || p.taken.exchange(true, std::memory_order_acquire)) {
        for (int64_t i = 0; i < pieces; i++) piece(body, i);
        return;
    }
    const int most = helpers < kMostThreads ? helpers : kMostThreads;
    ensure(p, most);
    const uint64_t loop = (p.ticket.load(std::memory_order_relaxed) >> 32) + 1;
    p.ticket.store(loop << 32 | kClosed, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // Closed before anything of the old loop is overwritten.
    p.piece.store(piece, std::memory_order_relaxed);
    p.body.store(body, std::memory_order_relaxed);
    p.pieces.store(pieces, std::memory_order_relaxed);
    p.helpers.store(most, std::memory_order_relaxed);
    p.finished.store(0, std::memory_order_relaxed);
    p.ticket.store((loop + 1) << 32, std::memory_order_release);
    p.signal.fetch_add(1, std::memory_order_acq_rel);
    p.signal.notify_all();
    work(p);
    // Pieces that helpers have begun. One of them may have lost its core, and gets this one if nobody else runs on it. That
    // is asleep, not yielding: who yields again and again pays with its share of the core for what others do to it.
    const auto all = static_cast<uint32_t>(pieces);
    uint32_t finished = p.finished.load(std::memory_order_acquire);
    for (int spins = 0; finished < all; spins++) {
        if (spins < kSpinsForPieces) {
            relax();
        } else {
            p.finished.wait(finished, std::memory_order_acquire);
        }
        finished = p.finished.load(std::memory_order_acquire);
    }
    p.taken.store(false, std::memory_order_release);
}

}  // namespace pie

// Sums 0 .. pieces - 1 in a parallel loop: for tests of the pool.
PIE_API int64_t pie_pool_sum(int threads, int64_t pieces) {
    std::atomic<int64_t> sum{0};
    pie::parallel_for(threads, pieces, [&](int64_t i) { sum.fetch_add(i, std::memory_order_relaxed); });
    return sum.load();
}

// A parallel loop whose pieces take so long and no processor: for tests of those who wait for them.
PIE_API void pie_pool_nap(int threads, int64_t pieces, int64_t milliseconds) {
    pie::parallel_for(threads, pieces, [&](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); });
}
