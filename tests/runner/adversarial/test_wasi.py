"""The WASI functions that the host answers itself, misused: each has a bounded end, and nothing is left of it."""

from __future__ import annotations

import time

import pytest
from attacks import Attack
from wasi_attacks import wasi_attacks

TRAPS = {
    "dropped twice": "(local.set $a (call $after (i64.const 1))) (call $drop_pollable (local.get $a)) "
    "(call $drop_pollable (local.get $a))",
    "asked after its drop": "(local.set $a (call $after (i64.const 1))) (call $drop_pollable (local.get $a)) "
    "(drop (call $ready (local.get $a)))",
    "waited for after its drop": "(local.set $a (call $after (i64.const 1))) (call $drop_pollable (local.get $a)) "
    "(call $block (local.get $a))",
    "polled after its drop": "(local.set $a (call $after (i64.const 1))) (call $drop_pollable (local.get $a)) "
    "(i32.store (i32.const 2048) (local.get $a)) (call $poll (i32.const 2048) (i32.const 1) (i32.const 1024))",
    "of another kind": "(call $block (call $sleep (i64.const 1)))",
    "dropped as another kind": "(call $drop_pollable (call $sleep (i64.const 1)))",
    "made up": "(drop (call $ready (i32.const 12345)))",
    "none": "(call $block (i32.const 0))",
    "a poll of nothing": "(call $poll (i32.const 2048) (i32.const 0) (i32.const 1024))",
    "a list outside of memory": "(call $poll (i32.const 0x7ffffff0) (i32.const 64) (i32.const 1024))",
    "a list of four billion": "(call $poll (i32.const 0) (i32.const -1) (i32.const 1024))",
    "an answer outside of memory": "(local.set $a (call $after (i64.const 1))) "
    "(i32.store (i32.const 2048) (local.get $a)) (call $poll (i32.const 2048) (i32.const 1) (i32.const 0x7ffffff0))",
    "all random bytes that there are": "(call $random (i64.const -1) (i32.const 1024))",
    "a byte more than 1 MiB": "(call $random (i64.const 1048577) (i32.const 1024))",
    "all insecure bytes that there are": "(call $insecure (i64.const -1) (i32.const 1024))",
    "a wait for input": "(call $block (call $subscribe (call $stdin)))",
}
RETURNS = {
    "an endless time, dropped": "(call $drop_pollable (call $after (i64.const -1)))",
    "an endless time, asked": "(drop (call $ready (call $after (i64.const -1))))",
    "the end of time": "(drop (call $ready (call $at (i64.const -1))))",
    "a time that has passed": "(call $block (call $at (i64.const 0)))",
    "no time": "(call $block (call $after (i64.const 0)))",
    "no random bytes": "(call $random (i64.const 0) (i32.const 1024))",
    "1 MiB of random bytes": "(call $random (i64.const 1048576) (i32.const 1024))",
    "never dropped": "(loop $more (drop (call $after (i64.const -1))) "
    "(br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))",
}
_FILL = """(drop (memory.grow (i32.const 10)))
    (loop $more
      (i32.store (i32.add (i32.const 200000) (i32.mul (local.get $i) (i32.const 4))) {pollable})
      (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 100000))))
    (call $poll (i32.const 200000) (i32.const 100000) (i32.const 1024))"""
MANY = {
    "100,000 times the same": "(local.set $a (call $after (i64.const 1)))" + _FILL.format(pollable="(local.get $a)"),
    "100,000 of them": _FILL.format(pollable="(call $after (i64.const 1000000000000))"),
}
NEVER = {
    "blocked": "(call $block (call $after (i64.const -1)))",
    "blocked until the end of time": "(call $block (call $at (i64.const -1)))",
    "polled": "(i32.store (i32.const 2048) (call $after (i64.const -1))) "
    "(i32.store (i32.const 2052) (call $after (i64.const -2))) "
    "(call $poll (i32.const 2048) (i32.const 2) (i32.const 1024))",
}


def is_free(attack: Attack) -> bool:
    runner = attack.world.runner
    return not any([len(runner.processes), runner.live, len(runner.timers), *attack.world.host.driver.fibers])


BODIES = {**TRAPS, **RETURNS, **MANY, **NEVER}


@pytest.fixture(scope="module")
def program() -> bytes:
    return wasi_attacks([*BODIES.values()])


def text_of(what: str) -> str:
    return f'"{[*BODIES].index(what)}"'


def ends(attack: Attack, program: bytes, bodies: dict[str, str]) -> dict[str, str]:
    """How each of these programs ends; nothing of it may be left."""
    found: dict[str, str] = {}
    for what in bodies:
        found[what] = attack.outcome(program, text_of(what))
        attack.world.run(0.1)
        assert is_free(attack), what
    return found


def test_misuse_traps(attack: Attack, program: bytes):
    assert ends(attack, program, TRAPS) == dict.fromkeys(TRAPS, "trapped")


def test_extremes_are_no_misuse(attack: Attack, program: bytes):
    assert ends(attack, program, RETURNS) == dict.fromkeys(RETURNS, "return")


@pytest.mark.parametrize("what", MANY)
def test_so_many_end_soon(attack: Attack, program: bytes, what: str):
    began = time.thread_time()

    assert attack.outcome(program, text_of(what)) in ("trapped", "limit_exceeded")

    assert time.thread_time() - began < 5.0
    attack.world.run(0.1)
    assert is_free(attack)


def test_a_kill_ends_waits_for_ever(attack: Attack, program: bytes):
    for what in NEVER:
        pid = attack.launch(program, text_of(what))
        attack.world.run(lambda pid=pid: attack.said(pid, "started"))
        attack.world.run(1.0)
        assert not attack.world.ended(pid), (what, attack.world.log(pid)[-1])
        assert len(attack.world.runner.timers) > 0

        attack.kill(pid)

        assert attack.end(pid) == "terminated"
        attack.world.run(0.1)
        assert is_free(attack), what
