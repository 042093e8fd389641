"""A causal language model of the transformers library, run packed and paged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pie_wire.errors import BadRequest, NotFound
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from pie_engine.kernels.attention import Attention, AttentionPass
from pie_engine.kernels.choice import fitting
from pie_engine.kernels.decode_graphs import DecodeGraphs, Graph
from pie_engine.kernels.kv_pool import KvPool, page_bytes
from pie_engine.models.base import ModelInfo, ModelOutput, read_tokenizer_files
from pie_engine.models.decode_pass import CudaGraph, DecodePass
from pie_engine.models.family_check import check_family
from pie_engine.models.llama import LlamaPasses, is_supported
from pie_engine.models.lora import LoraStore
from pie_engine.models.lora_file import LoraAdapter, read_adapter
from pie_engine.models.lora_hooks import LoraHooks, adaptable_of
from pie_engine.models.lora_tables import LoraTables
from pie_engine.models.packed_linear import LinearRoute, linear_route, pack_linears
from pie_engine.models.paged_attention import NAME, attending
from pie_engine.passes.batch import Batch
from pie_engine.passes.device import LoadedAdapter
from pie_engine.passes.outputs import Int32Array

DTYPES: Final[Mapping[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TransformersModel:
    """`Model` over a `PreTrainedModel` that is on the CPU in its final number format."""

    def __init__(
        self,
        model: PreTrainedModel,
        attention: Attention,
        *,
        name: str,
        folder: Path | None = None,
        pack: bool = True,
        record: Callable[[DecodePass], Graph] | None = None,
    ) -> None:
        """Takes the model over: its attention is replaced and, on a CPU, its linear layers are packed. With `record`
        decodes are replayed."""
        self._model = model.eval().requires_grad_(False)
        self._attention = fitting(attention, _head_dim(model.config.get_text_config()))
        self._folder = folder
        self._pool: KvPool | None = None
        self._record = record
        self._graphs: DecodeGraphs | None = None
        self._model.set_attn_implementation(NAME)
        route = linear_route(model.dtype) if pack and model.device.type == "cpu" else None
        fingerprint = _fingerprint(model, folder)
        self.adaptable = adaptable_of(model, name)
        self._passes: LlamaPasses | None = None
        self._onednn_from: int | None = None
        if route is not None:
            pack_linears(model, route)
            self._onednn_from = route.onednn_from
            if route.native is not None and is_supported(model, route.native):
                self._passes = LlamaPasses(model, route.native)
        self._lora = LoraStore()
        self._tables = LoraTables(int(model.config.get_text_config().num_hidden_layers))
        self._hooks = LoraHooks({path: model.get_submodule(path) for path in self.adaptable.linears})
        config = model.config.get_text_config()
        self.info = ModelInfo(
            name=name,
            fingerprint=fingerprint,
            architecture=type(model).__name__,
            dtype=str(model.dtype).removeprefix("torch."),
            vocab_size=int(config.vocab_size),
            max_context=_max_context(config),
            layers=int(config.num_hidden_layers),
            kv_heads=_kv_heads(config),
            head_dim=_head_dim(config),
            eos_ids=_eos_ids(model),
            backend=self._backend(route),
        )

    def _backend(self, route: LinearRoute | None) -> str:
        if route is None:
            return self._attention.name + ("+graphs (unverified)" if self._record is not None else "")
        if self._passes is None:
            return f"{self._attention.name}+{route.name}"
        return f"{self._attention.name}+native-llama+{route.name}"

    def allocate(self, pages: int, page_size: int) -> None:
        info = self.info
        self._pool = KvPool(
            pages, info.layers, info.kv_heads, info.head_dim, page_size, self._model.dtype, self._model.device
        )

        self._graphs = DecodeGraphs(self._capture, scratch_page=pages) if self._record is not None else None

    def _capture(self, rows: int, width: int) -> Graph:
        record, pool = self._record, self._kv()
        if record is None:
            raise BadRequest("this model records no decodes")
        return record(DecodePass(self._model, pool, rows, width, pool.scratch_page))

    def page_bytes(self, page_size: int) -> int:
        info = self.info
        return page_bytes(info.layers, info.kv_heads, info.head_dim, page_size, self._model.dtype.itemsize)

    def forward(self, batch: Batch) -> ModelOutput:
        pool = self._pool
        if pool is None:
            raise BadRequest("the KV pool has not been allocated; call allocate() before the first pass")
        with torch.inference_mode():
            pool.copy_pages(batch.copies)
            replayed = self._replayed(batch)
            if replayed is not None:
                return ModelOutput(replayed.cpu())
            attention = self._attention.begin(batch, pool)
            if self._passes is not None and self._is_ours(batch):
                return self._passes.run(batch, attention, self._tables.begin(batch, self._lora.adapters))
            return self._run_plainly(batch, attention)

    def _replayed(self, batch: Batch) -> Tensor | None:
        if self._graphs is None or batch.adapted:
            return None
        # What is recorded must not have the adapters of the pass before.
        self._hooks.use(self._lora.begin(batch, self._model.device))
        return self._graphs.run(batch)

    def _is_ours(self, batch: Batch) -> bool:
        """So many rows that oneDNN is faster are the plain model's."""
        return self._onednn_from is None or batch.rows < self._onednn_from

    def _run_plainly(self, batch: Batch, attention: AttentionPass) -> ModelOutput:
        with attending(attention):
            device = self._model.device
            self._hooks.use(self._lora.begin(batch, device))
            rows = batch.logit_rows
            if batch.hidden_rows.size:
                rows = np.union1d(rows, batch.hidden_rows)
            read: list[Tensor] = []
            hook = self._watch_head(read) if batch.hidden_rows.size else None
            try:
                result = self._model(
                    input_ids=torch.from_numpy(batch.tokens).long().to(device)[None],
                    position_ids=torch.from_numpy(batch.positions).long().to(device)[None],
                    use_cache=False,
                    logits_to_keep=torch.from_numpy(rows).long().to(device),
                )
            finally:
                if hook is not None:
                    hook.remove()
            logits = result.logits[0].cpu()
            if hook is None:
                return ModelOutput(logits)
            hidden = read[0][0][np.searchsorted(rows, batch.hidden_rows)].cpu()
            return ModelOutput(logits[np.searchsorted(rows, batch.logit_rows)], hidden)

    def _watch_head(self, read: list[Tensor]) -> RemovableHandle:
        """Collect what the output layer reads: `[1, rows, hidden size]`."""
        head = cast("nn.Module", self._model.get_output_embeddings())
        return head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]:
        return self._kv().read_pages(pages)

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None:
        self._kv().write_pages(pages, blocks)

    @property
    def slot_bytes(self) -> int:
        return self._kv().slot_bytes

    def _kv(self) -> KvPool:
        if self._pool is None:
            raise BadRequest("the KV pool has not been allocated; call allocate() before the first pass")
        return self._pool

    def move(self, slots: Int32Array) -> None:
        if self._pool is not None:
            self._pool.move(slots)

    def erase(self, slots: Int32Array) -> None:
        if self._pool is not None:
            self._pool.erase(slots)

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        return read_adapter(Path(folder), self.adaptable, most, self._model.device)

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        if not isinstance(adapter, LoraAdapter):
            raise BadRequest("this adapter was not read by this model")
        self._lora.keep(slot, adapter)

    def drop_adapter(self, slot: int) -> None:
        self._tables.drop(slot)
        self._lora.drop(slot)

    def tokenizer_files(self) -> dict[str, bytes]:
        return read_tokenizer_files(self._folder) if self._folder is not None else {}


