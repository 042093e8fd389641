"""Errors keep what they say when they travel."""

from __future__ import annotations

import pytest
from pie_wire import errors
from pie_wire.codec import decode_body, encode_body
from pie_wire.errors import ErrorInfo, InternalError, PieError, RemoteError, TooLarge, codes, from_info, to_error


def _classes(root: type[PieError]) -> list[type[PieError]]:
    return [root, *(below for sub in root.__subclasses__() for below in _classes(sub))]


TYPES = [
    cls for cls in _classes(PieError) if cls.__module__ == "pie_wire.errors" and cls not in (PieError, RemoteError)
]


@pytest.mark.parametrize("cls", TYPES)
def test_every_error_survives_the_wire(cls: type[PieError]):
    error = cls("one sentence", cause="gone")

    back = from_info(decode_body(ErrorInfo, encode_body(error.info())))

    assert type(back) is cls
    assert (back.message, back.cause, back.info()) == ("one sentence", "gone", error.info())


def test_codes_are_unique():
    assert len({cls.code for cls in TYPES}) == len(TYPES)
    assert codes() == {cls.code for cls in TYPES}


def test_an_unknown_code_is_kept():
    info = ErrorInfo("tea_break", "back at four", retryable=True, scope="service", cause="clock")

    error = from_info(info)

    assert isinstance(error, RemoteError)
    assert error.info() == info


def test_a_known_code_with_another_meaning_of_retry_is_kept_as_sent():
    info = ErrorInfo("not_found", "not yet", retryable=True)

    assert from_info(info).info() == info


def test_untyped_exceptions_are_defects():
    error = to_error(ZeroDivisionError("division by zero"))

    assert isinstance(error, InternalError)
    assert "ZeroDivisionError" in error.message
    assert to_error(TooLarge("m")).code == "too_large"


def test_a_huge_message_is_cut():
    assert len(PieError("x" * (1 << 20)).info().message) == errors.MAX_MESSAGE_CHARS
