"""What host functions may use besides their own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pie_wire.hub import Hub

from pie_runner.children import Children
from pie_runner.engines import Engines
from pie_runner.grammars.compiler import GrammarCompiler
from pie_runner.messaging.post import Post
from pie_runner.outside.process_outside import OutsideFacilities
from pie_runner.tenants import Tenants
from pie_runner.timers import Timers
from pie_runner.turns import Turns


@dataclass(frozen=True)
class Facilities:
    """Shared by all processes of a runner."""

    name: str
    """Of this runner."""
    hub: Hub
    engines: Engines
    children: Children
    post: Post
    timers: Timers
    threads: Turns
    """For work that would hold up the loop."""
    grammars: GrammarCompiler
    wall: Callable[[], float]
    """Unix seconds."""
    window: int
    """Tokens the engine may be ahead when the program does not say."""
    model_wait: float
    """Seconds that `model.load` waits for an engine that is starting."""
    tenants: Tenants
    outside: OutsideFacilities
