"""When the cyclic garbage collector works in a service that has started."""

from __future__ import annotations

import gc

_YOUNG = 5_000
"""Objects made more than freed before the young ones are looked at."""


def settle() -> None:
    """What a service has made until now stays as long as it runs: the collector need not look at it again. What comes
    and goes with a launch is freed by its reference counts; the collector is for the rest, and looks more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, 10)
