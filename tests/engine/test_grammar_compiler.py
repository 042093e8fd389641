"""Compiling grammars: every kind, what is refused, and what a grammar may not do to the engine."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest
from pie_engine.models import byte_tokenizer
from pie_engine.runs.grammar_compiler import MAX_TEXT, Compilation, GrammarCompiler
from pie_wire.errors import Overloaded, TooLarge, Unsupported
from pie_wire.messages import engine as wire

TOKENIZER = byte_tokenizer.files()["tokenizer.json"]
WAIT = 60.0


def make(tokenizer: bytes = TOKENIZER, seconds: float = 5.0) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, byte_tokenizer.VOCAB, byte_tokenizer.EOS_IDS, lambda: None, seconds=seconds)


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    made = make()
    yield made
    made.close()


def compiled(compiler: GrammarCompiler, kind: str, text: str) -> Compilation:
    compilation = compiler.compile(wire.Grammar(kind, text))  # type: ignore[arg-type]
    assert compilation.done.wait(WAIT)
    return compilation


def allowed(bits: np.ndarray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())


@pytest.mark.parametrize(
    ("kind", "text", "first"),
    [
        ("regex", "(yes|no)", {ord("y"), ord("n")}),
        ("json-schema", '{"type": "boolean"}', {ord("t"), ord("f")}),
        ("lark", 'start: "a" | NUMBER\nNUMBER: /[0-9]+/', {ord("a"), *range(ord("0"), ord("9") + 1)}),
        ("ebnf", 'root ::= "x" | "y" root', {ord("x"), ord("y")}),
    ],
)
def test_every_kind_gives_masks(compiler, kind, text, first):
    constraint = compiler.start(compiled(compiler, kind, text))
    (mask,) = constraint.masks([])
    assert allowed(mask.bits()) == first


def test_a_constraint_follows_tokens_and_looks_behind_drafts(compiler):
    constraint = compiler.start(compiled(compiler, "regex", "(yes|no)"))
    drafts = list(b"yes")
    assert constraint.accepts([*drafts, ord("x")]) == 3
    masks = [allowed(mask.bits()) for mask in constraint.masks(drafts)]
    assert masks == [{ord("y"), ord("n")}, {ord("e")}, {ord("s")}, set(byte_tokenizer.EOS_IDS)]
    for token in b"no":
        assert not constraint.finished
        constraint.take(token)
    assert constraint.finished
    assert constraint.error is None


def test_marks_of_a_chat_are_never_text(compiler):
    constraint = compiler.start(compiled(compiler, "regex", "(?s:.*)"))
    assert 257 not in allowed(constraint.masks([])[0].bits())
    assert 256 in allowed(constraint.masks([])[0].bits())


def test_runs_of_one_grammar_are_independent(compiler):
    one, two = (compiler.start(compiled(compiler, "regex", "ab")) for _ in range(2))
    one.take(ord("a"))
    assert allowed(one.masks([])[0].bits()) == {ord("b")}
    assert allowed(two.masks([])[0].bits()) == {ord("a")}


@pytest.mark.parametrize("text", ["once", "("])
def test_a_grammar_is_compiled_once(compiler, text):
    assert compiled(compiler, "regex", text) is compiled(compiler, "regex", text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "(?=a)b"),
        ("regex", "("),
        ("json-schema", "{"),
        ("json-schema", '{"$ref": "http://example.com/x.json"}'),
        ("lark", "start: nothing"),
        ("ebnf", 'root ::= ( "a" '),
        ("ebnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
        ("lark", "start: " + "(" * 20000 + '"a"' + ")" * 20000),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(compiler, kind, text):
    error = compiled(compiler, kind, text).error
    assert error is not None
    assert error.code == "bad_request"
    assert len(error.message) <= 2000


def test_a_grammar_that_breaks_the_compiler_breaks_nothing_else(compiler):
    deep = "start: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(8000)) + '\nr8000: "a"'
    error = compiled(compiler, "lark", deep).error
    assert error is not None
    assert error.code == "too_large"
    assert compiled(compiler, "regex", "after").error is None


def test_a_grammar_that_takes_too_long_is_refused():
    impatient = make(seconds=0.2)
    try:
        # The first compilation is given the time to start the process, which is then held up.
        assert compiled(impatient, "regex", "a").error is None
        assert impatient.process is not None
        os.kill(impatient.process, signal.SIGSTOP)
        os.waitid(os.P_PID, impatient.process, os.WSTOPPED | os.WNOWAIT)  # before it can answer
        error = compiled(impatient, "regex", "b").error
        assert isinstance(error, TooLarge)
        assert compiled(impatient, "regex", "c").error is None
    finally:
        impatient.close()


class Panic(BaseException):
    """As the compiler's own panics: no `Exception`."""


@pytest.mark.parametrize("cause", [Panic("a panic"), OSError("no process"), RuntimeError("odd"), TooLarge("slow")])
def test_a_failure_that_is_not_of_the_text_is_not_kept(monkeypatch, cause):
    causes = [cause]
    fragile = make()
    compile_ = fragile._compile

    def fail_once(request):
        if causes:
            raise causes.pop()
        return compile_(request)

    monkeypatch.setattr(fragile, "_compile", fail_once)
    try:
        first = compiled(fragile, "regex", "ab")
        assert first.error is not None
        assert str(cause) in first.error.message
        again = compiled(fragile, "regex", "ab")
        assert again.error is None
        assert compiled(fragile, "regex", "ab") is again
    finally:
        fragile.close()


def test_texts_and_queue_are_bounded():
    idle = make()
    with pytest.raises(TooLarge, match="at most"):
        idle.compile(wire.Grammar("regex", "a" * (MAX_TEXT + 1)))
    with pytest.raises(Overloaded):
        list(map(idle.compile, (wire.Grammar("lark", f'start: "{i}"' + " " * 10_000) for i in range(10_000))))
    idle.close()


def test_a_tokenizer_that_cannot_be_read_is_unsupported():
    strange = make(b'{"model": {}}')
    try:
        error = compiled(strange, "regex", "a").error
        assert isinstance(error, Unsupported)
    finally:
        strange.close()


def test_tokens_of_sentencepiece_are_their_bytes():
    """A vocabulary as Llama's and Gemma's: words with a mark for the space, and a token for every other byte."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581yes", "no", "\u2581", "y"]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": words[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i in range(3)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
    pieces = GrammarCompiler(json.dumps(tokenizer).encode(), len(words) + 5, [2], lambda: None)
    try:
        constraint = pieces.start(compiled(pieces, "regex", " yes|no|\u00e9"))
        names = {words[i] for i in allowed(constraint.masks([])[0].bits())}
        assert names == {"\u2581yes", "no", "\u2581", "<0x20>", "<0x6E>", "<0xC3>"}
        constraint.take(words.index("<0xC3>"))
        assert {words[i] for i in allowed(constraint.masks([])[0].bits())} == {"<0xA9>"}
    finally:
        pieces.close()
