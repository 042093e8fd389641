"""A component must fit the installed world before anybody runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from pie_bakery.check import check_component, offered_functions
from pie_bakery.commands import check
from pie_bakery.tools import BuildError, run_tool, wasm_tools
from pie_wire.errors import BadProgram, PieError

RUN = "export run: func(input: string) -> result<string, string>;"
ERROR = "interface types { record error { code: string, message: string, retryable: bool } }"


def component(folder: Path, wit: str, world: str = RUN) -> Path:
    """A component that does nothing, but imports and exports this."""
    source, module, made = folder / "w.wit", folder / "m.wasm", folder / "c.wasm"
    source.write_text(f"{wit}\nworld w {{ {world} }}\n")
    tool = wasm_tools()
    run_tool([tool, "component", "embed", "--dummy", "-w", "w", str(source), "-o", str(module)], "embedding")
    run_tool([tool, "component", "new", str(module), "-o", str(made)], "componentizing")
    return made


def test_what_fits_passes(tmp_path: Path):
    wit = "package pie:inferlet@0.1.0;\ninterface clocks { monotonic-now: func() -> u64; }"
    made = component(tmp_path, wit, f"import clocks; {RUN}")

    check_component(made)
    assert CliRunner().invoke(check, [str(made)]).exit_code == 0


@pytest.mark.parametrize(
    ("wit", "world", "words"),
    [
        ("package pie:inferlet@0.1.0;", "export go: func();", "exports no run"),
        ("package pie:inferlet@0.1.0;", "export run: func(input: string) -> string;", "exports no run"),
        ("package a:b; interface c { f: func(); }", f"import c; {RUN}", "a:b/c, which is not offered"),
        ("package pie:inferlet@0.1.0; interface clocks { f: func(); }", f"import clocks; {RUN}", "does not offer"),
        (
            "package pie:inferlet@0.1.0; interface clocks { wall-now: func() -> u32; }",
            f"import clocks; {RUN}",
            "wall-now as func\\(\\) -> u32, but this version offers func\\(\\) -> u64",
        ),
        ("package a:b;", f"import f: func(); {RUN}", "'f', which is no interface"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, wit: str, world: str, words: str):
    with pytest.raises(BadProgram, match=words):
        check_component(component(tmp_path, wit, world))


def test_what_is_no_component(tmp_path: Path):
    (tmp_path / "x.wasm").write_bytes(b"\0asm nonsense")

    with pytest.raises(PieError) as caught:
        check_component(tmp_path / "x.wasm")

    assert isinstance(caught.value, BuildError)


def test_the_offer_is_the_runners(root_of_world: dict[str, set[str]]):
    """The WIT and the list that the runner checks with name the same functions."""
    ours: dict[str, set[str]] = {}
    for module, function in offered_functions():
        ours.setdefault(module.partition("@")[0], set()).add(function)

    assert ours == root_of_world


@pytest.fixture
def root_of_world() -> dict[str, set[str]]:
    from pie_runner.wasm.world import offered_world

    found: dict[str, set[str]] = {}
    for interface, function in offered_world():
        found.setdefault(interface, set()).add(function)
    return found
