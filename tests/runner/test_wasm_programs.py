"""Real Wasm fibers in the real core: Python source in the prepared component, components, and what may be wrong."""

from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path

import pytest
from pie_bakery import prepare_python_runtime
from pie_runner.disk_cache import DiskCache
from pie_runner.service import find_python_runtime
from pie_runner.turns import Turns
from pie_runner.wasm.cache import CodeCache
from pie_runner.wasm.driver import Driver
from pie_runner.wasm.fiber import Fiber
from pie_runner.wasm_programs import Launch
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.config import pie_home
from pie_wire.errors import BadField, HashMismatch
from pie_wire.messages.common import ProgramRef
from pie_wire.messages.gateway import AskTool, ToolAnswered
from pie_wire.messages.runner import Kill, Start
from pie_wire.tenants import OwnLimits, TenantLimits, TenantTable
from runner_world import World
from wasm_world import running_driver, with_programs
from web_server import BIG, serving

STREAM = """
import asyncio
from inferlet import Context

async def main(prompt="hi", n=5):
    base = Context()
    base.system("Be terse.").user(prompt)

    async def one(context):
        return [step.tokens async for step in context.generate(max_tokens=n)]

    return await asyncio.gather(*(one(base.fork()) for _ in range(3)))
"""


@pytest.fixture(scope="module")
def runtime() -> Path:
    prepare_python_runtime(pie_home())
    found = find_python_runtime("", pie_home())
    assert found is not None
    return found


@pytest.fixture(scope="module")
def driver():
    with running_driver() as driver:
        yield driver


@pytest.fixture
def wasm(world: World, driver: Driver, runtime: Path, tmp_path: Path) -> World:
    with_programs(world, driver, tmp_path, memory=256 << 20)
    world.chunk = 4096
    return world


def test_python_source_runs_with_everything_behind_it(wasm):
    last = wasm.outcome(STREAM, text='{"prompt": "hello", "n": 4}')

    assert last.kind == "return", last
    streams = json.loads(last.text)
    assert [len(stream) for stream in streams] == [4, 4, 4]
    wasm.run(0.3)
    assert wasm.engine.contexts == 0
    assert wasm.engine.pages_owned == 0
    assert not wasm.host.driver.fibers


@pytest.mark.parametrize(
    "source", ["def main(): print(1)", "def main(): return 1 / 0", "def main(): raise SystemExit(3)"]
)
def test_what_has_ended_is_freed_without_the_garbage_collector(wasm, source: str):
    gc.collect()
    gc.disable()
    try:
        wasm.outcome(source)
        wasm.run(0.3)
        left = [each for each in gc.get_objects() if isinstance(each, Fiber | Launch)]
    finally:
        gc.enable()

    assert left == []


def test_output_and_failures_name_the_authors_file_and_line(wasm):
    source = "import sys\nprint('out')\nprint('err', file=sys.stderr)\ndef main():\n    return 1 / 0\n"
    last = wasm.outcome(source, filename="mine.py")

    assert [(e.kind, e.text) for e in wasm.log()[-3:-1]] == [("stdout", "out\n"), ("stderr", "err\n")]
    assert last.error.code == "program_error"
    assert 'File "mine.py", line 5' in last.error.message
    assert "ZeroDivisionError" in last.error.message


SPELLS = """
from inferlet import Model

def main(text):
    model = Model.load()
    tokenizer = model.tokenizer()
    pieces = tokenizer.vocabulary
    return [len(pieces) == model.vocab_size, b"".join(pieces[i] for i in tokenizer.encode(text)).decode()]
"""


def test_a_program_knows_the_bytes_of_tokens(wasm):
    text = "h\u00e9llo<|end|>"

    last = wasm.outcome(SPELLS, text=json.dumps({"text": text}))

    assert json.loads(last.text) == [True, text], last


FETCHES = """
import asyncio
from inferlet import PieError, http

async def main(base):
    async def one(path, **options):
        with await http.get(base + path, **options) as answer:
            return answer.status, answer.ok, len(await answer.read())

    posted = await http.post(base + "/echo", json={"a": 1}, headers={"x-a": "b"})
    answers = await asyncio.gather(one("/big"), one("/to?/echo"), one("/none"))
    try:
        await http.get("http://elsewhere.example/")
    except PieError as exc:
        return [await posted.json(), posted.headers["x-twice"], answers, exc.code]
"""


