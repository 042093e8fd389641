"""Page tables: what a step of a run may leave out."""

from __future__ import annotations

import random

from pie_engine.memory.kv_cache import KvCache
from pie_wire.messages import engine as wire


def test_ready_pages_need_no_preparation(benches, monkeypatch):
    """Pages that are said to be ready: none are missing and preparing them changes nothing, while forks, closed runs
    and equal texts make others shared and published."""
    said = {True: 0, False: 0}
    plain = KvCache.is_ready

    def checked(cache, context, stop):
        ready = plain(cache, context, stop)
        said[ready] += 1
        if ready:
            before = (context.pages[:], context.published, cache.pool.available, dict(cache.pool._index))
            assert cache.missing_pages(context, stop) == 0
            assert cache.prepare_write(context, stop) is None
            assert before == (context.pages, context.published, cache.pool.available, cache.pool._index)
        return ready

    monkeypatch.setattr(KvCache, "is_ready", checked)
    chance = random.Random(3)
    bench = benches(pages=256, page_size=4)
    contexts = [bench.create([chance.randrange(3) for _ in range(chance.randrange(1, 9))]) for _ in range(6)]
    for _ in range(40):
        runs = [(context, bench.open_run(context, 9)) for context in contexts]
        for _ in range(chance.randrange(8)):
            bench.step()
        for context, run in runs:
            taken = chance.randrange(len(bench.runner.tokens.get(run, ())) + 1)
            bench.send(wire.CloseRun(context, run, taken))
        bench.contexts += 1
        bench.send(wire.Fork(bench.contexts, contexts[0], 0, 1, "p"), wire.Drop(contexts.pop(0)))
        contexts.append(bench.contexts)
        bench.settle()
    assert min(said.values()) > 100
