"""Source that is launched again is compiled once, by the Python that runs it, and its launches begin with the code.

Code is trusted by whoever unmarshals it. It is made in an instance of its own, which compiles and runs nothing: whoever
launched a source has no way to leave other code for the next one who launches the same.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from pie_wire.errors import Overloaded
from pie_wire.shares import Shares

from pie_runner.wasm.fiber import Fiber, Limits, Outcome

if TYPE_CHECKING:
    from pie_runner.wasm.driver import Driver
    from pie_runner.wasm.program import Program

NONE = "null"
MAX_KNOWN = 256
"""Sources; those that were launched least recently are forgotten."""
MAX_SOURCE = 256 << 10
"""Characters of a source that is compiled ahead."""
MAX_CODE = 1 << 20
"""Bytes kept for one source."""
MAX_KEPT = 32 << 20
"""For all together."""
MAX_COMPILING = 2
"""Shared among tenants: each has one place."""
CPU_SECONDS = 10.0
MEMORY_BYTES = 256 << 20
"""To compile takes many times the size of a source."""

_TEXT = re.compile(r'"[A-Za-z0-9+/=]*"')

Key = tuple[str, str]
"""Hash of a source, and the name of the file that its code says it is from."""


class CodeObjects:
    """Of the sources that were launched lately. Lives on the loop thread."""

    def __init__(self, driver: Driver, memory_bytes: int) -> None:
        """`memory_bytes`: what an instance may have."""
        self._driver = driver
        self._limits = Limits(memory_bytes=min(memory_bytes, MEMORY_BYTES), cpu_seconds=CPU_SECONDS)
        self._known: OrderedDict[Key, str | None] = OrderedDict()
        """None: launched once. Empty: there is none to be had."""
        self._kept = 0
        self._compiling: set[Key] = set()
        self._places = Shares(MAX_COMPILING)
        self._wanted: Callable[[], None] | None = None
        self._program: Program | None = None

    def find(self, key: Key, source: str, program: Program, tenant: str, data: object) -> str:
        """The code as JSON, or `NONE`: then the launch compiles for itself. From the second time on the source is
        compiled for those that come later: at the next `compile_wanted`, in a fiber with this `data`. Not for a tenant
        that pays: its fiber would keep the place while it rests."""
        if program is not self._program:  # another Python has other code
            self._program = program
            self._known.clear()
            self._kept = 0
        if key not in self._known:
            self._known[key] = "" if len(source) > MAX_SOURCE else None
            self._forget_oldest()
            return NONE
        self._known.move_to_end(key)
        code = self._known[key]
        if code is None and key not in self._compiling and not self._driver.pays(data):
            self._wanted = partial(self._compile, key, source, program, tenant, data)
        return code or NONE

    def compile_wanted(self) -> None:
        """What a launch asked for, after that launch itself."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted()

    def _compile(self, key: Key, source: str, program: Program, tenant: str, data: object) -> None:
        if not self._places.take(tenant):
            return
        self._compiling.add(key)
        text = msgspec.json.encode({"compile": source, "filename": key[1]}).decode()
        on_exit = partial(self._compiled, key, program, tenant)
        self._driver.spawn(program, text, data=data, on_exit=on_exit, limits=self._limits)

    def _compiled(self, key: Key, program: Program, tenant: str, _fiber: Fiber, outcome: Outcome) -> None:
        self._compiling.discard(key)
        self._places.give_back(tenant)
        if isinstance(outcome, Overloaded):  # there was no room for it: the next launch may ask again
            return
        if program is self._program and key in self._known:
            fits = isinstance(outcome, str) and len(outcome) <= MAX_CODE and _TEXT.fullmatch(outcome)
            code = self._known[key] = outcome if isinstance(outcome, str) and fits else ""
            self._kept += len(code)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._known) > MAX_KNOWN or self._kept > MAX_KEPT:
            _, code = self._known.popitem(last=False)
            self._kept -= len(code or "")