def test_a_program_speaks_http(wasm):
    with serving() as web:
        granted = Grants(http=["127.0.0.1:*"])
        base = json.dumps({"base": web.url("")})
        last = wasm.outcome(FETCHES, text=base, capabilities=Capabilities(granted, granted), real_time=True)

    assert last.kind == "return", last
    assert json.loads(last.text) == [
        {"a": 1},
        "a, b",
        [[200, True, BIG], [200, True, 0], [404, False, 12]],
        "forbidden",
    ]
    assert web.seen[0].headers["content-type"] == "application/json"


KEEPS = """
from inferlet import PieError, files

def main(n):
    files.make_folder("/scratch/a")
    files.write("/scratch/a/text", "line\\n")
    files.append("/scratch/a/text", b"more")
    files.write("/data/big", bytes(n))
    files.append("/data/big", b"end")
    files.rename("/scratch/a/text", "/scratch/text")
    listed = [(e.name, e.is_folder, e.size) for e in files.list("/scratch")]
    big = files.read("/data/big")
    assert files.read("/data/big", n) == b"end" and files.read("/data/big", 0, 2) == bytes(2)
    assert files.exists("/data/big") and not files.exists("/data/none")
    files.remove("/scratch/a", recursive=True)
    try:
        files.read("/data/../etc/passwd")
    except PieError as exc:
        return [files.read_text("/scratch/text"), listed, len(big), exc.code]
"""


def test_a_program_keeps_files(wasm, tmp_path):
    host, cache = wasm.host, wasm.runner.artifacts.cache
    wasm.keep_files(tmp_path)
    wasm.host = wasm.runner.host = host
    wasm.runner.artifacts.cache = cache
    granted = Grants(filesystem=["scratch", "data"])
    last = wasm.outcome(KEEPS, text=json.dumps({"n": 9 << 20}), capabilities=Capabilities(granted, granted))

    assert last.kind == "return", last
    listed = [["a", True, 0], ["text", False, 9]]
    assert json.loads(last.text) == ["line\nmore", listed, (9 << 20) + 3, "forbidden"]


CALLS = """
import asyncio
from inferlet import PieError, mcp

async def main():
    server = mcp.connect("house")
    found = await asyncio.gather(server.tools(), server.call("add", a=1), server.resources(), server.read("note://x"),
        server.prompts(), server.prompt("ask", topic="cats"))
    try:
        mcp.connect("other")
    except PieError as exc:
        return [mcp.servers(), found, exc.code]
"""


def test_a_program_calls_tools(wasm):
    wasm.gateway.hub.on(AskTool, lambda incoming: ToolAnswered(json.dumps([incoming.message.method])))
    asked = Capabilities(Grants(mcp=["house"]))
    last = wasm.outcome(CALLS, capabilities=asked, mcp=["house"])

    assert last.kind == "return", last
    methods = ["tools/list", "tools/call", "resources/list", "resources/read", "prompts/list", "prompts/get"]
    assert json.loads(last.text) == [["house"], [[method] for method in methods], "forbidden"]


def test_many_run_side_by_side(wasm):
    for i in range(8):
        wasm.start(STREAM, pid=f"p{i}", text=json.dumps({"n": 3 + i}), name="stream")
    wasm.run(lambda: all(wasm.ended(f"p{i}") for i in range(8)))

    for i in range(8):
        assert [len(stream) for stream in json.loads(wasm.log(f"p{i}")[-1].text)] == [3 + i] * 3


SPINS = "def main():\n    while True: pass\n"
SLEEPS = "import time\ndef main():\n    time.sleep(1e6)\n"
RECEIVES = "from inferlet import session\nasync def main():\n    await session.receive()\n"


@pytest.mark.parametrize("source", [SPINS, SLEEPS, RECEIVES])
def test_a_kill_ends_it_wherever_it_is(wasm, source):
    wasm.start(source)
    wasm.run(lambda: wasm.log() != [], limit=5.0)
    for _ in range(3):
        wasm.turn()
    wasm.push(Kill("p1", "by the test"))
    wasm.run(wasm.ended, limit=5.0)

    assert wasm.log()[-1].error.code == "terminated", wasm.log()[-1].error
    assert not wasm.host.driver.fibers


