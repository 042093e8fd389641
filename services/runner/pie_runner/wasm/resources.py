"""The host objects behind the handles of one fiber."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import structlog
from pie_wire.errors import Unsupported

from pie_runner.wasm import ffi
from pie_runner.wasm.hostcall import HostResource, TooMuchError
from pie_runner.wasm.values import MOST_TEXT, ROOM_IN_WORDS

log = structlog.get_logger()


class ResourceTable:
    """Gives numbers to host objects, finds them again, and closes each exactly once.

    wasmtime runs no destructors for a guest that trapped or was killed, so whoever ends a fiber calls `close_all`.
    """

    __slots__ = ("_context", "_last", "_objects", "_type_ids", "most_text", "room")

    def __init__(self, context: int, type_ids: Mapping[str, int]) -> None:
        self._context = context
        self._type_ids = type_ids
        self._objects: dict[int, HostResource] = {}
        self._last = 0
        self.room = 0
        """What the lists of the call under way may still cost."""
        self.most_text = MOST_TEXT
        """Bytes that a text of this call may have."""

    def __len__(self) -> int:
        return len(self._objects)

    def lift(self, handle: int) -> object:
        """The object behind a borrowed handle. Raises Unsupported for one that the library made."""
        try:
            number = ffi.resource_rep(self._context, handle)
        except ffi.WasmError as exc:
            raise Unsupported(
                "Streams and sockets of WASI cannot be waited for here; use the pie:inferlet interfaces."
            ) from exc
        return self._objects[number]

    def lower(self, value: object, resource: str) -> int:
        """Hand an object to the guest; the table owns it from here on. `resource`: `interface.name`."""
        if not hasattr(value, "close"):
            raise TypeError(f"a {resource} is wanted, not {type(value).__name__}")
        type_id = self._type_ids[resource]
        self._last += 1
        handle = ffi.new_resource(self._context, self._last, type_id)
        self._objects[self._last] = cast(HostResource, value)
        return handle

    def take(self, room: int) -> None:
        """The call passes lists of this cost. Raises TooMuchError."""
        self.room -= room
        if self.room < 0:
            raise TooMuchError(ROOM_IN_WORDS)

    def take_text(self, size: int) -> None:
        """The call passes a text of so many bytes. Raises TooMuchError."""
        if size > self.most_text:
            raise TooMuchError(f"a text of {size:,} bytes, and {self.most_text:,} are the most here")

    def drop(self, rep: int) -> None:
        """The guest dropped its handle."""
        self._objects.pop(rep).close()

    def close_all(self) -> None:
        """Close what is left, youngest first."""
        while self._objects:
            _, resource = self._objects.popitem()
            try:
                resource.close()
            except Exception:
                log.exception("closing a host resource failed", resource=type(resource).__name__)
