"""Compiled code is found again, and trusted only when this installation wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.engine import EngineSettings

SHA = "a" * 64


def put(cache: CodeCache, sha: str = SHA, content: bytes = b"code") -> Path:
    scratch = cache.scratch(sha)
    scratch.write_bytes(content)
    return cache.put(sha, scratch)


def test_found_again(tmp_path: Path):
    cache = CodeCache(tmp_path)
    assert cache.find(SHA) is None

    path = put(cache)

    assert cache.find(SHA) == path
    assert CodeCache(tmp_path).find(SHA) == path, "the key outlives the process"
    assert list(tmp_path.glob("*.part*")) == []


@pytest.mark.parametrize("victim", ["code", "mac"])
def test_what_was_changed_is_refused_and_removed(tmp_path: Path, victim: str):
    cache = CodeCache(tmp_path)
    path = put(cache)
    target = path if victim == "code" else path.with_suffix(".cwasm.mac")
    target.write_bytes(b"\0" + target.read_bytes()[1:])

    assert cache.find(SHA) is None
    assert not path.exists()


def test_what_was_put_there_by_hand_is_refused(tmp_path: Path):
    cache = CodeCache(tmp_path)
    cache.path(SHA).write_bytes(b"evil")

    assert cache.find(SHA) is None


def test_the_least_recently_used_go_first(tmp_path: Path):
    cache = CodeCache(tmp_path, limit_bytes=250)
    names = [letter * 64 for letter in "abc"]
    for age, name in enumerate(names[:2]):
        os.utime(put(cache, name, b"x" * 100), (age, age))
    cache.find(names[0])

    put(cache, names[2], b"x" * 100)

    assert [cache.find(name) is not None for name in names] == [True, False, True]


def test_a_new_entry_stays_even_when_it_is_too_large(tmp_path: Path):
    cache = CodeCache(tmp_path, limit_bytes=10)

    assert put(cache, content=b"x" * 100).exists()


def test_settings_are_part_of_the_name(tmp_path: Path):
    put(CodeCache(tmp_path))

    assert CodeCache(tmp_path, EngineSettings(wasm_stack_bytes=65536)).find(SHA) is None


def test_the_key_is_private(tmp_path: Path):
    CodeCache(tmp_path)

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(PermissionError, match="readable by its owner alone"):
        CodeCache(tmp_path)
