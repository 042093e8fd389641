"""From the configured model name to a model that is ready for passes."""

from __future__ import annotations

import gc
from pathlib import Path

import structlog
from pie_wire.errors import BadField, Unsupported

from pie_engine.config import EngineConfig
from pie_engine.kernels import native
from pie_engine.models.base import Model
from pie_engine.models.draft_model import check_draft
from pie_engine.models.model_device import ModelDevice
from pie_engine.passes.build import build
from pie_engine.passes.device import Device
from pie_engine.passes.outputs import Output, Sampler
from pie_engine.passes.segment import Segment
from pie_engine.runs.drafting import DraftedDevice

_WARM_ROWS = 16

log = structlog.get_logger("pie.engine")


def load_model(config: EngineConfig) -> Model:
    """The model without its KV pool. Raises a typed error that says what is wrong with the folder or script."""
    # transformers takes seconds to import, which a script need not wait for.
    if config.script is not None:
        from pie_engine.models.scripted import load_script

        return load_script(config.script)
    return _load_folder(config, config.model)


def _load_folder(config: EngineConfig, folder: str) -> Model:
    import torch

    from pie_engine.kernels.choice import choose_attention
    from pie_engine.models.transformers_model import load

    if config.device == "cuda" and not torch.cuda.is_available():
        raise Unsupported("torch sees no CUDA device: install a CUDA build of torch, or set --device cpu")
    return load(Path(folder).expanduser(), choose_attention(config.device), dtype=config.dtype, device=config.device)


def ready_device(config: EngineConfig) -> tuple[Model, Device, int]:
    """Load, allocate the pool, and return model, device and number of pages."""
    native.load()  # compiled now where they never were, so that no pass waits for it
    model = load_model(config)
    draft: Model | None = None
    if config.draft_model:
        draft = _load_folder(config, config.draft_model)
        check_draft(model, draft)
    per_page = model.page_bytes(config.page_size) + (draft.page_bytes(config.page_size) if draft is not None else 0)
    pages = config.kv_bytes() // per_page
    if pages < 2:
        raise BadField(f"kv_memory {config.kv_memory} holds no two pages of {per_page} bytes: give it more")
    model.allocate(pages, config.page_size)
    device: Device = ModelDevice(model, threads=config.threads)
    if draft is not None:
        draft.allocate(pages, config.page_size)
        device = DraftedDevice(device, ModelDevice(draft, threads=config.threads), scratch_page=pages)
    if config.script is None:
        _warm_up(device, pages, config.page_size)
    # Modules and weights live as long as the process: no collection needs to look at them again.
    gc.collect()
    gc.freeze()
    log.info("model loaded", model=model.info.name, backend=model.info.backend, pages=pages, page_bytes=per_page)
    return model, device, pages


def _warm_up(device: Device, pages: int, page_size: int) -> None:
    """Run what the first request would otherwise wait for: kernels are chosen and threads started at first use."""
    for rows in (min(_WARM_ROWS, page_size), 1):
        asked = Output(rows - 1, rows, Sampler(temperature=1.0, top_p=0.9))
        segment = Segment([0] * rows, range(rows), 0, [0], outputs=(asked,))
        device.execute(build([segment], page_size=page_size, scratch_page=pages))
