"""Components that attack by the WASI functions which the host answers itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile import ANSWER, HEAP, component
from panics import chosen

# As much of WASI as is called here; interfaces are linked function by function.
_WIT = {
    "io": """
package wasi:io@0.2.0;
interface poll {
  resource pollable { ready: func() -> bool; block: func(); }
  poll: func(in: list<borrow<pollable>>) -> list<u32>;
}
interface streams {
  use poll.{pollable};
  resource input-stream { subscribe: func() -> pollable; }
}
""",
    "clocks": """
package wasi:clocks@0.2.0;
interface monotonic-clock {
  use wasi:io/poll@0.2.0.{pollable};
  subscribe-instant: func(when: u64) -> pollable;
  subscribe-duration: func(when: u64) -> pollable;
}
""",
    "random": """
package wasi:random@0.2.0;
interface random { get-random-bytes: func(len: u64) -> list<u8>; }
interface insecure { get-insecure-random-bytes: func(len: u64) -> list<u8>; }
""",
    "cli": """
package wasi:cli@0.2.0;
interface stdin {
  use wasi:io/streams@0.2.0.{input-stream};
  get-stdin: func() -> input-stream;
}
""",
}
_WORLD = """package pie:inferlet@0.1.0;
world attacker {
  include inferlet;
  import wasi:io/poll@0.2.0;
  import wasi:io/streams@0.2.0;
  import wasi:clocks/monotonic-clock@0.2.0;
  import wasi:random/random@0.2.0;
  import wasi:random/insecure@0.2.0;
  import wasi:cli/stdin@0.2.0;
}
"""
_IMPORTS = """
  (import "cm32p2|wasi:io/poll@0.2" "poll" (func $poll (param i32 i32 i32)))
  (import "cm32p2|wasi:io/poll@0.2" "[method]pollable.ready" (func $ready (param i32) (result i32)))
  (import "cm32p2|wasi:io/poll@0.2" "[method]pollable.block" (func $block (param i32)))
  (import "cm32p2|wasi:io/poll@0.2" "pollable_drop" (func $drop_pollable (param i32)))
  (import "cm32p2|wasi:io/streams@0.2" "[method]input-stream.subscribe" (func $subscribe (param i32) (result i32)))
  (import "cm32p2|wasi:clocks/monotonic-clock@0.2" "subscribe-duration" (func $after (param i64) (result i32)))
  (import "cm32p2|wasi:clocks/monotonic-clock@0.2" "subscribe-instant" (func $at (param i64) (result i32)))
  (import "cm32p2|wasi:random/random@0.2" "get-random-bytes" (func $random (param i64 i32)))
  (import "cm32p2|wasi:random/insecure@0.2" "get-insecure-random-bytes" (func $insecure (param i64 i32)))
  (import "cm32p2|wasi:cli/stdin@0.2" "get-stdin" (func $stdin (result i32)))
  (import "cm32p2|pie:inferlet/clocks@0.1" "sleep" (func $sleep (param i64) (result i32)))
"""


def wasi_attacks(bodies: Sequence[str]) -> bytes:
    """A program whose input is a string of a number: of the one of these bodies that it runs. `$a` and `$i` are its."""
    calls = " ".join(f"(func $body{at} (local $a i32) (local $i i32) {body})" for at, body in enumerate(bodies))
    arms = [f") (call $body{at}) (return)" for at in range(len(bodies))]
    with TemporaryDirectory() as folder:
        wit = Path(folder) / "wit"
        shutil.copytree(str(files("pie_sdk").joinpath("wit")), wit)
        (wit / "attacker.wit").write_text(_WORLD)
        for name, text in _WIT.items():
            (wit / "deps" / name).mkdir(parents=True)
            (wit / "deps" / name / "world.wit").write_text(text)
        return component(
            f"""(module {_IMPORTS} {HEAP} {calls} {chosen(arms)}
            (func (export "cm32p2||run") (param $text i32) (param i32) (result i32)
            (call $call (call $digits (i32.add (local.get $text) (i32.const 1)))) {ANSWER}))""",
            wit=str(wit),
            world="attacker",
        )
