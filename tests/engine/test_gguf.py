"""GGUF conversion: the tokenizer is rebuilt and proven, the weights survive, defects are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pie_engine.models.gguf import main
from pie_engine.models.gguf_tokenizer import (
    GgufError,
    GgufVocabulary,
    ReferenceEncoder,
    build_tokenizer,
    split_rules,
    verify_tokenizer,
)
from tokenizers import pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("1", "2"), ("12", "3"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ċ", "Ċ"))


def small_vocabulary(pre: str) -> GgufVocabulary:
    letters = tuple(bytes_to_unicode().values())
    tokens = SPECIALS + letters + tuple(left + right for left, right in MERGES)
    return GgufVocabulary(
        pre=pre,
        tokens=tokens,
        token_types=(3,) * len(SPECIALS) + (1,) * (len(tokens) - len(SPECIALS)),
        merges=MERGES,
        bos_id=1,
        eos_id=2,
        unk_id=0,
        pad_id=2,
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
        context_length=64,
    )


@pytest.mark.parametrize("pre", ["default", "smollm", "qwen2"])
def test_a_rebuilt_tokenizer_passes_its_own_check(tmp_path: Path, pre: str):
    vocabulary = small_vocabulary(pre)
    build_tokenizer(vocabulary).save_pretrained(tmp_path)
    verify_tokenizer(tmp_path, vocabulary)


def test_a_tokenizer_that_joins_digits_is_found_out(tmp_path: Path):
    vocabulary = small_vocabulary("smollm")
    tokenizer = build_tokenizer(vocabulary)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(GgufError, match="2024"):
        verify_tokenizer(tmp_path, vocabulary)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"eos_id": 0}, "eos"),
        ({"chat_template": "other"}, "template"),
        ({"merges": MERGES[1:]}, "merges"),
        ({"token_types": (3, 3, 3, 3) + (1,) * 259}, "special tokens"),
    ],
)
def test_each_kind_of_difference_is_named(tmp_path: Path, change: dict[str, object], complaint: str):
    build_tokenizer(small_vocabulary("smollm")).save_pretrained(tmp_path)
    vocabulary = dataclasses.replace(small_vocabulary("smollm"), **change)
    with pytest.raises(GgufError, match=complaint):
        verify_tokenizer(tmp_path, vocabulary)


@pytest.mark.parametrize("pre", ["default", "smollm", "qwen2"])
@given(text=st.text(max_size=60))
def test_any_text_encodes_as_the_definition_says(pre: str, text: str):
    vocabulary = small_vocabulary(pre)
    tokenizer = build_tokenizer(vocabulary)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == ReferenceEncoder(vocabulary).encode(text)
    assert tokenizer.decode(ids) == text


def test_an_unknown_pre_tokenizer_is_refused():
    with pytest.raises(GgufError, match="'mystery' is unknown"):
        split_rules("mystery")


def test_another_kind_of_tokenizer_is_refused():
    with pytest.raises(GgufError, match="'llama'"):
        GgufVocabulary.from_metadata({"tokenizer.ggml.model": "llama"})


def test_numbers_are_split_into_digits_by_the_real_model(smollm2: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("2024")) == list("2024")
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    ).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def write_gguf(path: Path, vocabulary: GgufVocabulary) -> dict[str, object]:
    """A llama of one layer with exact weights; returns two of them by their name in transformers."""
    import numpy as np
    from gguf import GGUFWriter

    size, heads, hidden, words = 32, 2, 64, len(vocabulary.tokens)
    random = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        # Multiples of 1/64 below 2 are exact in bf16, so the conversion can be compared bit by bit.
        return (random.integers(-127, 128, size=shape) / 64).astype(np.float32)

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(vocabulary.context_length)
    writer.add_embedding_length(size)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(size // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.token_types))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(str(vocabulary.chat_template))
    embedding, down = weight(words, size), weight(size, hidden)
    tensors = {
        "token_embd.weight": embedding,
        "output_norm.weight": weight(size),
        "blk.0.attn_norm.weight": weight(size),
        "blk.0.ffn_norm.weight": weight(size),
        **{f"blk.0.attn_{name}.weight": weight(size, size) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": weight(hidden, size),
        "blk.0.ffn_up.weight": weight(hidden, size),
        "blk.0.ffn_down.weight": down,
    }
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"model.embed_tokens.weight": embedding, "model.layers.0.mlp.down_proj.weight": down}


def test_a_converted_folder_is_a_plain_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch
    from safetensors.torch import load_file

    expected = write_gguf(tmp_path / "tiny.gguf", small_vocabulary("smollm"))
    out = tmp_path / "out"
    status = main([str(tmp_path / "tiny.gguf"), str(out)])
    assert status == 0, capsys.readouterr().err
    weights = load_file(out / "model.safetensors")
    for name, value in expected.items():
        assert torch.equal(weights[name].float(), torch.from_numpy(value))
    config = json.loads((out / "config.json").read_text())
    assert (config["eos_token_id"], config["max_position_embeddings"], config["tie_word_embeddings"]) == (2, 64, True)
    assert "quantization_config" not in config
    assert (out / "chat_template.jinja").is_file()


def test_a_defect_ends_with_one_error_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_gguf(tmp_path / "odd.gguf", small_vocabulary("mystery"))
    assert main([str(tmp_path / "odd.gguf"), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: odd.gguf: its pre-tokenizer 'mystery' is unknown")
