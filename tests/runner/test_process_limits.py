"""Limits of a process, and where they come from."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from pie_runner.config import RunnerConfig
from pie_runner.process_limits import ProcessLimits
from pie_wire.tenants import OwnLimits

NAMES = OwnLimits.__struct_fields__


def test_every_limit_is_a_setting_of_the_runner_that_a_tenant_can_have_of_its_own():
    limits = {field.name: field.type for field in dataclasses.fields(ProcessLimits)}
    settings = {field.name: field.type for field in dataclasses.fields(RunnerConfig)}
    own = {name: kind.removesuffix(" | None") for name, kind in OwnLimits.__annotations__.items()}

    assert own == {name: kind for name, kind in limits.items() if name not in ("tenant", "own")}
    assert own == {name: settings[name] for name in own}


def test_the_settings_of_a_runner_are_its_limits():
    config = RunnerConfig(memory=1, mcp_bytes=2, cpu_seconds=3.5)

    limits = config.process_limits

    assert {name: getattr(limits, name) for name in NAMES} == {name: getattr(config, name) for name in NAMES}


@given(st.sets(st.sampled_from(NAMES)))
def test_a_tenant_has_its_own_where_it_has_any(names: set[str]):
    base = RunnerConfig().process_limits

    limits = base.of_tenant("acme", OwnLimits(**dict.fromkeys(names, 77)))

    for name in NAMES:
        assert getattr(limits, name) == (77 if name in names else getattr(base, name))
        place = f"`{name}` of [acme.process] in the file `tenants`" if name in names else f"`{name}` of the runner"
        assert place in limits.exceeded(name, "why").message


def test_errors_show_the_whole_number():
    error = ProcessLimits(file_bytes=64 << 20, cpu_seconds=0.25).exceeded

    assert "file_bytes = 67108864 (why)" in error("file_bytes", "why").message
    assert "cpu_seconds = 0.25 (why)" in error("cpu_seconds", "why").message
