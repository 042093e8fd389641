"""Against transformers: the same ids, the same text, the same chats; and text that grows by whole characters."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from itertools import accumulate, pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pie_runner.detokenizer import MAX_HELD, Detokenizer
from pie_runner.models import Model, load_model
from pie_wire.errors import BadRequest, TooLarge, Unsupported
from pie_wire.messages.common import ModelFacts

TRICKY = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces\tand\ttabs\n\n\nand lines\r\n",
    "1234567890 3.14159 1,000,000",
    "naïve café Ünïcödé",
    "日本語のテキストと中文和한국어",
    "👩‍👩‍👧‍👦 family, 🏳️‍🌈 flag, 👍🏽 thumbs",
    "e\u0301 combining, \u200bzero width, \ufeffmark",
    "שלום عليكم",
    "<|im_start|>user\nhi<|im_end|>\n",
    "def f(x):\n    return x ** 2  # comment\n",
    "\x00\x01\x7f",
    "\ufffd is a character too \ufffd",
    "\U0001d518\U0001d52b beyond the basic plane \U00010348",
]


@pytest.fixture(scope="session")
def real(smollm2_files) -> Model:
    return load_model(ModelFacts("smollm2", 49_152, 8192, eos=[2]), smollm2_files)


def pieces(tokenizer, ids, sizes=(1,)):
    decoder = Detokenizer(tokenizer)
    parts, at, i = [], 0, 0
    while at < len(ids):
        size = sizes[i % len(sizes)]
        parts.append(decoder.feed(ids[at : at + size]))
        at, i = at + size, i + 1
    return parts, decoder.finish()


@pytest.mark.parametrize("text", TRICKY)
def test_ids_and_text_are_those_of_transformers(real, oracle, text):
    ids = real.tokenizer.encode(text)

    assert ids == oracle.encode(text, add_special_tokens=False)
    for skip in (False, True):
        assert real.tokenizer.decode(ids, skip_special=skip) == oracle.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("text", TRICKY)
def test_text_grows_by_whole_characters(real, text):
    ids = real.tokenizer.encode(text)
    parts, rest = pieces(real.tokenizer, ids)

    assert "".join(parts) + rest == real.tokenizer.decode(ids, skip_special=True)
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)
        assert rest == ""


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 49_151), max_size=30), st.lists(st.integers(1, 4), min_size=1, max_size=4))
@example([2, 1, 2, 1], [1])
def test_any_ids_in_any_pieces_decode_as_a_whole(real, ids, sizes):
    parts, rest = pieces(real.tokenizer, ids, sizes)

    assert "".join(parts) + rest == real.tokenizer.decode(ids, skip_special=True)


def test_bytes_that_never_become_a_character_are_let_go(real):
    continuation = real.tokenizer.id_of("Ģ")  # the byte 0x80
    assert continuation is not None
    ids = [continuation] * (3 * MAX_HELD)
    decoder = Detokenizer(real.tokenizer)
    parts = [decoder.feed([i]) for i in ids]

    assert any(parts)
    assert "".join(parts) + decoder.finish() == real.tokenizer.decode(ids, skip_special=True)


def test_a_finished_decoder_is_fresh(real):
    decoder = Detokenizer(real.tokenizer)
    half = real.tokenizer.encode("👍")[:1]

    assert decoder.feed(half) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.feed(real.tokenizer.encode("again")) == "again"


def test_ids_outside_the_vocabulary_are_refused(real):
    for ids in ([49_152], [-1], [5, 1 << 31]):
        with pytest.raises(BadRequest, match="vocabulary"):
            real.tokenizer.check(ids)


def test_facts_come_from_the_files(real):
    assert (1, "<|im_start|>") in real.tokenizer.special_tokens
    assert real.eos_ids == [2]
    assert real.stop_ids == [2]


def test_the_bytes_of_every_id_are_known(real):
    packed = base64.b64decode(real.pieces)
    [count] = struct.unpack_from("<I", packed)
    lengths = struct.unpack_from(f"<{count}H", packed, 4)
    ends = accumulate(lengths, initial=4 + 2 * count)
    pieces = [packed[start:end] for start, end in pairwise(ends)]

    assert count == real.facts.vocab
    assert sum(lengths) + 4 + 2 * count == len(packed)
    assert pieces[1] == b"<|im_start|>"
    for text in ("caf\u00e9 \u4f60\u597d", "\U0001f642 <|im_end|>\n  x"):
        assert b"".join(pieces[i] for i in real.tokenizer.encode(text)).decode() == text


def test_bytes_that_nobody_knows_are_unsupported(real):
    mute = Model(real.facts, real.tokenizer, None, real.vocabulary, None)

    with pytest.raises(Unsupported, match="decode ids"):
        _ = mute.pieces


def test_models_without_a_usable_tokenizer_are_refused():
    with pytest.raises(Unsupported, match=r"tokenizer\.json"):
        load_model(ModelFacts("m", 10, 10), {})
    with pytest.raises(Unsupported):
        load_model(ModelFacts("m", 10, 10), {"tokenizer.json": b"{}"})


def test_a_model_without_template_says_so(model_files):
    model = load_model(ModelFacts("m", 300, 10), {"tokenizer.json": model_files["tokenizer.json"]})
    with pytest.raises(Unsupported, match="chat template"):
        _ = model.template


def test_nothing_heavy_is_imported():
    code = (
        "import pie_runner.core, pie_runner.models, pie_runner.host, sys\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


def test_more_tokens_than_can_be_taken_are_never_a_list(real: Model):
    text = "word " * 100

    assert len(real.tokenizer.encode(text, 101)) == 101
    with pytest.raises(TooLarge, match="the text has 101 tokens; at most 100"):
        real.tokenizer.encode(text, 100)
