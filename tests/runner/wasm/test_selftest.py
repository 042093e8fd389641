"""The start-up self-test passes here and refuses what it must."""

from __future__ import annotations

import pytest
from pie_runner.wasm import ffi, values
from pie_runner.wasm.selftest import self_test
from pie_wire.errors import InternalError, Unsupported


def test_passes_on_the_pinned_wasmtime():
    self_test()


def test_another_version_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ffi, "VERSION", "51.0.0")

    with pytest.raises(Unsupported, match=r"pip install wasmtime==50\.0\.1"):
        self_test()


def test_a_wrong_value_layout_is_noticed(monkeypatch: pytest.MonkeyPatch):
    values.lifter.cache_clear()
    monkeypatch.setitem(values._NUMBERS, "u64", values._NUMBERS["u32"])
    try:
        with pytest.raises(InternalError, match="self-test"):
            self_test()
    finally:
        values.lifter.cache_clear()
