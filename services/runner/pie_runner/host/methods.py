"""Host functions made of methods, for resources that do not need to know who calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

T = TypeVar("T")


def method(function: Callable[..., object]) -> HostFunction:
    """A method (or function) as a host function: the fiber is left out."""

    def call(_fiber: Fiber, *arguments: Any) -> object:
        return function(*arguments)

    return call


def reading(_resource: type[T], read: Callable[[T], object]) -> HostFunction:
    """A getter of a resource of that class."""
    return method(read)
