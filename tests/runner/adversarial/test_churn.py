"""Programs launched and killed by the thousand: the runner's memory stays flat."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from attacks import Attack
from hostile import attack as hostile

BATCH = 8
"""As many as this runner takes at once."""
ALLOWED_KIB = 24 << 10
"""More than what allocators keep; a kilobyte left by each of 20,000 would be nearly as much."""
SLEEPER = (
    "(i32.store (i32.const 256) (call $id (call $sleep (i64.const 9000000000000000))))"
    "(call $wait (i32.const 256) (i32.const 1) (i32.const 264))"
)
PYTHON = b"""
import asyncio
from inferlet import Context

async def main():
    context = Context()
    context.append([1, 2, 3])
    await asyncio.sleep(1e6)
"""


def resident() -> int:
    """KiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("kind", "share"), [("component", 1), ("python", 40)])
def test_churn_leaves_memory_flat(attack: Attack, capsys: pytest.CaptureFixture[str], kind: str, share: int):
    """`PIE_CHURN_CASES` tiny components, a fortieth as many Python programs. A tenth of them warm up."""
    world, cases = attack.world, int(os.environ.get("PIE_CHURN_CASES", "20000")) // share
    artifact = hostile(SLEEPER) if kind == "component" else PYTHON
    rss: list[int] = []
    for at in range(0, cases + cases // 10, BATCH):
        if at >= cases // 10 and not rss:
            gc.collect()
            rss.append(resident())
        pids = [attack.launch(artifact, kind="component" if kind == "component" else "python") for _ in range(BATCH)]
        world.run(lambda pids=pids: all(attack.said(pid, "started") for pid in pids), limit=600.0)
        for pid in pids:
            attack.kill(pid)
            assert attack.end(pid) == "terminated"
            del world.logs[pid]
    gc.collect()
    rss.append(resident())

    with capsys.disabled():
        sys.stdout.write(f"\n{cases} {kind}: {rss[0] / 1024:.1f} MiB before, {rss[1] / 1024:.1f} MiB after\n")
    assert not world.runner.processes
    assert rss[1] - rss[0] < ALLOWED_KIB
