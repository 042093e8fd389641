"""Llama and its kin as one native call per pass, over the weights that the model's packed layers hold.

The layout: RMS norm, query/key/value, rotary positions, attention, output, RMS norm, SiLU-gated MLP; with biases, norms
of queries and keys, or sliding windows where the family has them. transformers' own model stays beside it and computes
what this one does not: both read the same weights.
"""

from __future__ import annotations

from ctypes import byref, c_int32, c_void_p
from typing import Any, Final

import torch
from pie_wire.errors import BadRequest
from torch import Tensor
from transformers import PreTrainedModel

from pie_engine.kernels.attention import AttentionPass
from pie_engine.kernels.linear import FORMATS, LinearWeight, NativeLinear, join
from pie_engine.kernels.llama_pass import Attending, Llama, LlamaLayer, LlamaPass
from pie_engine.kernels.native import Native
from pie_engine.models.base import ModelOutput
from pie_engine.models.lora_tables import NativeLora
from pie_engine.models.packed_linear import PackedLinear
from pie_engine.passes.batch import Batch

FAMILIES: Final = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

_HEAD_MULTIPLE: Final = 16


class LlamaPasses:
    """Runs passes of one model. The model's weights and rotary positions stay the model's."""

    def __init__(self, model: PreTrainedModel, native: Native) -> None:
        """`model` is one that `is_supported` accepts."""
        self._model = model
        self._run = native.function("pie_llama_pass", c_void_p, c_void_p, returns=c_int32)
        self._panel = native.function("pie_llama_output_multiple", returns=c_int32)()
        self._kept: list[object] = []
        base: Any = model.model
        config = model.config
        layers = [self._layer(layer, config) for layer in base.layers]
        table = (LlamaLayer * len(layers))(*layers)
        head: Any = model.lm_head
        attention = base.layers[0].self_attn
        self._dtype = model.dtype
        self._rotary = base.rotary_emb
        self._vocab = int(config.vocab_size)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._dim = int(attention.head_dim)
        self._llama = Llama(
            layers=table,
            embedding=base.embed_tokens.weight.data_ptr(),
            norm=self._floats(base.norm.weight),
            head=_native(head).weight,
            layer_count=len(layers),
            vocab=self._vocab,
            hidden=int(config.hidden_size),
            heads=self._heads,
            kv_heads=self._kv_heads,
            head_dim=self._dim,
            format=FORMATS[self._dtype],
            epsilon=float(base.norm.variance_epsilon),
            scale=float(attention.scaling),
        )
        self._probe = torch.empty(0)

    def run(self, batch: Batch, attention: AttentionPass, lora: NativeLora | None = None) -> ModelOutput:
        """Feed the batch, rows with the adapters that `lora` has for them. Logits and hidden states are float32. Raises
        BadRequest, or what attention raises."""
        cosines, sines = self._rotary(self._probe, torch.from_numpy(batch.positions)[None])
        cosines, sines = cosines[0].contiguous(), sines[0].contiguous()
        logits = torch.empty(len(batch.logit_rows), self._vocab)
        states = torch.empty(len(batch.hidden_rows), int(self._llama.hidden))
        attending = Attending(attention, batch.rows, self._heads, self._kv_heads, self._dim, self._dtype)
        call = LlamaPass(
            rows=batch.rows,
            tokens=batch.tokens.ctypes.data,
            cosines=cosines.data_ptr(),
            sines=sines.data_ptr(),
            wanted_count=len(logits),
            wanted=batch.logit_rows.ctypes.data,
            logits=logits.data_ptr(),
            state_count=len(states),
            state_rows=batch.hidden_rows.ctypes.data,
            states=states.data_ptr(),
            attend=attending.function,
            plan=attending.plan,
            threads=torch.get_num_threads(),
            lora=lora.address if lora is not None else None,
        )
        if self._run(byref(self._llama), byref(call)) != 0:
            raise BadRequest(f"a token of the pass is outside of the vocabulary of {self._vocab}")
        attending.check()
        return ModelOutput(logits, states if len(states) else None)

    def _layer(self, layer: Any, config: Any) -> LlamaLayer:
        attention, mlp = layer.self_attn, layer.mlp
        inputs = [_native(attention.q_proj), _native(attention.k_proj), _native(attention.v_proj)]
        joined = join(inputs, self._panel)
        self._kept += joined
        window = getattr(attention, "sliding_window", None)
        if config.model_type == "mistral":
            window = config.sliding_window
        return LlamaLayer(
            inputs=(LinearWeight * 3)(*(linear.weight for linear in joined)),
            input_count=len(joined),
            window=int(window or 0),
            output=_native(attention.o_proj).weight,
            gate=_native(mlp.gate_proj).weight,
            up=_native(mlp.up_proj).weight,
            down=_native(mlp.down_proj).weight,
            attention_norm=self._floats(layer.input_layernorm.weight),
            mlp_norm=self._floats(layer.post_attention_layernorm.weight),
            query_norm=self._floats(attention.q_norm.weight) if hasattr(attention, "q_norm") else None,
            key_norm=self._floats(attention.k_norm.weight) if hasattr(attention, "k_norm") else None,
        )

    def _floats(self, weight: Tensor) -> int:
        """Address of the weight as float32."""
        kept = weight.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


def is_supported(model: PreTrainedModel, native: Native) -> bool:
    """The family's code is the layout above, its linear layers are ours, and its sizes fit the kernels."""
    if type(model).__name__ not in FAMILIES or model.dtype not in FORMATS or model.config.hidden_act != "silu":
        return False
    wide = native.function("pie_llama_output_multiple", returns=c_int32)()
    narrow = native.function("pie_llama_input_multiple", returns=c_int32)()
    config = model.config
    base: Any = model.model
    attention = base.layers[0].self_attn
    linears = [module for module in model.modules() if isinstance(module, PackedLinear)]
    return (
        len(linears) == 7 * len(base.layers) + 1
        and all(linear.ours is not None for linear in linears)
        and int(config.hidden_size) % narrow == 0
        and int(config.intermediate_size) % wide == 0
        and int(attention.head_dim) % _HEAD_MULTIPLE == 0
        and tuple(base.rotary_emb.inv_freq.shape) == (attention.head_dim // 2,)
    )


def _native(linear: PackedLinear) -> NativeLinear:
    if linear.ours is None:
        raise BadRequest("a layer of the model is not laid out for the native kernels")
    return linear.ours
