"""The last step of building a component: the memory that every instance of it begins with.

An instance shares that memory with all others until it writes to it. Each page that it writes is copied, which costs
time at its start and memory for as long as it lives. So what every program needs before its author's code runs is done
here already, and the heap is left without gaps: what an instance allocates then lies together behind the heap, and not
in gaps on hundreds of its pages. What is there already becomes immortal, so that using it does not write to it.
"""

from __future__ import annotations

import gc
import json
import linecache

from inferlet import entry, immortal, stdio

_TIMES = 20
"""How often the rehearsals run: CPython specialises code, and fills its caches, after a few calls."""
_PLAIN = """
def main(count: int = 3) -> None:
    for number in range(count):
        pass
"""
_USUAL = """
import asyncio, json, math, random, re
from inferlet import Context, Model, Sampler, runtime, session

_WORDS = re.compile("[a-z]+")

class Part:
    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def size(self) -> int:
        return len(self.text)

def halves(text):
    for at in range(0, len(text), 2):
        yield text[at : at + 2]

async def half(text: str) -> str:
    await asyncio.sleep(0)
    return text[: len(text) // 2]

async def main(prompt: str, max_tokens: int = 64, options: dict | None = None, **rest) -> dict:
    parts = [Part(each) for each in halves(prompt)]
    tasks = await asyncio.gather(*(half(part.text) for part in parts))
    try:
        int("x")
    except ValueError as exc:
        reason = str(exc)
    found = sorted({word: len(word) for word in _WORDS.findall(prompt)}.items(), key=lambda pair: -pair[1])
    text = f"{max_tokens:04d} {sum(part.size for part in parts)} {math.sqrt(2.0):.3f} {''.join(tasks)} {reason}"
    return {"text": json.loads(json.dumps([text, None, True, 1.5])), "found": found}
"""
_REHEARSALS = [(_PLAIN, {"count": 2}), (_USUAL, {"prompt": "the quick brown fox", "max_tokens": 8})]

_BEHIND = 1 << 21
"""Bytes of a block that no gap has room for: it is taken from behind the heap."""
_FINE = 1 << 12
_GRAIN = 16
"""Of the allocator: every block is a multiple of so many bytes. Up to `_FINE` each size is tried."""
_MOST = 1 << 16
"""Gaps that are filled at most; there are some ten thousand."""

_filling: list[object] = [None] * _MOST


def settle() -> None:
    """Everything is imported. What is done after this makes new gaps."""
    stdio.install()
    for _ in range(_TIMES):
        for source, value in _REHEARSALS:
            code = json.loads(entry.compile_source(source, "rehearsal.py"))
            for made in (None, code):
                entry.rehearse(json.dumps({"source": source, "filename": "rehearsal.py", "code": made, "input": value}))
    linecache.clearcache()
    gc.collect()
    immortal.list_objects()
    gc.collect()  # what CPython keeps for its next objects is all over the heap
    gc.freeze()
    _fill_gaps()


def _fill_gaps() -> None:
    """Take all free memory between the blocks in use, for good; largest first. The allocator prefers gaps, so a block
    from behind the heap says that no gap of that size is left. (CPython's addresses are its objects' ids.)"""
    behind = id(bytes(_BEHIND))
    used = 0
    size = _BEHIND
    while size >= 0 and used < _MOST:
        block: object = bytes(size) if size else object()  # the smallest block holds no bytes object
        if id(block) < behind:
            _filling[used] = block
            used += 1
        else:
            size = size - _GRAIN if size <= _FINE else max(_FINE, size * 7 // 8)
    del _filling[used:]
