"""A configuration of the same family with everything small, so that a model of it is made and run in a moment.

What decides the kind of attention stays; every size that attention depends on becomes small enough for a few dozen
tokens to reach it.
"""

from __future__ import annotations

from typing import Any, Final

from transformers import PreTrainedConfig

HEAD_DIM: Final = 32
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_SMALL: Final = {
    # Reach of a row: chunks, windows, the number of keys that sparse attention keeps.
    "attention_chunk_size": 16,
    "keep_window_size": 16,
    "index_topk": 8,
    "sliding_window": 16,
    # Experts.
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "intermediate_size_mlp": 96,
    # Embeddings per layer.
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 512,
}
_AT_MOST: Final = {"num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1}


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """The text model of `config` with as many layers as it has kinds of them (two at least), 2 to 4 heads of 32, and a
    vocabulary of 512."""
    text = config.get_text_config()
    values: dict[str, Any] = text.to_dict()
    values.pop("quantization_config", None)
    names: dict[str, str] = text.attribute_map
    small = {names.get(name, name): value for name, value in _sizes(text).items()}
    return type(text).from_dict(values | small)


def _sizes(text: PreTrainedConfig) -> dict[str, Any]:
    heads = min(4, int(text.num_attention_heads))
    key_heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    kinds = sorted(set(getattr(text, "layer_types", None) or ()))
    layers = max(2, len(kinds))
    small: dict[str, Any] = {
        "hidden_size": HEAD_DIM * heads,
        "intermediate_size": 96,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    if getattr(text, "num_key_value_heads", None):
        small["num_key_value_heads"] = max(1, heads // 2) if key_heads < int(text.num_attention_heads) else heads
    if getattr(text, "head_dim", None):
        small["head_dim"] = HEAD_DIM
    if kinds:
        small["layer_types"] = [kinds[index % len(kinds)] for index in range(layers)]
    rope: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    if "short_factor" in rope:
        pairs = int(HEAD_DIM * float(rope.get("partial_rotary_factor", 1.0))) // 2
        small["rope_parameters"] = rope | {name: rope[name][:pairs] for name in ("short_factor", "long_factor")}
    small |= {name: size for name, size in _SMALL.items() if getattr(text, name, None)}
    small |= {name: min(most, int(getattr(text, name))) for name, most in _AT_MOST.items() if getattr(text, name, None)}
    small |= {name: min(4, int(getattr(text, name))) for name in _EXPERTS if getattr(text, name, None)}
    return small
