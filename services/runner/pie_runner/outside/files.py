"""The files of one process: its rights, and its two trees, made when they are first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pie_wire.capabilities import Capabilities, Room
from pie_wire.errors import Unsupported
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef

from pie_runner.engines import Offload
from pie_runner.outside.file_paths import FilePath
from pie_runner.outside.file_rooms import FileRooms
from pie_runner.outside.tree import Entry, Tree
from pie_runner.process_limits import ProcessLimits

T = TypeVar("T")

ROOMS: tuple[Room, Room] = ("data", "scratch")


class ProcessFiles:
    """Checks happen at once; the work that a method returns is for a worker thread."""

    def __init__(
        self,
        capabilities: Capabilities,
        rooms: FileRooms | None,
        pid: str,
        scope: Scope,
        ref: ProgramRef,
        limits: ProcessLimits,
    ) -> None:
        self._capabilities = capabilities
        self._rooms = rooms
        self._pid = pid
        self._scope = scope
        self._ref = ref
        self._limits = limits
        self._scratch: Tree | None = None

    def place(self, text: str) -> FilePath:
        """A path that the program may use. Raises BadRequest, Forbidden, NotFound, Unsupported."""
        path = FilePath.parse(text)
        room = path.room
        self._capabilities.require(
            lambda grants: room in grants.filesystem, f"Use of {path}", f'filesystem = ["{room}"]', f"fs={room}"
        )
        return path

    def work(self, path: FilePath, action: Callable[[Tree], T]) -> Callable[[], T]:
        """An action on the tree that a path lies in."""
        rooms = self._kept
        if path.room == "data":
            return lambda: action(rooms.data(self._scope, self._ref, self._limits))
        if self._scratch is None:
            self._scratch = rooms.scratch(self._pid, self._limits)
        scratch = self._scratch
        return lambda: action(scratch)

    def granted_rooms(self) -> list[Entry]:
        """What `/` holds."""
        links: list[Capabilities] = []
        link: Capabilities | None = self._capabilities
        while link is not None:
            links.append(link)
            link = link.parent
        open_rooms = [
            room for room in ROOMS if all(room in c.asked.filesystem and room in c.granted.filesystem for c in links)
        ]
        return [Entry(room, "folder", 0, 0) for room in open_rooms]

    def close(self) -> None:
        """The process has ended: its scratch goes."""
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            self.offload(scratch.destroy, _ignore)

    @property
    def offload(self) -> Offload:
        """What runs the work."""
        return self._kept.offload(self._scope.tenant)

    @property
    def _kept(self) -> FileRooms:
        if self._rooms is None:
            raise Unsupported("this runner keeps no files")
        return self._rooms


def _ignore(_: object, _error: Exception | None) -> None:
    """`destroy` logs what it could not do."""
