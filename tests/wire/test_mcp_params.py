"""Parameters of tool servers' calls: the quick check refuses what the thorough one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pie_wire.errors import BadRequest, Unsupported
from pie_wire.mcp_calls import check_params, checked_params

Check = Callable[[str, str], object]


@pytest.mark.parametrize("check", [check_params, checked_params])
@pytest.mark.parametrize(
    "params",
    [
        '{"name": "", "arguments": {}}',
        '{"name": 1}',
        '{"name": null}',
        '{"arguments": {}}',
        '{"name": "a", "arguments": [1]}',
        '{"name": "a", "arguments": null}',
        '{"name": "a", "arguments": {"a": }}',
        "[]",
        "{",
    ],
)
def test_what_is_no_call_is_refused(check: Check, params: str):
    with pytest.raises(BadRequest):
        check("tools/call", params)


@pytest.mark.parametrize("check", [check_params, checked_params])
def test_what_is_one_is_taken(check: Check):
    check("tools/call", '{"name": "a", "arguments": {"b": [1, {}]}}')
    check("tools/call", '{"name": "a"}')
    check("tools/list", "")
    with pytest.raises(Unsupported):
        check("tools/forget", "{}")
