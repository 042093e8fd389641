"""The native kernels: built when first used, loaded with ctypes, absent where they cannot be.

A module with kernels of its own adds a source under `native/` and takes its functions here:

    native = load()
    if native is not None:
        run = native.function("pie_sum", c_void_p, c_int64, returns=c_float)

Tensors are passed as `tensor.data_ptr()`; calls release the interpreter's lock. The symbol is
`PIE_API float pie_sum(const float*, int64_t)` in the source (`pool.h` has PIE_API and the parallel loop, `simd.h` the
vectors). Whatever a kernel does has a twin in torch, which serves when `load()` gives None.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
from pie_wire.config import pie_home

from pie_engine.kernels.native_build import BuildError, build, rebuild

SOURCES: Final = Path(__file__).parent / "native"

_LEVELS: Final[Mapping[str, frozenset[str]]] = {
    "avx512bf16": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx2", "fma"}),
    "avx2": frozenset({"avx2", "fma"}),
}
"""Instruction sets that kernels are compiled for, best first, with the processor flags each needs."""

_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "avx512bf16": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mavx2", "-mfma"),
        "-DPIE_AVX512BF16",
    ),
    "avx2": ("-mavx2", "-mfma", "-DPIE_AVX2"),
}

log = structlog.get_logger("pie.engine")


class Native:
    """The loaded library. `isa` is the instruction set it was compiled for."""

    def __init__(self, library: ctypes.CDLL, isa: str) -> None:
        self._library = library
        self.isa = isa

    def function(self, name: str, *arguments: Any, returns: Any = None) -> Any:
        """A function of the library with its C signature, callable from any thread. Raises AttributeError."""
        found = self._library[name]
        found.argtypes = arguments
        found.restype = returns
        return found


@functools.cache
def load() -> Native | None:
    """The kernels, or None with one line in the log that says why; the answer stays the same for the process.

    `PIE_NATIVE=0` switches them off; `PIE_NATIVE=avx2` takes that instruction set though there is a better one.
    """
    asked = os.environ.get("PIE_NATIVE", "")
    if asked == "0":
        log.info("native kernels are off: PIE_NATIVE is 0; torch serves")
        return None
    isa = best_isa(_processor_flags(), asked)
    if isa is None:
        log.warning(
            "no native kernels: none are written for this processor; torch serves, slower",
            processor=platform.machine(),
            wanted=asked or " or ".join(_LEVELS),
        )
        return None
    try:
        return load_from(pie_home() / "native", isa)
    except BuildError as exc:
        log.warning("no native kernels: torch serves, slower", reason=str(exc))
        return None


def load_from(folder: Path, isa: str, sources: Path = SOURCES) -> Native:
    """Build for `isa` unless `folder` has the library already, and load it. Raises BuildError."""
    path = build(sources, folder, isa, _FLAGS[isa])
    try:
        return Native(ctypes.CDLL(str(path)), isa)
    except OSError as exc:
        log.warning("the native kernels cannot be loaded: building them again", file=str(path), reason=str(exc))
    path = rebuild(sources, folder, isa, _FLAGS[isa])
    try:
        return Native(ctypes.CDLL(str(path)), isa)
    except OSError as exc:
        raise BuildError(f"the new library does not load: {exc}") from exc


def best_isa(flags: frozenset[str], asked: str = "") -> str | None:
    """The best level that a processor with these flags has; `asked` names one in particular."""
    levels = [name for name, needed in _LEVELS.items() if needed <= flags and asked in ("", "1", name)]
    return levels[0] if levels else None


def _processor_flags() -> frozenset[str]:
    """As Linux names them; empty elsewhere and on processors that are not x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
