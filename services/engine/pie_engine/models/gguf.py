"""Convert a GGUF file once into a model folder: safetensors in bf16, the tokenizer, the chat template.

`python -m pie_engine.models.gguf SOURCE.gguf FOLDER` prints one line per step; on failure it exits 1 with one
`error:` line. It is a program of its own so that whoever wants the conversion never loads torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gguf.gguf_reader import GGUFReader
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.utils import logging as transformers_logging

from pie_engine.models.gguf_tokenizer import GgufError, GgufVocabulary, build_tokenizer, verify_tokenizer


def convert(source: Path, folder: Path) -> None:
    """Fill the empty or new `folder` from the GGUF at `source`. Raises GgufError; `folder` may then be half full."""
    fields, kinds = _read(source)
    _say(f"reading {source.name}: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common())} tensors")
    vocabulary = GgufVocabulary.from_metadata(fields)

    _say("rebuilding the tokenizer and checking it against the GGUF's metadata")
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(vocabulary).save_pretrained(folder)
    verify_tokenizer(folder, vocabulary)

    _say("dequantising the weights to bf16")
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
        local_files_only=True,
    )
    for name, weight in model.named_parameters():
        if weight.dtype is not torch.bfloat16:
            raise GgufError(f"the weight {name} is {weight.dtype} after conversion, not bf16")
        if not torch.isfinite(weight).all():
            raise GgufError(f"the weight {name} has values that are not finite: the file is damaged")
    _settle_config(model, vocabulary)

    _say("writing safetensors")
    model.save_pretrained(folder)


def _read(source: Path) -> tuple[dict[str, Any], Counter[str]]:
    """Decoded metadata, and how many tensors there are of each storage type."""
    try:
        reader = GGUFReader(source)
    except (OSError, ValueError) as error:
        raise GgufError(f"{source} is not a readable GGUF file: {error}") from error
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, Counter(tensor.tensor_type.name for tensor in reader.tensors)


def _settle_config(model: Any, vocabulary: GgufVocabulary) -> None:
    """Make the folder a plain checkpoint: no trace of GGUF left in the config, special ids as the metadata has them."""
    config = model.config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(vocabulary, name.replace("_token", ""))
        setattr(config, name, value)
        if model.generation_config is not None:
            setattr(model.generation_config, name, value)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if config.max_position_embeddings != vocabulary.context_length:
        raise GgufError(
            f"the model's context is {config.max_position_embeddings} tokens, the GGUF's {vocabulary.context_length}"
        )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m pie_engine.models.gguf SOURCE.gguf FOLDER\n")
        return 2
    source, folder = (Path(argument).absolute() for argument in arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        convert(source, folder)
    except GgufError as error:
        sys.stderr.write(f"error: {source.name}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
