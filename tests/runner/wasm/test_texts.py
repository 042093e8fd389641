"""How much text one call may pass: files and the like as much as there may be, everything else far less."""

from __future__ import annotations

import pytest
from lab import Lab
from pie_runner.host import TABLE
from pie_runner.wasm.host import LONG_TEXTS
from pie_runner.wasm.program import Program
from pie_runner.wasm.values import MOST_TEXT
from pie_wire.errors import LimitExceeded

CALL = """
from inferlet import {what}
def main(size):
    {call}
    return "went on"
"""


def test_the_functions_for_long_texts_are_there():
    assert set(TABLE) >= LONG_TEXTS


@pytest.mark.slow
@pytest.mark.parametrize(("more", "ends"), [(0, False), (1, True)])
def test_a_text_that_is_too_long_ends_the_program(lab: Lab, python: Program, more: int, ends: bool):
    source = CALL.format(what="session", call="session.send('x' * size)")

    launch = lab.run(python, source, MOST_TEXT + more)

    assert isinstance(launch.outcome, LimitExceeded) == ends
    if ends:
        assert "too much in one host call" in launch.error.message
