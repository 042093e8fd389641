"""The table of what tenants may use."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_wire.errors import BadRequest
from pie_wire.tenants import MOST, OwnLimits, TenantLimits, read_tenants

DEFAULTS = TenantLimits(processes=5, contexts=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tenants.toml"


def test_a_tenants_own_limits_go_over_the_defaults(file: Path):
    file.write_text("[acme]\ncontexts = 7\nown_runner = true\n[acme.process]\ntokens = 9\nwall_seconds = 1.5\n")

    table = read_tenants(str(file), DEFAULTS)

    own = OwnLimits(tokens=9, wall_seconds=1.5)
    assert table.of("acme") == TenantLimits(processes=5, contexts=7, own_runner=True, process=own)
    assert table.of("other") is DEFAULTS


def test_without_a_file_all_have_the_defaults():
    assert read_tenants("", DEFAULTS).of("acme") is DEFAULTS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[acme]\ncontexts = -1", r"\[acme\] contexts is -1"),
        ("[acme]\nnosuch = 1", r"\[acme\]: .*`nosuch`; known: contexts, "),
        ("[acme]\nown_runner = 1", r"\[acme\]: .*own_runner"),
        ("acme = 3", r"expected a table \[acme\]"),
        ("[acme]\npages = 'x'", r"\[acme\]: .*pages"),
        ("[acme]\nprocess = 3", r"\[acme\.process\]: "),
        ("[acme.process]\nnosuch = 1", r"\[acme\.process\]: .*`nosuch`; known: children, "),
        ("[acme.process]\ntokens = -1", r"\[acme\.process\] tokens is -1"),
        ("[acme.process]\ntokens = 1.5", r"\[acme\.process\]: .*tokens"),
        ("[acme.process]\nmemory = true", r"\[acme\.process\]: .*memory"),
        ("[acme.process]\nmemory = 9223372036854775808", r"\[acme\.process\]"),
        ("[acme.process]\ncpu_seconds = nan", r"\[acme\.process\] cpu_seconds is nan"),
        ("[acme.process]\ncpu_seconds = inf", r"\[acme\.process\] cpu_seconds is inf"),
        ("[acme.process.more]\nx = 1", r"\[acme\.process\]: .*`more`"),
        ("not toml", ""),
        (None, ""),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_name_and_what_is_wrong(file: Path, text: str | None, named: str):
    if text is not None:
        file.write_text(text)

    with pytest.raises(BadRequest, match=r"tenants\.toml.*" + named):
        read_tenants(str(file), DEFAULTS)


numbers = st.integers(0, MOST)
times = st.floats(0, 1e9)
limits = st.builds(
    OwnLimits,
    **{name: st.none() | (times if name.endswith("_seconds") else numbers) for name in OwnLimits.__struct_fields__},
)


@given(st.dictionaries(st.text("abc-_09", min_size=1, max_size=4), limits, max_size=4))
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, tenants: dict[str, OwnLimits]):
    file = tmp_path_factory.mktemp("table") / "tenants.toml"
    lines: list[str] = []
    for name, own in tenants.items():
        lines.append(f'["{name}".process]')
        lines += [f"{key} = {value}" for key, value in own.given().items()]
    file.write_text("\n".join(lines))

    table = read_tenants(str(file), DEFAULTS)

    assert {name: table.of(name) for name in tenants} == {
        name: msgspec.structs.replace(DEFAULTS, process=own) for name, own in tenants.items()
    }
    assert table.of("nobody") is DEFAULTS
