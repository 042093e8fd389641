"""A causal language model of the transformers library, run packed and paged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pie_wire.errors import BadRequest, NotFound, Unsupported
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pie_engine.batch import Batch, Segment, build
from pie_engine.kernels.attention import Attention
from pie_engine.kernels.kv_pool import KvPool, page_bytes
from pie_engine.models.base import ModelInfo, read_tokenizer_files
from pie_engine.models.packed_linear import can_pack, pack_linears
from pie_engine.models.paged_attention import NAME, attending

DTYPES: Final[Mapping[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_CHECK_LENGTHS: Final = (37, 5, 70)


class TransformersModel:
    """`Model` over a `PreTrainedModel` that is on the CPU in its final number format."""

    def __init__(
        self, model: PreTrainedModel, attention: Attention, *, name: str, folder: Path | None = None, pack: bool = True
    ) -> None:
        """Takes the model over: its attention is replaced and, in bfloat16, its linear layers are packed."""
        self._model = model.eval().requires_grad_(False)
        self._attention = attention
        self._folder = folder
        self._pool: KvPool | None = None
        self._model.set_attn_implementation(NAME)
        packed = pack and can_pack(model.dtype)
        fingerprint = _fingerprint(model, folder)
        if packed:
            pack_linears(model)
        config = model.config.get_text_config()
        self.info = ModelInfo(
            name=name,
            fingerprint=fingerprint,
            architecture=type(model).__name__,
            dtype=str(model.dtype).removeprefix("torch."),
            vocab_size=int(config.vocab_size),
            max_context=int(config.max_position_embeddings),
            layers=int(config.num_hidden_layers),
            kv_heads=_kv_heads(config),
            head_dim=_head_dim(config),
            eos_ids=_eos_ids(model),
            backend=f"{attention.name}+onednn" if packed else attention.name,
        )

    def allocate(self, pages: int, page_size: int) -> None:
        info = self.info
        self._pool = KvPool(pages, info.layers, info.kv_heads, info.head_dim, page_size, self._model.dtype)

    def page_bytes(self, page_size: int) -> int:
        info = self.info
        return page_bytes(info.layers, info.kv_heads, info.head_dim, page_size, self._model.dtype.itemsize)

    def forward(self, batch: Batch) -> Tensor:
        pool = self._pool
        if pool is None:
            raise BadRequest("the KV pool has not been allocated; call allocate() before the first pass")
        with torch.inference_mode(), attending(self._attention.begin(batch, pool)):
            pool.copy_pages(batch.copies)
            wanted = torch.tensor([output.row for output in batch.outputs], dtype=torch.long)
            result = self._model(
                input_ids=torch.from_numpy(batch.tokens).long()[None],
                position_ids=torch.from_numpy(batch.positions).long()[None],
                use_cache=False,
                logits_to_keep=wanted,
            )
            return result.logits[0]

    def tokenizer_files(self) -> dict[str, bytes]:
        return read_tokenizer_files(self._folder) if self._folder is not None else {}


def load(folder: Path, attention: Attention, *, dtype: str = "bfloat16", name: str = "") -> TransformersModel:
    """Load a model folder (config.json, safetensors). Raises NotFound, BadRequest or Unsupported, each with the
    remedy."""
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} has no config.json; give a model folder, or pull one with `pie model pull smollm2`")
    if dtype not in DTYPES:
        raise BadRequest(f"dtype {dtype!r} is not offered; choose one of {', '.join(DTYPES)}")
    config = AutoConfig.from_pretrained(folder)
    check_family(config, attention)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True)
    return TransformersModel(model, attention, name=name or folder.name, folder=folder)


def check_family(config: PreTrainedConfig, attention: Attention) -> None:
    """Refuse a model family that our attention does not serve faithfully.

    A tiny random model of the same configuration runs twice, plainly by transformers and paged by us in two chunks with
    contexts mixed; raises Unsupported when the logits differ.
    """
    small = _shrink(config)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(0)
        plain = AutoModelForCausalLM.from_config(small, dtype=torch.float32, attn_implementation="eager").eval()
        sequences = [torch.randint(3, small.get_text_config().vocab_size, (n,)).tolist() for n in _CHECK_LENGTHS]
    finally:
        torch.random.set_rng_state(state)
    try:
        with torch.inference_mode():
            expected = [plain(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] for ids in sequences]
        paged = TransformersModel(plain, attention, name="check", pack=False)
        paged.allocate(16, 16)
        tables = [list(range(3)), [3], list(range(4, 9))]
        for chunk in (lambda n: (0, n // 2), lambda n: (n // 2, n - 1), lambda n: (n - 1, n)):
            ranges = [chunk(len(ids)) for ids in sequences]
            segments = [
                Segment(ids[start:end], range(start, end), start, table)
                for ids, table, (start, end) in zip(sequences, tables, ranges, strict=True)
            ]
            actual = paged.forward(_with_last_rows(segments))
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as exc:
        raise Unsupported(
            f"model family {config.model_type!r} does not run with paged attention ({type(exc).__name__}: {exc}); "
            "choose another model"
        ) from exc
    for ours, theirs in zip(actual, expected, strict=True):
        if not torch.allclose(ours, theirs, atol=2e-4 * max(1.0, float(theirs.abs().max()))):
            raise Unsupported(
                f"model family {config.model_type!r} gives other results with paged attention; choose another model"
            )


def _with_last_rows(segments: list[Segment]) -> Batch:
    from dataclasses import replace

    from pie_engine.batch import LogitsProbe, Output

    asking = [replace(s, outputs=(Output(len(s.tokens) - 1, 0, LogitsProbe()),)) for s in segments]
    return build(asking, page_size=16, scratch_page=16)


def _shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same family with two narrow layers and a small vocabulary."""
    values: dict[str, Any] = config.to_dict()
    text: dict[str, Any] = values.get("text_config") or values
    heads = min(4, int(text["num_attention_heads"]))
    grouped = int(text.get("num_key_value_heads") or text["num_attention_heads"]) < int(text["num_attention_heads"])
    layer_types: list[str] | None = text.get("layer_types")
    kinds = sorted(set(layer_types)) if layer_types else []
    layers = max(2, len(kinds))
    small: dict[str, Any] = {
        "hidden_size": 32 * heads,
        "intermediate_size": 96,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    if text.get("num_key_value_heads"):
        small["num_key_value_heads"] = max(1, heads // 2) if grouped else heads
    if text.get("head_dim"):
        small["head_dim"] = 32
    if layer_types:
        small["layer_types"] = [kinds[index % len(kinds)] for index in range(layers)]
    if text.get("sliding_window"):
        small["sliding_window"] = 16
    merged = {key: value for key, value in text.items() if key != "quantization_config"} | small
    return type(config.get_text_config()).from_dict(merged)


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _eos_ids(model: PreTrainedModel) -> tuple[int, ...]:
    found: int | list[int] | None = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (int(found),)


def _fingerprint(model: PreTrainedModel, folder: Path | None) -> str:
    """Digest over configuration, number format and the head of every weight: what makes KV of two models
    exchangeable."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(str(model.dtype).encode())
    for name, parameter in model.named_parameters():
        head = parameter.detach().reshape(-1)[:64].float().numpy().tobytes()
        digest.update(name.encode() + head)
    return digest.hexdigest()
