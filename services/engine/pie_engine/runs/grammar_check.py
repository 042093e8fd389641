"""`python -m pie_engine.runs.grammar_check`: compiles grammars where it does no harm if that takes for ever or crashes.

Reads frames from stdin and answers each on stdout: four bytes of length, little-endian, then JSON. The first frame is a
`Vocabulary`, every other one a `Request`; the answer is a `Reply`. Ends with its input.
"""

from __future__ import annotations

import resource
import sys
import threading
from typing import IO

import msgspec
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray

_MEMORY = 4 << 30
_STACK = 4 << 20
"""Less than a thread of the engine has, so that what passes here does not overflow there."""


class Vocabulary(msgspec.Struct):
    """A model's tokenizer: text of its tokenizer.json, number of logits, end tokens."""

    tokenizer: str
    size: int
    eos: list[int]


class Request(msgspec.Struct):
    """A grammar as a program gives it."""

    kind: str
    text: str


class Reply(msgspec.Struct):
    """The grammar in llguidance's own form, or why it is none."""

    grammar: str = ""
    error: str = ""


def limits() -> LLParserLimits:
    """For compilation and for every mask; llguidance's defaults but for the size of a grammar, which sets memory."""
    return LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)


def load(vocabulary: Vocabulary) -> LLTokenizer:
    """Raises ValueError when llguidance cannot tell the bytes of its tokens."""
    return LLTokenizer(vocabulary.tokenizer, n_vocab=vocabulary.size, eos_token=vocabulary.eos or None)


def translate(request: Request) -> str:
    """To llguidance's form. Raises ValueError."""
    match request.kind:
        case "json-schema":
            return LLMatcher.grammar_from_json_schema(request.text)
        case "regex":
            return LLMatcher.grammar_from_regex(request.text)
        case "lark":
            return LLMatcher.grammar_from_lark(request.text)
        case "ebnf":
            return LLMatcher.grammar_from_lark(gbnf_to_lark(request.text))
        case _:
            raise ValueError(f"{request.kind!r} is no kind of grammar")


def check(tokenizer: LLTokenizer, request: Request) -> Reply:
    """Compile, and compute the first mask, which builds what the compiler has put off."""
    try:
        grammar = translate(request)
    except (ValueError, GbnfToLarkError, RecursionError) as exc:
        return Reply(error=str(exc))
    matcher = LLMatcher(tokenizer, grammar, limits=limits(), log_level=0)
    if not matcher.is_error():
        mask_of(matcher, tokenizer.vocab_size)
    return Reply(error=matcher.get_error()) if matcher.is_error() else Reply(grammar=grammar)


def mask_of(matcher: LLMatcher, vocab: int) -> NDArray[np.uint32]:
    """Tokens that may come next, `[ceil(vocab / 32)]` words; all zero once the matcher is in error."""
    mask = np.zeros((vocab + 31) // 32, dtype=np.uint32)
    matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    if matcher.is_error():
        mask[:] = 0
    return mask


def read_frame(stream: IO[bytes]) -> bytes | None:
    """None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(int.from_bytes(head, "little"))


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """Four bytes of length, then the body."""
    stream.write(len(body).to_bytes(4, "little") + body)
    stream.flush()


def main() -> None:
    """Serve until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK)
    thread = threading.Thread(target=_serve)
    thread.start()
    thread.join()


def _serve() -> None:
    first = read_frame(sys.stdin.buffer)
    if first is None:
        return
    tokenizer = load(msgspec.json.decode(first, type=Vocabulary))
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        reply = check(tokenizer, msgspec.json.decode(frame, type=Request))
        write_frame(sys.stdout.buffer, msgspec.json.encode(reply))


if __name__ == "__main__":
    main()