def test_a_component_is_compiled_and_run(wasm, runtime):
    """The generic component itself, uploaded as somebody's program."""
    ref = wasm.store("mine", runtime.read_bytes(), "component")
    wasm.chunk = 1 << 20
    envelope = {"source": "def main(x): return x + 1", "filename": "a.py", "input": {"x": 41}}
    wasm.send_start(Start("p1", ref, json.dumps(envelope)))
    wasm.run(wasm.ended)

    assert wasm.log()[-1].text == "42"


TINY = """(component (core module $m
  (memory (export "memory") 1) (global $top (mut i32) (i32.const 1024))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.add (global.get $top) (local.get 3))) (i32.sub (global.get $top) (local.get 3)))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store (i32.const 4) (i32.const 16)) (i32.store (i32.const 8) (i32.const 1))
    (i32.store8 (i32.const 16) (i32.const 49)) (i32.const 0)))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (alias core export $i "run" (core func $run))
  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $run) (memory $memory) (realloc $realloc))))"""


def test_who_waits_for_a_compilation_is_told(wasm, tmp_path):
    """Once, also one who comes while it goes on; with the code kept there is nothing to tell. Others do not wait."""
    compilations = []
    wasm.host._compiling = Turns(lambda work, then: compilations.append((work, then)), 1)
    wasm.host._code = CodeCache(tmp_path / "code", wasm.host.driver.host.engine.settings)
    ref = wasm.store("tiny", TINY.encode(), "component")
    for pid in ("p1", "p2", "p3"):
        wasm.send_start(Start(pid, ref, "{}"))
        wasm.run(lambda pid=pid: [(e.kind, e.text) for e in wasm.log(pid)] == [("progress", "compiling tiny@0.1.0")])
    wasm.push(Kill("p3", "by the test"))
    wasm.run(lambda: wasm.ended("p3"))

    [(work, then)] = compilations
    then(work(), None)
    wasm.run(lambda: wasm.ended("p1") and wasm.ended("p2"))
    wasm.host._loaded.clear()
    wasm.send_start(Start("p4", ref, "{}"))
    wasm.run(lambda: wasm.ended("p4"))

    kinds = {pid: [event.kind for event in wasm.log(pid)] for pid in ("p1", "p2", "p3", "p4")}
    told = ["progress", "started", "return"]
    assert kinds == {"p1": told, "p2": told, "p3": ["progress", "error"], "p4": ["started", "return"]}
    assert len(compilations) == 1


def test_a_program_that_another_tenant_launches_too_is_compiled_in_the_turn_that_comes_first(wasm, tmp_path):
    compilations = []
    wasm.host._compiling = Turns(lambda work, then: compilations.append((work, then)), 1)
    wasm.host._code = CodeCache(tmp_path / "code", wasm.host.driver.host.engine.settings)
    refs = [wasm.store("tiny", f"{TINY} ;; {number}".encode(), "component") for number in range(5)]
    for number, ref in enumerate(refs):
        wasm.send_start(Start(f"hog-{number}", ref, "{}"), "hog")
    wasm.send_start(Start("mine", refs[-1], "{}"), "other")
    wasm.run(lambda: len(wasm.log("mine")) == 1)

    for _ in range(3):
        work, then = compilations.pop()
        then(work(), None)
    wasm.run(lambda: wasm.ended("mine") and wasm.ended("hog-4"))

    assert [wasm.ended(f"hog-{number}") for number in range(5)] == [True, True, False, False, True]
    wasm.run(lambda: wasm.log("hog-3"))
    while compilations:
        work, then = compilations.pop()
        then(work(), None)
    wasm.run(lambda: all(wasm.ended(f"hog-{number}") for number in range(5)))
    assert [event.kind for event in wasm.log("mine")] == ["progress", "started", "return"]
    assert wasm.host._preparing == {}


def test_what_is_no_program_is_refused(wasm):
    ref = wasm.store("junk", b"not wasm at all", "component")
    wasm.send_start(Start("p1", ref, "{}"))
    wasm.run(wasm.ended)
    assert wasm.log()[-1].error.code == "bad_program"

    ref = wasm.store("latin", "x = 'é'".encode("latin-1"))
    wasm.send_start(Start("p2", ref, "{}"))
    wasm.run(lambda: wasm.ended("p2"))
    assert wasm.log("p2")[-1].error.code == "bad_program"


