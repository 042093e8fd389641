"""Fixtures of the runner's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

sys.path.insert(0, str(Path(__file__).parent))

from message_store import Store
from runner_world import World

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def model_files() -> dict[str, bytes]:
    """The files an engine would send of a model whose tokens are bytes, with a few special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"])
    return {"tokenizer.json": tokenizer.to_str().encode(), "chat_template.jinja": TEMPLATE.encode()}


@pytest.fixture(scope="session")
def smollm2_files(smollm2: Path) -> dict[str, bytes]:
    """The same of a real model."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
    return {name: (smollm2 / name).read_bytes() for name in names}


@pytest.fixture
def bare_world(model_files: dict[str, bytes]) -> Iterator[World]:
    """A world without engines."""
    world = World(model_files)
    yield world
    world.aside.close()


@pytest.fixture
def world(bare_world: World) -> World:
    """A world with one engine, ready."""
    bare_world.add_engine()
    bare_world.run(lambda: bare_world.runner.engines.names() == ["tiny"] and bare_world.runner.uplink.connected)
    return bare_world


@pytest.fixture
def store(bare_world: World, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Messages of the world's programs."""
    monkeypatch.setattr("pie_kvstore.names.pid", str)  # this world gives processes short names
    bare_world.run(lambda: bare_world.runner.uplink.connected)
    return Store(bare_world)


@pytest.fixture(scope="session")
def oracle(smollm2: Path):
    """transformers' own tokenizer of that model (the class that does not import torch)."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(smollm2)
