"""`python -m pie_runner.grammars.checker`: compiles grammars where it does no harm if that takes for ever, or crashes.

Reads frames from stdin and answers on stdout: four bytes of length, little-endian, then JSON. The first frame is a
`Vocabulary`, every other one a grammar; its answer is a `Verdict`. Ends with its input.
"""

from __future__ import annotations

import resource
import sys
import threading
from typing import IO

import msgspec
from llguidance.gbnf_to_lark import GbnfToLarkError
from pie_wire.messages.engine import Grammar
from pie_wire.process import die_with_parent

from pie_runner.grammars.vocabulary import Vocabulary, allowed_bits, new_matcher, translated

_MEMORY = 4 << 30
_STACK = 4 << 20
"""Less than a thread of the runner has, so that what passes here does not overflow there."""


class Verdict(msgspec.Struct, frozen=True):
    """The grammar in llguidance's own form, or why it is none."""

    grammar: str = ""
    error: str = ""


def read_frame(stream: IO[bytes]) -> bytes | None:
    """None at the end."""
    head = stream.read(4)
    return stream.read(int.from_bytes(head, "little")) if len(head) == 4 else None


def frame(body: bytes) -> bytes:
    """A body with its length."""
    return len(body).to_bytes(4, "little") + body


def _serve() -> None:
    first = read_frame(sys.stdin.buffer)
    if first is None:
        return
    vocabulary = msgspec.json.decode(first, type=Vocabulary)
    tokenizer = vocabulary.load()
    while (body := read_frame(sys.stdin.buffer)) is not None:
        verdict = Verdict()
        try:
            grammar = translated(msgspec.json.decode(body, type=Grammar))
        except (ValueError, GbnfToLarkError, RecursionError) as exc:
            verdict = Verdict(error=str(exc) or type(exc).__name__)
        else:
            matcher = new_matcher(tokenizer, grammar)
            if not matcher.is_error():
                # Builds what the compiler has put off.
                allowed_bits(matcher, vocabulary.size)
            verdict = Verdict(error=matcher.get_error()) if matcher.is_error() else Verdict(grammar=grammar)
        sys.stdout.buffer.write(frame(msgspec.json.encode(verdict)))
        sys.stdout.buffer.flush()


def main() -> None:
    """Serve until stdin ends."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK)
    thread = threading.Thread(target=_serve)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
