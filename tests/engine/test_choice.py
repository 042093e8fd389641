"""Which attention serves, with kernels and without."""

from __future__ import annotations

from pie_engine.kernels import choice, native
from pie_engine.kernels.choice import available_attentions, choose_attention, fitting
from pie_engine.kernels.native_attention import NativeAttention
from pie_engine.kernels.torch_attention import TorchAttention


def test_kernels_serve_the_cpu_where_there_are_any(monkeypatch):
    made = object.__new__(NativeAttention)
    monkeypatch.setattr(choice.native, "load", object)
    monkeypatch.setattr(choice, "NativeAttention", lambda kernels: made)
    assert choose_attention("cpu") is made
    assert [type(found) for found in available_attentions("cpu")] == [NativeAttention, TorchAttention]


def test_the_twin_serves_without_kernels(monkeypatch):
    native.load.cache_clear()
    monkeypatch.setenv("PIE_NATIVE", "0")
    try:
        assert [type(found) for found in available_attentions("cpu")] == [TorchAttention]
    finally:
        native.load.cache_clear()


def test_kernels_are_not_asked_for_other_devices(monkeypatch):
    monkeypatch.setattr(choice.native, "load", lambda: 1 / 0)
    assert choose_attention("cuda").name == "torch"


def test_the_twin_takes_heads_that_kernels_cannot():
    kernels = object.__new__(NativeAttention)
    assert fitting(kernels, 64) is kernels
    assert fitting(kernels, 24).name == "torch"
    assert fitting(TorchAttention(), 24).name == "torch"
