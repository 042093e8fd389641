"""Where the files of programs lie on a runner's disk.

HOME/scratch/RUNNER-INCARNATION/PID/   of one process
HOME/data/USER/PROGRAM/                of a user and a program, by digests; `owner.json` says of whom

A runner holds a lock on its own folder of scratch as long as it lives; whoever starts removes those that nobody holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from pathlib import Path
from typing import IO

import msgspec
import structlog
from pie_wire.errors import QuotaExceeded
from pie_wire.hub import Scope
from pie_wire.messages.common import ProgramRef

from pie_runner.engines import Offload
from pie_runner.outside.tree import Tree, TreeLimits
from pie_runner.process_limits import ProcessLimits
from pie_runner.turns import Turns

log = structlog.get_logger("pie.files")


class FileRooms:
    """See the module's text."""

    def __init__(self, home: Path, member: str, offload: Offload, threads: int = 1) -> None:
        """`member` is unique to this incarnation of the runner. What takes the disk's time runs by `offload`, which has
        so many threads. Removes what dead runners have left."""
        self._turns = Turns(offload, threads)
        self._data = home / "data"
        self._scratch = home / "scratch" / member
        self._lock = _claim(self._scratch)

    def offload(self, tenant: str) -> Offload:
        """What runs a tenant's work with the disk."""
        return self._turns.of(tenant)

    def scratch(self, pid: str, limits: ProcessLimits) -> Tree:
        """The tree of a process; nothing is made before it is used."""
        bounds = _bounds("scratch_bytes", limits.scratch_bytes, limits)
        return Tree(self._scratch / _plain(pid), bounds, durable=False)

    def data(self, scope: Scope, ref: ProgramRef, limits: ProcessLimits) -> Tree:
        """The tree of a user and a program, all its versions. An uploaded file is another program than an installed one
        of the same name. Touches the disk. Raises QuotaExceeded."""
        user = {"tenant": scope.tenant, "user": scope.user}
        owner = _encode(user | {"program" if ref.version else "file": ref.name})
        theirs = self._data / _digest(_encode(user))
        folder = theirs / _digest(owner)
        if not (folder / "owner.json").exists():
            theirs.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_programs(theirs, scope, limits)
            folder.mkdir(exist_ok=True, mode=0o700)
            (folder / "owner.json").write_bytes(owner)
        return Tree(folder, _bounds("data_bytes", limits.data_bytes, limits), durable=True)

    def close(self) -> None:
        """The runner ends: nothing of scratch is left."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._lock.close()


def _check_programs(theirs: Path, scope: Scope, limits: ProcessLimits) -> None:
    most = limits.data_programs
    if most and sum(1 for _ in theirs.iterdir()) >= most:
        raise QuotaExceeded(
            f"{most} programs of user {scope.user} have files in /data, and data_programs = {most}: use one of them, "
            f"or ask the operator to remove what is no longer needed of data/{theirs.name}, or to raise it "
            f"({limits.where('data_programs')})"
        )


def _bounds(name: str, size: int, limits: ProcessLimits) -> TreeLimits:
    return TreeLimits(name, size, limits.file_entries, limits.file_bytes, limits.where)


def _claim(folder: Path) -> IO[str]:
    """Make and lock a folder of scratch; the others that nobody holds are removed."""
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (parent / "lock").open("w") as gate:  # nobody sees a folder that is made and not locked yet
        fcntl.flock(gate, fcntl.LOCK_EX)
        for other in parent.iterdir():
            if other.is_dir() and not other.is_symlink():
                _remove_if_dead(other)
        folder.mkdir(mode=0o700)
        lock = (folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def _remove_if_dead(folder: Path) -> None:
    try:
        file = (folder / "lock").open("w")
    except FileNotFoundError:
        return  # its runner, which stops now, has just removed it
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        log.info("removing files that a dead runner has left", folder=str(folder))
        shutil.rmtree(folder, ignore_errors=True)


def _encode(owner: dict[str, str]) -> bytes:
    return msgspec.json.encode(owner, order="deterministic")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _plain(pid: str) -> str:
    """A process id as a folder's name."""
    return pid if pid.isalnum() and len(pid) <= 64 else hashlib.sha256(pid.encode()).hexdigest()
