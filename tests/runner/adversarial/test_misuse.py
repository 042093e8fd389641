"""Programs that break the rules end with an error that names what they did; the runner and the others go on."""

from __future__ import annotations

import time

import pytest
from attacks import Attack
from hostile import attack as hostile

MISUSE = {
    "dropped twice": "(local.set $a (call $sleep (i64.const 1))) (call $drop_done (local.get $a)) "
    "(call $drop_done (local.get $a))",
    "used after its drop": "(local.set $a (call $sleep (i64.const 1))) (call $drop_done (local.get $a)) "
    "(drop (call $id (local.get $a)))",
    "of another type": "(drop (call $id (call $receive)))",
    "dropped as another type": "(call $drop_done (call $receive))",
    "made up": "(drop (call $id (i32.const 12345)))",
    "none": "(drop (call $id (i32.const 0)))",
    "a text outside of memory": "(call $print (i32.const 0x7fffff00) (i32.const 4096))",
    "a text that wraps around": "(call $print (i32.const -16) (i32.const 4096))",
    "a text that is not UTF-8": "(i32.store8 (i32.const 2048) (i32.const 255)) "
    "(call $print (i32.const 2048) (i32.const 1))",
    "an answer outside of memory": "(call $random (i32.const 8) (i32.const 0x7ffffff0))",
    "a list outside of memory": "(call $wait (i32.const 0x7ffffff0) (i32.const 64) (i32.const 1024))",
    "a list of four billion": "(call $wait (i32.const 0) (i32.const -1) (i32.const 1024))",
    "a wait for nothing": "(call $wait (i32.const 0) (i32.const 0) (i32.const 1024))",
    "four billion random bytes": "(call $random (i32.const -1) (i32.const 1024))",
}


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_traps(attack: Attack, what: str):
    assert attack.outcome(hostile(MISUSE[what])) == "trapped"


def test_deep_recursion_ends_soon(attack: Attack):
    began = time.perf_counter()

    code = attack.outcome(
        hostile(
            "(drop (call $deep (i32.const 1)))",
            "(func $deep (param i32) (result i32) "
            "(i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))",
        )
    )

    assert code == "limit_exceeded"
    assert time.perf_counter() - began < 10.0


def test_a_recursion_through_large_frames_ends_soon(attack: Attack):
    """Many locals make each frame large, and the trace of the trap long."""
    names = "i64 " * 200
    sets = " ".join(f"(local.set {i + 1} (i64.extend_i32_u (local.get 0)))" for i in range(200))
    uses = " ".join(f"local.get {i + 1} i64.add" for i in range(200))
    deeper = "(call $deep (i32.add (local.get 0) (i32.const 1)))"
    helpers = f"(func $deep (param i32) (result i64) (local {names}) {sets} {deeper} {uses})"
    began = time.perf_counter()

    assert attack.outcome(hostile("(drop (call $deep (i32.const 1)))", helpers)) == "limit_exceeded"
    assert time.perf_counter() - began < 10.0


def test_a_memory_bomb_meets_its_limit(attack: Attack):
    bomb = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)"

    assert attack.outcome(hostile(bomb)) in ("limit_exceeded", "trapped")


def test_an_endless_loop_meets_its_limit(attack: Attack):
    assert attack.outcome(hostile("(loop $for_ever (br $for_ever))")) == "limit_exceeded"


def test_a_flood_of_host_calls_meets_its_limit(attack: Attack):
    assert attack.outcome(hostile("(loop $again (drop (call $now)) (br $again))")) == "limit_exceeded"


def test_a_megabyte_of_text_is_no_attack(attack: Attack):
    text = (
        "(drop (memory.grow (i32.const 20))) (memory.fill (i32.const 65536) (i32.const 65) (i32.const 1048576)) "
        "(call $print (i32.const 65536) (i32.const 1048576))"
    )

    assert attack.outcome(hostile(text)) == "return"


def test_waitables_without_end_meet_their_limit(attack: Attack):
    """Each sleep is a waitable that is never dropped."""
    sleeps = "(loop $again (drop (call $sleep (i64.const 1000000000000))) (br $again))"

    assert attack.outcome(hostile(sleeps)) in ("trapped", "limit_exceeded")
    assert not attack.world.runner.timers.next_at()


def test_output_without_end_waits_for_its_client_and_can_be_killed(attack: Attack):
    attack.world.gateway.consumes = False
    endless = "(loop $again (call $print (i32.const 2048) (i32.const 1000)) (br $again))"
    pid = attack.launch(hostile(endless))
    attack.world.run(1.0)

    attack.kill(pid)

    assert attack.end(pid) == "terminated"
    assert sum(event.size for event in attack.world.log(pid)) < 10 << 20
    attack.world.gateway.consumes = True


def test_ten_thousand_contexts_are_all_given_back(attack: Attack):
    """Where the operator set no limit. The fixture looks for what is left of them."""
    source = b"""
from inferlet import Context

def main():
    kept = [Context() for _ in range(10_000)]
    return len(kept)
"""
    attack.allow(cpu_seconds=60.0)
    pid = attack.launch(source, kind="python")
    attack.world.run(lambda: attack.world.ended(pid), limit=600.0)

    assert attack.world.log(pid)[-1].text == "10000", attack.world.log(pid)[-1]
