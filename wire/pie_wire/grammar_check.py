"""Grammars are foreign text for a large compiler: a process of its own compiles them first, and can be killed.

Both sides of that process, for every service that takes grammars; which compiler it is, each says itself. Frames on
stdin and stdout are four bytes of length, little-endian, then JSON. The first one is a `Vocabulary`, every other one a
grammar; its answer is a `Verdict`.
"""

from __future__ import annotations

import os
import resource
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

import msgspec

from pie_wire.errors import BadRequest, TooLarge, Unavailable
from pie_wire.messages.engine import Grammar
from pie_wire.process import die_with_parent

SECONDS = 5.0
START_SECONDS = 30.0
_MEMORY = 4 << 30
_STACK = 4 << 20
"""Less than a thread of the services has, so that what passes here does not overflow there."""


class Vocabulary(msgspec.Struct, frozen=True):
    """A tokenizer.json, the number of logits, and the end tokens."""

    tokenizer: str
    size: int
    eos: Sequence[int]


class Verdict(msgspec.Struct, frozen=True):
    """The grammar in the compiler's own form, or why it is none."""

    grammar: str = ""
    error: str = ""


class CheckingProcess:
    """One process at a time, for one vocabulary at a time; started when needed. Used by one thread; only `close` may be
    called from another."""

    def __init__(self, module: str, seconds: float = SECONDS) -> None:
        """`module` is run with `python -m`, and calls `serve_checks`. `seconds`: for one grammar."""
        self._module = module
        self._seconds = seconds
        self._vocabulary: Vocabulary | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._checking = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    def check(self, vocabulary: Vocabulary, source: Grammar) -> str:
        """The grammar in the compiler's form. Waits, at most for the limits of time.

        Raises:
            BadRequest: it is none. TooLarge: it takes too long or too much memory. Unavailable: no process starts.
        """
        with self._checking:
            return self._check(vocabulary, source)

    def close(self) -> None:
        """End the process, and a check with it; no other is started."""
        with self._starting:
            self._closed = True
            child = self._child
            if child is not None:
                child.kill()
        with self._checking:
            # Whoever checked has read the end by now: only then the pipes may be closed.
            self._kill()

    def _check(self, vocabulary: Vocabulary, source: Grammar) -> str:
        seconds = self._seconds
        try:
            if self._child is None or self._child.poll() is not None or self._vocabulary is not vocabulary:
                self._start(vocabulary)
                seconds += START_SECONDS
            verdict = msgspec.json.decode(self._ask(msgspec.json.encode(source), seconds), type=Verdict)
        except TimeoutError:
            self._kill()
            raise TooLarge(
                f"the grammar takes more than {self._seconds:.0f} s to compile: simplify it, above all its repetitions"
            ) from None
        except (EOFError, BrokenPipeError):
            self._kill()
            raise TooLarge(
                "the grammar broke its compiler, by its memory or its depth: simplify it, above all nested rules"
            ) from None
        if verdict.error:
            raise BadRequest(f"the {source.kind} grammar cannot be compiled: {verdict.error}"[:2000])
        return verdict.grammar

    def _start(self, vocabulary: Vocabulary) -> None:
        self._kill()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with self._starting:
            if self._closed:
                raise Unavailable("the service is shutting down")
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", self._module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    env=environment,
                )
            except OSError as exc:
                raise Unavailable(f"the process that compiles grammars cannot be started: {exc}") from exc
            self._vocabulary = vocabulary
        self._write(msgspec.json.encode(vocabulary))

    def _ask(self, body: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        self._write(body)
        child = self._child
        if child is None or child.stdout is None:
            raise EOFError
        data = b""
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ)
            while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                more = os.read(child.stdout.fileno(), 1 << 16)
                if not more:
                    raise EOFError
                data += more
        return data[4:]

    def _write(self, body: bytes) -> None:
        # Whole frames are read before anything is computed, so writing waits for no longer than reading does.
        child = self._child
        if child is None or child.stdin is None:
            raise EOFError
        view = memoryview(_frame(body))
        while view:
            view = view[child.stdin.write(view) :]

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()


def serve_checks(load: Callable[[Vocabulary], Callable[[Grammar], Verdict]]) -> None:
    """Be that process until stdin ends, with bounded memory and stack. `load` makes the compiler of a vocabulary."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK)
    thread = threading.Thread(target=_serve, args=(load,))
    thread.start()
    thread.join()


def _serve(load: Callable[[Vocabulary], Callable[[Grammar], Verdict]]) -> None:
    first = _read_frame(sys.stdin.buffer)
    if first is None:
        return
    check = load(msgspec.json.decode(first, type=Vocabulary))
    while (body := _read_frame(sys.stdin.buffer)) is not None:
        verdict = check(msgspec.json.decode(body, type=Grammar))
        sys.stdout.buffer.write(_frame(msgspec.json.encode(verdict)))
        sys.stdout.buffer.flush()


def _read_frame(stream: IO[bytes]) -> bytes | None:
    """None at the end."""
    head = stream.read(4)
    return stream.read(int.from_bytes(head, "little")) if len(head) == 4 else None


def _frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body
