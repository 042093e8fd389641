"""Compilation happens in another process, once for all who ask, and ends when told to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest
from echo_component import echo_component
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.compiler import Compiler
from pie_runner.wasm.types import Prim
from pie_wire.errors import BadProgram, DeadlineExceeded
from test_program import RUN


def component(folder: Path) -> Path:

    wasm = folder / "program.wasm"
    wasm.write_text(f"(component {RUN})")
    return wasm


def test_compiles_once_for_all_who_ask(tmp_path: Path):
    async def scenario() -> tuple[list[Path], list[str]]:
        compiler = Compiler(CodeCache(tmp_path / "code"))
        said: list[str] = []
        wasm = component(tmp_path)
        paths = await asyncio.gather(*[compiler.compile(wasm, said.append) for _ in range(3)])
        paths.append(await compiler.compile(wasm, said.append))
        return paths, said

    paths, said = asyncio.run(scenario())

    assert len(set(paths)) == 1
    assert paths[0].exists()
    assert len(said) == 1
    assert said[0].startswith("compiling program.wasm")


def test_a_bad_program_is_a_typed_error(tmp_path: Path):
    wasm = tmp_path / "bad.wasm"
    wasm.write_text(echo_component(Prim("u8")))

    with pytest.raises(BadProgram, match="test:echo/host"):
        asyncio.run(Compiler(CodeCache(tmp_path / "code")).compile(wasm))

    wasm.write_bytes(b"\0asm garbage")
    with pytest.raises(BadProgram, match="not a component that can be compiled"):
        asyncio.run(Compiler(CodeCache(tmp_path / "code")).compile(wasm))


def test_too_slow_is_stopped(tmp_path: Path):
    with pytest.raises(DeadlineExceeded):
        asyncio.run(Compiler(CodeCache(tmp_path / "code"), timeout=0.05).compile(component(tmp_path)))

    assert no_children()


def test_closing_leaves_no_process(tmp_path: Path):
    async def scenario() -> None:
        compiler = Compiler(CodeCache(tmp_path / "code"))
        asking = asyncio.create_task(compiler.compile(component(tmp_path)))
        await asyncio.sleep(0.2)
        await compiler.close()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(scenario())

    assert no_children()


def test_old_code_makes_room_for_new_beyond_the_limit(tmp_path: Path):
    """That of the cache that was asked for, though another process compiles."""

    async def scenario(limit: int) -> list[bool]:
        cache = CodeCache(tmp_path / "code", limit_bytes=limit)
        wasm, paths = component(tmp_path), list[Path]()
        for number in range(3):
            wasm.write_text(f"(component {RUN}) ;; {number}")
            paths.append(await Compiler(cache).compile(wasm))
            os.utime(paths[-1], (number, number))
        return [path.exists() for path in paths]

    assert asyncio.run(scenario(1 << 30)) == [True, True, True]
    size = sum(path.stat().st_size for path in (tmp_path / "code").glob("*.cwasm"))
    for path in (tmp_path / "code").glob("*.cwasm"):
        path.unlink()

    assert asyncio.run(scenario(size - 1)) == [False, True, True]


def no_children() -> bool:
    return [child for child in psutil.Process().children() if "pie_runner.wasm.compiler" in child.cmdline()] == []