def load(
    folder: Path, attention: Attention, *, dtype: str = "bfloat16", name: str = "", device: str = "cpu"
) -> TransformersModel:
    """Load a model folder (config.json, safetensors). Raises NotFound, BadRequest or Unsupported, each with the
    remedy."""
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} has no config.json; give a model folder, or pull one with `pie model pull smollm2`")
    if dtype not in DTYPES:
        raise BadRequest(f"dtype {dtype!r} is not offered; choose one of {', '.join(DTYPES)}")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as exc:
        raise BadRequest(f"{folder / 'config.json'} cannot be read as a model's configuration: {exc}") from exc
    # The log is lines, not a bar that redraws itself.
    disable_progress_bar()
    check_family(config, lambda model: TransformersModel(model, attention, name="check", pack=device == "cpu"))
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise BadRequest(f"the weights in {folder} cannot be loaded: {exc}; pull the model again") from exc
    model.to(device)  # pyright: ignore[reportArgumentType]
    memory: Any = torch.cuda.graph_pool_handle() if device == "cuda" else None
    record = (lambda decode: CudaGraph(decode, memory)) if device == "cuda" else None
    return TransformersModel(model, attention, name=name or folder.name, folder=folder, record=record)


def _max_context(config: Any) -> int:
    """Positions the model takes. Rotations that are stretched once a context grows beyond the original length would
    depend on what else is in the pass, so such a model keeps to that length."""
    longest = int(config.max_position_embeddings)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", longest
        )
        return min(longest, int(original))
    return longest


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
        head = parameter.detach().reshape(-1)[:64].float().cpu().numpy().tobytes()
        digest.update(name.encode() + head)
    return digest.hexdigest()
