"""Bad input through the whole stack: a typed error that says what to do, and everything lives on."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from e2e_stack import Stack
from pie_wire.codec import Header, encode
from pie_wire.errors import (
    BadField,
    BadFrame,
    BadProgram,
    BadRequest,
    HashMismatch,
    NotFound,
    PieError,
    ProtocolError,
    TooLarge,
    UnknownVerb,
    VersionMismatch,
)
from pie_wire.messages.common import CHUNK_BYTES, MAX_INPUT_BYTES
from pie_wire.messages.gateway import Launch, Upload
from pie_zmq import Client
from raw_link import NEXT_MAJOR, Caller, Stranger, Unheard

SOCKETS = ("gateway", "gateway-runners", "engine-0", "kvstore")


@pytest.fixture
def client(scripted: Stack) -> Iterator[Client]:
    """A client of a stack whose processes must be the same ones afterwards, and at work."""
    before = scripted.services()
    with scripted.client() as client:
        yield client
        assert client.launch("text-completion", {"prompt": "1", "max_tokens": 2}).result(20)
    assert scripted.services() == before


@pytest.mark.parametrize("name", ["no-such-program", "hello@9.9.9", f"sha256:{'0' * 64}"])
def test_unknown_programs(client: Client, name: str):
    with pytest.raises(NotFound) as caught:
        client.launch(name).result(20)
    assert name.removeprefix("sha256:") in caught.value.message


@pytest.mark.parametrize("data", [b"\0asm" + b"junk" * 30, b"\0asm\x0d\0\x01\0", b"\0asm\x01\0\0\0"])
def test_malformed_wasm(client: Client, tmp_path: Path, data: bytes):
    path = tmp_path / "bad.wasm"
    path.write_bytes(data)
    with pytest.raises(BadProgram):
        client.run_file(path).result(60)


def test_wasm_that_imports_what_is_not_offered(client: Client, tmp_path: Path):
    path = tmp_path / "teleport.wasm"
    path.write_bytes(
        wasmtime.wat2wasm('(component (import "acme:space/teleport@1.0.0" (instance (export "jump" (func)))))')
    )
    with pytest.raises(BadProgram, match="acme:space/teleport"):
        client.run_file(path).result(60)


def test_source_that_is_no_python(client: Client, tmp_path: Path):
    path = tmp_path / "broken.py"
    path.write_text("def main(:\n")
    with pytest.raises(PieError, match=r"broken\.py.*line 1|SyntaxError"):
        client.run_file(path).result(20)


def test_malformed_input(scripted: Stack, client: Client):
    with Caller(scripted.endpoint) as caller, pytest.raises(BadField, match="JSON"):
        caller.ask(Launch("a" * 32, "hello", "{not json"))
    with Caller(scripted.endpoint) as caller, pytest.raises(BadField, match="pid"):
        caller.ask(Launch("short", "hello"))
    with pytest.raises(PieError, match="prompt"):
        client.launch("text-completion", {}).result(20)
    with pytest.raises(PieError, match=r"'prompt' must be a string, not \[1\]"):
        client.launch("text-completion", {"prompt": [1]}).result(20)
    with pytest.raises(PieError, match="surprise"):
        client.launch("hello", {"surprise": 1}).result(20)


def test_oversized_input(client: Client):
    with pytest.raises(TooLarge, match=str(MAX_INPUT_BYTES)):
        client.launch("hello", {"name": "x" * MAX_INPUT_BYTES})


def test_a_prompt_longer_than_the_context(client: Client):
    with pytest.raises(PieError, match="4096"):
        client.launch("text-completion", {"prompt": "x" * 5000}).result(20)


def test_an_upload_with_a_wrong_hash(scripted: Stack, client: Client):
    source = b"async def main(): return 1\n"
    with Caller(scripted.endpoint) as caller, pytest.raises(HashMismatch):
        caller.ask(Upload("0" * 64, len(source), 0), [source])


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from pie_zmq import Client

def die(received, size):
    if received >= size // 2:
        os.kill(os.getpid(), signal.SIGKILL)

Client(sys.argv[1]).upload(Path(sys.argv[2]), progress=die)
"""


def test_an_interrupted_upload_is_resumed(scripted: Stack, client: Client, tmp_path: Path):
    noise = random.Random(7).randbytes(5 * CHUNK_BYTES).hex()
    path = tmp_path / "long.py"
    path.write_text(f"# {noise}\nasync def main(): return 'whole'\n")

    done = subprocess.run([sys.executable, "-c", INTERRUPTED, scripted.endpoint, str(path)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    progress: list[int] = []
    client.upload(path, progress=lambda received, size: progress.append(received))

    assert progress[0] > path.stat().st_size // 2
    assert client.run_file(path).result(20) == "whole"


@pytest.mark.parametrize("name", SOCKETS)
def test_garbage(scripted: Stack, client: Client, name: str):
    noise = random.Random(name)
    with Stranger(scripted.paths.endpoint(name)) as stranger:
        for _ in range(200):
            stranger.send(*(noise.randbytes(noise.randrange(100)) for _ in range(noise.randrange(1, 8))))
        assert isinstance(stranger.refusal(), BadFrame)
    with Stranger(scripted.paths.endpoint(name)) as stranger:
        for verb in (b"link.hello", b"gw.launch", b"eng.ops", b"link.ready", b"\xff"):
            stranger.send(*encode(verb, Header(), noise.randbytes(50)))
            stranger.send(b"PIE1", verb, noise.randbytes(20), b"")
        assert isinstance(stranger.refusal(), (ProtocolError, BadRequest))


@pytest.mark.parametrize("name", SOCKETS)
def test_another_protocol_version(scripted: Stack, client: Client, name: str):
    with Stranger(scripted.paths.endpoint(name)) as stranger:
        stranger.hello(NEXT_MAJOR)
        refusal = stranger.refusal()
    assert isinstance(refusal, VersionMismatch)
    assert str(NEXT_MAJOR) in refusal.message
    with Stranger(scripted.paths.endpoint(name)) as stranger:
        stranger.send(b"PIE9", b"link.hello", b"", b"")
        assert isinstance(stranger.refusal(), VersionMismatch)


@pytest.mark.parametrize("name", SOCKETS)
def test_an_unknown_verb(scripted: Stack, client: Client, name: str):
    with Caller(scripted.paths.endpoint(name)) as caller, pytest.raises(UnknownVerb, match=r"gw\.unheard-of"):
        caller.ask(Unheard())