def test_memory_is_limited(wasm):
    last = wasm.outcome("def main():\n    x = []\n    while True: x.append(bytearray(1 << 20))\n")

    assert last.error.code in ("limit_exceeded", "program_error")
    assert last.error.code == "limit_exceeded" or "MemoryError" in last.error.message


def test_without_the_python_component_a_launch_says_what_to_do(wasm):
    wasm.host._runtime = lambda: None
    error = wasm.outcome(STREAM).error

    assert error.retryable
    assert "python -m pie_bakery runtime" in error.message


def test_a_damaged_cache_entry_is_removed_and_named(tmp_path):
    cache = DiskCache(tmp_path, 1 << 20)
    digest = hashlib.sha256(b"program").hexdigest()
    cache.write(digest, b"program")
    cache.path(digest).write_bytes(b"damaged")

    with pytest.raises(HashMismatch):
        cache.read(digest)
    assert not cache.has(digest)


def test_the_cache_keeps_to_its_size(tmp_path):
    cache = DiskCache(tmp_path, 250)
    digests = [hashlib.sha256(bytes([i]) * 100).hexdigest() for i in range(4)]
    for i, digest in enumerate(digests):
        cache.write(digest, bytes([i]) * 100)

    assert [cache.has(digest) for digest in digests] == [False, False, True, True]


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63])
def test_only_digests_name_files(tmp_path, name):
    with pytest.raises(BadField):
        DiskCache(tmp_path, 1).path(name)


def test_a_start_with_a_bad_digest_is_refused(world: World, tmp_path):
    world.runner.artifacts.cache = DiskCache(tmp_path, 1)
    answers = world.send_start(Start("p1", ProgramRef("x", "", "python", "../x"), "{}"))
    world.run(lambda: bool(answers))

    assert answers[0].error.code == "bad_field"
    assert not world.runner.processes
    assert world.runner.live == 0


def test_source_that_is_launched_again_is_compiled_once(wasm):
    source = "def main(n): return [n, main.__code__.co_filename]"
    codes = wasm.host._code_objects
    seen = []
    for number in range(4):
        last = wasm.outcome(source, pid=f"p{number}", text=json.dumps({"n": number}), filename="again.py")
        assert json.loads(last.text) == [number, "again.py"]
        wasm.run(0.3)
        seen.append([(name, bool(code)) for (_, name), code in codes._known.items() if name == "again.py"])

    assert seen == [[("again.py", False)], *[[("again.py", True)]] * 3]
    assert not wasm.host.driver.fibers


@pytest.mark.parametrize("source", ["def main(:", "x = '\\d'\ndef main(): pass"])
def test_source_that_does_not_compile_quietly_says_so_every_time(wasm, source: str):
    ends = []
    for pid in ("p1", "p2", "p3"):
        last = wasm.outcome(source, pid=pid)
        ends.append(([event.text for event in wasm.log(pid) if event.kind == "stderr"], last.kind, last.error))
        wasm.run(0.3)

    assert ends[0] == ends[1] == ends[2]
    assert ends[0][0] or ends[0][1] == "error"


ALLOCATES = """
def main(n):
    try:
        return len(bytearray(n))
    except MemoryError:
        return 0
"""


@pytest.mark.parametrize("wants", [1 << 20, 128 << 20])
def test_a_tenant_can_have_less_memory_than_others(wasm: World, wants: int):
    own = TenantLimits(process=OwnLimits(memory=100 << 20))
    wasm.runner.facilities.tenants._table = TenantTable(TenantLimits(), {"acme": own})

    got = [int(wasm.outcome(ALLOCATES, text=str(wants), pid=name, tenant=name).text or 0) for name in ("acme", "other")]

    assert got == [wants if wants < 100 << 20 else 0, wants]


def test_a_tenant_can_have_less_processor_time_than_others(wasm: World):
    own = TenantLimits(process=OwnLimits(cpu_seconds=0.05))
    wasm.runner.facilities.tenants._table = TenantTable(TenantLimits(), {"acme": own})
    source = "def main():\n    for _ in range(20): sum(range(300_000))\n"

    theirs, others = (wasm.outcome(source, pid=name, tenant=name) for name in ("acme", "other"))

    assert theirs.error.code == "limit_exceeded"
    assert "cpu_seconds = 0.05" in theirs.error.message
    assert "`cpu_seconds` of [acme.process] in the file `tenants`" in theirs.error.message
    assert others.kind == "return"
