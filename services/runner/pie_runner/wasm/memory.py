"""This process's memory as numbers, by address: what C wrote is read, and what C will read is written, at the cost
of an index.

`u64[address >> 3]` is the eight bytes there; the other views alike, their index being the address over the item's size.
Slices with a step read and write one field of many equal structures. ctypes' own structures and pointers do the same
thirty times slower, for they make an object for each field on the way.

Nothing is checked: an address that is not mapped ends the process. Only `ffi` and `values` use this, with addresses
that the library gave them.
"""

from __future__ import annotations

import ctypes

_ADDRESSES = 1 << 48
"""User space on 64-bit machines ends here at the latest."""

u8 = memoryview((ctypes.c_uint8 * _ADDRESSES).from_address(0)).cast("B")
s8 = u8.cast("b")
u16 = u8.cast("H")
s16 = u8.cast("h")
u32 = u8.cast("I")
s32 = u8.cast("i")
u64 = u8.cast("Q")
s64 = u8.cast("q")
f32 = u8.cast("f")
f64 = u8.cast("d")


def text(address: int) -> str:
    """Of a `wasm_byte_vec_t` (size, data) at this address."""
    size = u64[address >> 3]
    if not size:
        return ""
    data = u64[(address >> 3) + 1]
    return str(u8[data : data + size], "utf-8", "replace")
