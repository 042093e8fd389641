"""Stop strings against plain text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pie_runner.detokenizer import Detokenizer
from pie_runner.stop_strings import StopStrings
from pie_runner.text_stream import TextStream
from pie_runner.tokenizers import Tokenizer

TEXT = st.text("abc", max_size=4)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3)


def oracle(pieces: list[str], stops: list[str]) -> tuple[str, int | None]:
    """The text before the first string, and the number of pieces it took; None when none is complete."""
    text = ""
    for count, piece in enumerate(pieces, 1):
        text += piece
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], count
    return text, None


@given(st.lists(TEXT, max_size=12), STOPS)
def test_text_ends_before_the_first_string_in_whatever_pieces_it_comes(pieces: list[str], stops: list[str]):
    followed = StopStrings(stops)
    shown, ended = "", None
    for count, piece in enumerate(pieces, 1):
        shown += followed.feed(piece)
        # What is held back could still become a stop string.
        held = "".join(pieces[:count])[len(shown) :]
        assert followed.found or not held or any(stop.startswith(held) for stop in stops)
        if followed.found:
            ended = count
            break
    if ended is None:
        shown += followed.finish()

    assert (shown, ended) == oracle(pieces, stops)


def test_nothing_comes_after_the_string():
    followed = StopStrings(["END"])

    assert followed.feed("a E") == "a "
    assert followed.feed("ND b") == ""
    assert followed.found
    assert followed.feed("more") == followed.finish() == ""


@given(st.text("aäΩ🦆", max_size=12), st.lists(st.text("aäΩ🦆", min_size=1, max_size=3), min_size=1, max_size=3))
def test_characters_in_several_tokens(model_files: dict[str, bytes], text: str, stops: list[str]):
    tokenizer = Tokenizer(model_files["tokenizer.json"], 300)
    stream = TextStream(Detokenizer(tokenizer), stops)
    shown = ""
    for token in tokenizer.encode(text):
        shown += stream.feed(token)
        if stream.stopped:
            break
    else:
        shown += stream.finish()

    assert shown == oracle(list(text), stops)[0]


def test_text_may_be_looked_through_without_being_shown(model_files: dict[str, bytes]):
    tokenizer = Tokenizer(model_files["tokenizer.json"], 300)
    stream = TextStream(Detokenizer(tokenizer), ["c"], shown=False)

    assert [stream.feed(token) for token in tokenizer.encode("abc")] == ["", "", ""]
    assert stream.stopped
    assert stream.finish() == ""
