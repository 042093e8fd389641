"""The native kernels are built once, by one process, kept whole, and missing without harm."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_int, c_int64
from pathlib import Path

import pytest
import structlog
from pie_engine.kernels import native
from pie_engine.kernels.native_build import BuildError, find_compiler

ISAS = [isa for isa in ("avx2", "avx512bf16") if isa in {native.best_isa(native._processor_flags(), isa)}]
needs_compiler = pytest.mark.skipif(find_compiler() is None or not ISAS, reason="no C++ compiler, or no such processor")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Kernels that take no time to compile."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    (folder / "answer.cpp").write_text(
        '#include "answer.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'
    )
    return folder


@pytest.fixture
def forget():
    """What `load` found is forgotten before and after."""
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def answer(folder: Path, sources: Path) -> int:
    return native.load_from(folder, ISAS[0], sources).function("answer", returns=c_int)()


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


@needs_compiler
def test_is_built_once(tmp_path, sources):
    assert answer(tmp_path / "home", sources) == 42
    (built,) = libraries(tmp_path / "home")
    when = built.stat().st_ino

    assert answer(tmp_path / "home", sources) == 42

    assert [path.stat().st_ino for path in libraries(tmp_path / "home")] == [when]
    assert not list((tmp_path / "home").glob("build-*"))


@needs_compiler
def test_changed_sources_are_built_anew(tmp_path, sources):
    answer(tmp_path / "home", sources)
    (sources / "answer.h").write_text("#define ANSWER 43\n")

    assert answer(tmp_path / "home", sources) == 43
    assert len(libraries(tmp_path / "home")) == 2


@needs_compiler
@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"no library" + data[10:]])
def test_a_damaged_library_is_built_anew(tmp_path, sources, harm):
    answer(tmp_path / "home", sources)
    (path,) = libraries(tmp_path / "home")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(harm(data))

    assert answer(tmp_path / "home", sources) == 42


@needs_compiler
def test_a_library_that_does_not_load_is_built_anew(tmp_path, sources, monkeypatch):
    answer(tmp_path / "home", sources)
    opened = native.ctypes.CDLL
    failures = iter([OSError("wrong ELF class")])

    def refuse_once(name: str):
        for failure in failures:
            raise failure
        return opened(name)

    monkeypatch.setattr(native.ctypes, "CDLL", refuse_once)

    assert answer(tmp_path / "home", sources) == 42


@needs_compiler
def test_concurrent_processes_build_once(tmp_path, sources):
    spawn = multiprocessing.get_context("fork")
    start = spawn.Event()
    answers = spawn.Queue()

    def child() -> None:
        start.wait()
        answers.put(answer(tmp_path / "home", sources))
        answers.close()
        answers.join_thread()
        os._exit(0)

    children = [spawn.Process(target=child) for _ in range(4)]
    for process in children:
        process.start()
    start.set()

    assert [answers.get(timeout=60) for _ in children] == [42] * 4
    for process in children:
        process.join(60)
    assert len(libraries(tmp_path / "home")) == 1


@needs_compiler
def test_refused_sources_are_named(tmp_path, sources):
    (sources / "answer.cpp").write_text("int answer() { return nonsense; }")

    with pytest.raises(BuildError, match="nonsense"):
        answer(tmp_path / "home", sources)


@needs_compiler
def test_a_folder_that_cannot_be_written_is_named(tmp_path, sources):
    (tmp_path / "home").write_text("a file")

    with pytest.raises(BuildError, match="PIE_HOME"):
        answer(tmp_path / "home", sources)


@needs_compiler
def test_a_library_serves_without_the_compiler(tmp_path, sources, monkeypatch):
    answer(tmp_path / "home", sources)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)

    assert answer(tmp_path / "home", sources) == 42


def test_without_a_compiler_torch_serves_and_the_log_says_so_once(tmp_path, monkeypatch, forget):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("PIE_NATIVE", raising=False)
    monkeypatch.setattr(native, "_processor_flags", lambda: native._LEVELS["avx2"])

    with structlog.testing.capture_logs() as lines:
        assert native.load() is None
        assert native.load() is None

    assert [line["event"] for line in lines] == ["no native kernels: torch serves, slower"]
    assert "install g++" in lines[0]["reason"]


def test_can_be_switched_off(monkeypatch, forget):
    monkeypatch.setenv("PIE_NATIVE", "0")

    assert native.load() is None


def test_levels():
    avx2, avx512 = native._LEVELS["avx2"], native._LEVELS["avx512bf16"]
    assert native.best_isa(avx512) == "avx512bf16"
    assert native.best_isa(avx512, "avx2") == "avx2"
    assert native.best_isa(avx2) == "avx2"
    assert native.best_isa(avx2, "avx512bf16") is None
    assert native.best_isa(frozenset()) is None


@pytest.fixture(scope="module", params=ISAS)
def kernels(request) -> native.Native:
    if find_compiler() is None:
        pytest.skip("no C++ compiler")
    return native.load_from(native.pie_home() / "native", request.param)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parallel_loops_do_every_piece_once(kernels, threads):
    total = kernels.function("pie_pool_sum", c_int, c_int64, returns=c_int64)

    for pieces in (0, 1, 2, 7, 1000):
        for _ in range(50):
            assert total(threads, pieces) == pieces * (pieces - 1) // 2


def test_parallel_loops_of_several_callers(kernels):
    total = kernels.function("pie_pool_sum", c_int, c_int64, returns=c_int64)

    with ThreadPoolExecutor(4) as callers:
        sums = list(callers.map(lambda _: total(3, 100), range(200)))

    assert set(sums) == {4950}


def test_who_waits_for_the_pieces_of_others_leaves_them_the_core(kernels):
    nap = kernels.function("pie_pool_nap", c_int, c_int64, c_int64)
    nap(3, 3, 1)
    began, computed = time.perf_counter(), time.thread_time()

    for _ in range(5):
        nap(3, 5, 40)  # in turns 2 + 2 + 1: whoever is through first waits for the others

    assert time.thread_time() - computed < 0.25 * (time.perf_counter() - began)


def test_parallel_loops_after_a_fork(kernels):
    total = kernels.function("pie_pool_sum", c_int, c_int64, returns=c_int64)
    total(2, 100)
    child = os.fork()
    if child == 0:
        os._exit(0 if total(2, 100) == 4950 else 1)

    assert os.waitpid(child, 0)[1] == 0
