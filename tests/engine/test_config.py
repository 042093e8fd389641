"""The engine's configuration says what is wrong before anything is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pie_engine.config import EngineConfig, parse_bytes
from pie_engine.models.loading import load_model
from pie_wire.errors import BadField, NotFound, Unsupported


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2**31), ("1.5 gb", 1_500_000_000), ("500MB", 500_000_000), ("64Ki", 65536), ("7", 7)]
)
def test_amounts_of_memory(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "1TBx", "GiB"])
def test_what_is_no_amount(text):
    with pytest.raises(BadField):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": ""}, BadField),
        ({"model": "/nowhere"}, NotFound),
        ({"model": "scripted:/nowhere"}, NotFound),
        ({"page_size": 0}, BadField),
        ({"threads": -1}, BadField),
        ({"step_ms": 0.0}, BadField),
        ({"kv_memory": "much"}, BadField),
    ],
)
def test_checked_before_loading(tmp_path, change, error):
    (tmp_path / "config.json").write_text("{}")
    good = EngineConfig(model=str(tmp_path))
    good.check()
    with pytest.raises(error):
        replace(good, **change).check()


def test_cuda_without_a_device_is_refused_with_the_remedy(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(Unsupported, match="--device cpu"):
        load_model(EngineConfig(model=str(tmp_path), device="cuda"))
