"""WASI functions that would block the event loop, or read clocks and randomness of their own, answered by our own host.

wasmtime's WASI serves the rest: without preopened directories, network or environment it is inert. A guest's sleep goes
through `wasi:io/poll`, which would block the thread; here it parks the fiber. Times and random bytes come from the host
table: a guest sees those and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pie_wire.errors import Unsupported

from pie_runner.wasm.hostcall import HostResource, HostTable, Pending

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

# Shadowing needs the exact version that wasmtime defines; guests of any 0.2 version then link against it.
VERSION = "0.2.12"
_RANDOM_CHUNK = 65_536


class Datetime(NamedTuple):
    """wasi:clocks/wall-clock datetime."""

    seconds: int
    nanoseconds: int


class _Pollable:
    """A timer: the `done` of a sleep in the host table."""

    def __init__(self, done: HostResource) -> None:
        self.done = done

    def close(self) -> None:
        self.done.close()


def shadowed_wasi(table: HostTable) -> dict[str, dict[str, Callable[..., object]]]:
    """Interfaces and functions to define over wasmtime's own. Empty for a table without clocks (a test's, say)."""
    if ("clocks", "sleep") not in table:
        return {}
    interfaces = {"wasi:io/poll": _poll(table), "wasi:clocks/monotonic-clock": _monotonic(table)}
    interfaces["wasi:clocks/wall-clock"] = _wall(table)
    interfaces |= _random(table)
    # Every other source of pollables would have to make them of the shadowed type.
    for interface, resources in {
        "wasi:io/streams": ("input-stream", "output-stream"),
        "wasi:sockets/udp": ("udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream"),
        "wasi:sockets/tcp": ("tcp-socket",),
        "wasi:sockets/ip-name-lookup": ("resolve-address-stream",),
    }.items():
        interfaces[interface] = {f"[method]{resource}.subscribe": _not_offered for resource in resources}
    return {f"{name}@{VERSION}": functions for name, functions in interfaces.items()}


def _not_offered(_fiber: Fiber, *_: object) -> object:
    raise Unsupported("Waiting for WASI streams and sockets is not offered; use the pie:inferlet interfaces.")


def _poll(table: HostTable) -> dict[str, Callable[..., object]]:
    wait_any = table["futures", "wait-any"]
    id_of = table["futures", "[method]done.id"]
    get = table["futures", "[method]done.get"]

    def wait(fiber: Fiber, pollables: list[_Pollable], convert: Callable[[Any], object]) -> object:
        answer = wait_any(fiber, [id_of(fiber, pollable.done) for pollable in pollables])
        if isinstance(answer, Pending):
            answer.convert = convert
            return answer
        return convert(answer)

    def poll(fiber: Fiber, pollables: list[_Pollable]) -> object:
        ids = [id_of(fiber, pollable.done) for pollable in pollables]

        def indexes(ready: list[int]) -> list[int]:
            found = set(ready)
            return [at for at, id_ in enumerate(ids) if id_ in found]

        return wait(fiber, pollables, indexes)

    def block(fiber: Fiber, pollable: _Pollable) -> object:
        return wait(fiber, [pollable], lambda _: None)

    def ready(fiber: Fiber, pollable: _Pollable) -> bool:
        return get(fiber, pollable.done) is not None

    return {"poll": poll, "[method]pollable.block": block, "[method]pollable.ready": ready}


def _monotonic(table: HostTable) -> dict[str, Callable[..., object]]:
    now: Callable[..., Any] = table["clocks", "monotonic-now"]
    sleep: Callable[..., Any] = table["clocks", "sleep"]

    def resolution(_fiber: Fiber) -> int:
        return 1

    def subscribe_duration(fiber: Fiber, duration: int) -> _Pollable:
        return _Pollable(sleep(fiber, duration))

    def subscribe_instant(fiber: Fiber, instant: int) -> _Pollable:
        return _Pollable(sleep(fiber, max(0, instant - now(fiber))))

    return {
        "now": now,
        "resolution": resolution,
        "subscribe-duration": subscribe_duration,
        "subscribe-instant": subscribe_instant,
    }


def _wall(table: HostTable) -> dict[str, Callable[..., object]]:
    wall_now: Callable[..., Any] = table["clocks", "wall-now"]

    def now(fiber: Fiber) -> Datetime:
        return Datetime(*divmod(wall_now(fiber), 1_000_000_000))

    def resolution(_fiber: Fiber) -> Datetime:
        return Datetime(0, 1)

    return {"now": now, "resolution": resolution}


def _random(table: HostTable) -> dict[str, dict[str, Callable[..., object]]]:
    get_bytes: Callable[..., Any] = table["random", "get-bytes"]

    def some(fiber: Fiber, count: int) -> bytes:
        if count > 1 << 20:
            raise Unsupported("At most 1 MiB of random bytes in one call.")
        sizes = [min(_RANDOM_CHUNK, count - at) for at in range(0, count, _RANDOM_CHUNK)]
        return b"".join(get_bytes(fiber, size) for size in sizes)

    def number(fiber: Fiber) -> int:
        return int.from_bytes(get_bytes(fiber, 8), "little")

    def seed(fiber: Fiber) -> tuple[int, int]:
        return number(fiber), number(fiber)

    return {
        "wasi:random/random": {"get-random-bytes": some, "get-random-u64": number},
        "wasi:random/insecure": {"get-insecure-random-bytes": some, "get-insecure-random-u64": number},
        "wasi:random/insecure-seed": {"insecure-seed": seed},
    }
