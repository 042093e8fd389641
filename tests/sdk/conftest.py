"""The real SDK inside the real generic component, with the scripted host of the Wasm tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pie_runner.wasm.engine import WasmEngine
from pie_runner.wasm.program import Program

sys.path.insert(0, str(Path(__file__).parents[1] / "runner" / "wasm"))

from lab import Lab, python_program


@pytest.fixture(scope="session")
def engine() -> Iterator[WasmEngine]:
    made = WasmEngine()
    yield made
    made.close()


@pytest.fixture(scope="session")
def python(engine: WasmEngine) -> Program:
    return python_program(engine)


@pytest.fixture
def lab(engine: WasmEngine) -> Iterator[Lab]:
    made = Lab(engine)
    yield made
    made.close()
