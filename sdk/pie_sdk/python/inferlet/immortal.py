"""What an image is made of is never freed, so nobody has to count its references (PEP 683).

CPython counts up and down whenever it looks at an object, which makes every page with an object that is used a page of
the instance's own. Objects whose count is very high are immortal: CPython leaves it alone. No Python code can set that
count; the build does, in the finished component (`pie_bakery.python_image`), for the objects that are listed here.
"""

from __future__ import annotations

import gc
import types
from array import array

# Written in two parts, so that it is found once in a component: where it has been put together.
_MARK = (b"pie image: addresses of ", b"immortal objects in here")

_GRAIN = 6
"""Objects lie at multiples of 8: so many bits of an address are for one byte of bits."""
_ROOM = 1 << 20
"""Behind the last object that the collector knows there may be others."""

_kept: list[object] = []
"""Whatever is listed is kept, or the build would write into memory that is free."""
_addresses = array("I")


def list_objects() -> None:
    """List everything that can be reached from what the collector knows. What is made after this is mortal."""
    global _addresses  # noqa: PLW0603 - the build finds it in memory; nothing else looks at it
    waiting = gc.get_objects()  # first, so that nothing of this function is among them
    seen = bytearray(max(map(id, waiting)) + _ROOM >> _GRAIN)  # bits; anything larger would leave large gaps
    while waiting:
        each = waiting.pop()
        place, bit = divmod(id(each) >> 3, 8)
        if place >= len(seen) or seen[place] & 1 << bit or isinstance(each, types.FrameType):
            continue
        seen[place] |= 1 << bit
        _kept.append(each)
        waiting += gc.get_referents(each)
        if isinstance(each, types.CodeType):
            waiting += _parts(each)
    # Of its final size at once: a copy that grew would leave another mark in memory that is free.
    _addresses = array("I", [0]) * (len(_kept) + 14)
    _addresses[0:6], _addresses[6:12] = (array("I", part) for part in _MARK)
    _addresses[12] = len(_kept) + 1
    _addresses[13] = id(None)
    for number, each in enumerate(_kept, 14):
        _addresses[number] = id(each)


def _parts(code: types.CodeType) -> list[object]:
    """Of code, which the collector knows nothing of. (To ask for names of variables would make new tuples.)"""
    return [code.co_consts, code.co_names, code.co_filename, code.co_name, code.co_qualname]
