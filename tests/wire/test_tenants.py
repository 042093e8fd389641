"""The table of what tenants may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from pie_wire.errors import BadRequest
from pie_wire.tenants import TenantLimits, read_tenants

DEFAULTS = TenantLimits(processes=5, contexts=0)


def test_a_tenants_own_limits_go_over_the_defaults(tmp_path: Path):
    file = tmp_path / "tenants.toml"
    file.write_text("[acme]\ncontexts = 7\nown_runner = true\n")

    table = read_tenants(str(file), DEFAULTS)

    assert table.of("acme") == TenantLimits(processes=5, contexts=7, own_runner=True)
    assert table.of("other") is DEFAULTS


def test_without_a_file_all_have_the_defaults():
    assert read_tenants("", DEFAULTS).of("acme") is DEFAULTS


@pytest.mark.parametrize(
    "text",
    [
        "[acme]\ncontexts = -1",
        "[acme]\nnosuch = 1",
        "[acme]\nown_runner = 1",
        "acme = 3",
        "[acme]\npages = 'x'",
        "not toml",
        None,
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, text: str | None):
    file = tmp_path / "tenants.toml"
    if text is not None:
        file.write_text(text)

    with pytest.raises(BadRequest, match=r"tenants\.toml"):
        read_tenants(str(file), DEFAULTS)
