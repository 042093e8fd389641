"""Errors of the host, as exceptions."""

from __future__ import annotations

from typing import Any, TypeVar

from componentize_py_types import Err, Ok
from wit_world.imports import types

T = TypeVar("T")


class PieError(Exception):
    """A host function did not do what was asked. `code` is stable (`not_found`, `too_large`, `engine_lost`, ...)."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
        self.retryable = retryable


def unwrap(result: Ok[T] | Err[Any]) -> T:
    """The value of a WIT result, or its error raised."""
    if isinstance(result, Err):
        raise from_wit(result.value)
    return result.value


def from_wit(error: types.Error) -> PieError:
    """The exception for a WIT error record."""
    return PieError(error.code, error.message, error.retryable)


class _HostErrors:
    """A context manager without a generator behind it: it is entered for every host call that can fail."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, Err):
            raise from_wit(exc.value) from None


_HOST_ERRORS = _HostErrors()


def host_errors() -> _HostErrors:
    """Turns the errors of host calls in its block into PieError."""
    return _HOST_ERRORS
