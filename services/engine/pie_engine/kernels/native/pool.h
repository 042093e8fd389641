// The thread pool that all kernels share: parallel loops over a few threads of our own.
//
// Pieces are handed out one at a time, and the caller works too. It waits for pieces that others have begun, never for a
// thread to appear: when the machine is busy and no helper gets a core, the caller does everything by itself.
#pragma once

#include <cstdint>
#include <type_traits>

#define PIE_API extern "C" __attribute__((visibility("default")))

namespace pie {

using Piece = void (*)(void* body, int64_t piece);

// Calls piece(body, i) for every i in [0, pieces), on at most `threads` threads with the caller's; returns when all are done.
// Runs on the caller's thread alone when the pool is busy with another caller's loop, or inside of a loop.
void run_pieces(int threads, int64_t pieces, Piece piece, void* body);

// body(i) for every i in [0, pieces). What it writes for different i must not overlap. It must not throw.
template <class Body>
void parallel_for(int threads, int64_t pieces, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    if (threads <= 1 || pieces <= 1) {
        for (int64_t i = 0; i < pieces; i++) body(i);
        return;
    }
    run_pieces(threads, pieces, [](void* b, int64_t i) { (*static_cast<Plain*>(b))(i); },
               const_cast<void*>(static_cast<const void*>(&body)));
}

// body(begin, end) over [0, count) in ranges of `grain` (the last one shorter).
template <class Body>
void parallel_ranges(int threads, int64_t count, int64_t grain, Body&& body) {
    parallel_for(threads, (count + grain - 1) / grain, [&](int64_t i) {
        const int64_t begin = i * grain;
        body(begin, begin + grain < count ? begin + grain : count);
    });
}

}  // namespace pie
