"""The embedded server itself, and kvstore as a process: ownership, durability, restarts."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from pie_kvstore.config import load
from pie_kvstore.connection import connect, without_password
from pie_kvstore.embedded import EmbeddedRedis, find_server
from pie_wire.errors import BadRequest, PeerLost, PieError, Unavailable
from pie_wire.hub import Answer, Hub
from pie_wire.messages.base import Message, Request
from pie_wire.messages.kvstore import GetArtifact, GetSnapshot, ListSnapshots, PutArtifact, PutSnapshot, Snapshot
from pie_wire.process import identity
from pie_wire.transport import Transport


@pytest.fixture(scope="module", autouse=True)
def _server(require_tool: Callable[[str], str]) -> None:
    try:
        find_server()
    except Unavailable:
        require_tool("redis-server")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kv-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def embedded(folder: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(folder / "data", folder / "r.sock")
    server.start()
    yield server
    server.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.02)


def answers(url: str) -> bool:
    client = connect(url)
    try:
        return client.ping()
    except redis.RedisError:
        return False
    finally:
        client.close()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class TestServer:
    def test_the_socket_is_private(self, embedded: EmbeddedRedis):
        assert stat.S_IMODE(embedded.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(embedded.folder.stat().st_mode) == 0o700

    def test_killing_it_loses_nothing_acknowledged(self, embedded: EmbeddedRedis):
        client = connect(embedded.url)
        for number in range(50):
            client.hset("h", str(number), number)
        os.kill(embedded.pid, signal.SIGKILL)
        wait_until(lambda: not alive(embedded.pid))

        wait_until(embedded.tend)
        wait_until(lambda: answers(embedded.url))

        assert len(connect(embedded.url).hgetall("h")) == 50

    def test_a_second_owner_is_refused(self, embedded: EmbeddedRedis, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("pie_kvstore.embedded.LOCK_TIMEOUT", 0.1)
        second = EmbeddedRedis(embedded.folder, folder / "other.sock")

        with pytest.raises(Unavailable, match=str(os.getpid())):
            second.start()

        assert answers(embedded.url)

    def test_stopping_gives_the_folder_up(self, embedded: EmbeddedRedis):
        connect(embedded.url).set("k", "v")
        embedded.stop()

        embedded.start()

        assert connect(embedded.url).get("k") == b"v"

    def test_a_server_that_cannot_start_says_why(self, folder: Path):
        data = folder / "data"
        data.mkdir()
        (data / "appendonlydir").write_text("in the way")

        with pytest.raises(PieError, match="does not start"):
            EmbeddedRedis(data, folder / "r.sock").start()

    def test_long_socket_paths_are_refused(self, folder: Path):
        with pytest.raises(BadRequest, match="PIE_HOME"):
            EmbeddedRedis(folder, folder / ("x" * 120))


class Kvstore:
    """`python -m pie_kvstore` in a folder, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.transport = Transport(Hub(identity("runner", "runner-0"), time.monotonic))
        self.endpoint = f"ipc://{folder}/kv.sock"

    def start(self, **environment: str) -> None:
        env = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
        env |= {"PIE_HOME": str(self.folder), "PIE_KVSTORE_ENDPOINT": self.endpoint, **environment}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "pie_kvstore"], env=env, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, request: Request[Message], *buffers: bytes, timeout: float = 15.0) -> Answer[Message]:
        self.transport.dial("kvstore", self.endpoint)
        found: list[Answer[Message]] = []
        self.transport.hub.request("kvstore", request, found.append, timeout=timeout, buffers=buffers)
        wait_until(lambda: bool(self.transport.poll(0.05) or found), timeout + 5)
        return found[0]

    def logged(self, event: str) -> list[dict[str, object]]:
        lines = (self.folder / "log").read_text().splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def redis_pid(self) -> int:
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid if self.process else 0)], capture_output=True, text=True
        )
        return int(found.stdout)

    def close(self) -> None:
        self.transport.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(15)


@pytest.fixture
def kvstore(folder: Path) -> Iterator[Kvstore]:
    service = Kvstore(folder)
    yield service
    service.close()


class TestProcess:
    def test_killing_kvstore_loses_nothing_acknowledged_and_leaves_no_server(self, kvstore: Kvstore):
        kvstore.start()
        for number in range(20):
            kvstore.ask(PutSnapshot(Snapshot(f"s{number}", "m", [number]))).value()
        redis_pid = kvstore.redis_pid()

        kvstore.kill()
        wait_until(lambda: not alive(redis_pid), 3.0)
        kvstore.start()

        answer = kvstore.ask(ListSnapshots())
        while isinstance(answer.error, PeerLost):  # the old link was still being mourned
            answer = kvstore.ask(ListSnapshots())
        assert len(answer.value().names) == 20

    def test_a_dead_redis_is_started_again_with_all_its_data(self, kvstore: Kvstore):
        kvstore.start()
        digest = hashlib.sha256(b"pages").hexdigest()
        kvstore.ask(PutArtifact(digest, 5, 0, snapshot=True), b"pages").value()
        kvstore.ask(PutSnapshot(Snapshot("s", "m", [1, 2, 3], data=digest))).value()
        os.kill(kvstore.redis_pid(), signal.SIGKILL)

        def back() -> bool:
            answer = kvstore.ask(GetSnapshot("s"))
            assert answer.error is None or answer.error.code == "store_unavailable"
            return answer.error is None

        wait_until(back)
        assert kvstore.ask(GetSnapshot("s")).value().snapshot.tokens == [1, 2, 3]
        assert bytes(kvstore.ask(GetArtifact(digest, 0, snapshot=True)).buffers[0]) == b"pages"

    def test_sigterm_stops_both(self, kvstore: Kvstore):
        kvstore.start()
        kvstore.ask(ListSnapshots()).value()
        redis_pid = kvstore.redis_pid()

        assert kvstore.process is not None
        kvstore.process.terminate()

        assert kvstore.process.wait(10) == 0
        assert not alive(redis_pid)

    def test_a_redis_url_that_is_down_is_not_replaced(self, kvstore: Kvstore):
        kvstore.start(REDIS_URL="redis://:secret@127.0.0.1:1/0")

        assert kvstore.process is not None
        assert kvstore.process.wait(30) == 1
        reason = str(kvstore.logged("cannot run")[0]["reason"])
        assert "REDIS_URL" in reason
        assert "secret" not in reason
        assert not (kvstore.folder / "kvstore").exists()

    def test_a_redis_url_is_used(self, kvstore: Kvstore, embedded: EmbeddedRedis):
        kvstore.start(REDIS_URL=embedded.url)
        kvstore.ask(PutSnapshot(Snapshot("s", "m", [1]))).value()

        assert connect(embedded.url).hlen("pie:snapshots:local/local") == 1


def test_redis_url_counts_below_the_own_setting():
    assert load({}, {"REDIS_URL": "redis://a"}).redis_url == "redis://a"
    assert load({}, {"REDIS_URL": "redis://a", "PIE_KVSTORE_REDIS_URL": "redis://b"}).redis_url == "redis://b"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:pw@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:pw@host", "rediss://:***@host"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str):
    assert without_password(url) == shown


def test_malformed_urls_are_refused():
    with pytest.raises(BadRequest, match="REDIS_URL"):
        connect("ftp://host")
