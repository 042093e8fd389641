"""What a program can know about where it runs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pie_wire.errors import codes

from pie_runner.process import process_of
from pie_runner.wasm.hostcall import HostFunction

if TYPE_CHECKING:
    from pie_runner.wasm.fiber import Fiber

VERSION = importlib.metadata.version("pie-mq")


def version(_fiber: Fiber) -> str:
    """Version of Pie."""
    return VERSION


def instance_id(fiber: Fiber) -> str:
    """The process id."""
    return process_of(fiber).pid


def user(fiber: Fiber) -> str:
    """Who launched it."""
    return process_of(fiber).scope.user


def tenant(fiber: Fiber) -> str:
    """Of whoever launched it."""
    return process_of(fiber).scope.tenant


def program(fiber: Fiber) -> str:
    """`name@version`."""
    return process_of(fiber).title


def arguments(fiber: Fiber) -> str:
    """The launch input as JSON text."""
    return process_of(fiber).input


def models(fiber: Fiber) -> list[str]:
    """Names of the loaded models, the default one first."""
    return process_of(fiber).facilities.engines.names()


def set_cause(fiber: Fiber, code: str) -> None:
    """What the program's failure follows from."""
    if code in codes():
        process_of(fiber).cause = code


FUNCTIONS: Mapping[str, HostFunction] = {
    "version": version,
    "instance-id": instance_id,
    "user": user,
    "tenant": tenant,
    "program": program,
    "arguments": arguments,
    "models": models,
    "set-cause": set_cause,
}
