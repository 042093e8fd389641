"""The health check, against a socket that answers for kvstore."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from pie_wire.errors import Unavailable
from pie_wire.health import check, main, members
from pie_wire.hub import Hub
from pie_wire.membership import KVSTORE
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import ListMembers, MemberList
from pie_wire.process import host_id, identity
from pie_wire.transport import Transport

ELSEWHERE = "another-machine"


@pytest.fixture
def listed() -> list[MemberInfo]:
    """What the kvstore of a test answers."""
    return []


@pytest.fixture
def kvstore(listed: list[MemberInfo]) -> Iterator[str]:
    """The endpoint of a kvstore that lists `listed`."""
    hub = Hub(identity("kvstore", "kvstore"), time.monotonic)
    transport = Transport(hub)
    endpoint = transport.bind(KVSTORE, "tcp://127.0.0.1:*")
    hub.on(ListMembers, lambda incoming: MemberList(listed))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            transport.poll(0.05)
        transport.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield endpoint
    stop.set()
    thread.join()


def member(kind: str, host: str, **fields: str) -> MemberInfo:
    return MemberInfo(kind, f"{kind}-{host}", 1, host=host, **fields)  # pyright: ignore[reportArgumentType]


def test_a_member_that_is_up_is_healthy(kvstore: str, listed: list[MemberInfo]):
    listed += [member("runner", ELSEWHERE, state="stuck"), member("runner", host_id())]
    done = CliRunner().invoke(main, ["runner", kvstore])
    assert done.exit_code == 0
    assert "is up" in done.output


@pytest.mark.parametrize("state", ["stuck", "lost"])
def test_a_member_in_another_state_is_not(kvstore: str, listed: list[MemberInfo], state: str):
    listed += [member("runner", host_id(), state=state), member("runner", ELSEWHERE)]
    done = CliRunner().invoke(main, ["runner", kvstore])
    assert done.exit_code == 1
    assert f"the runner here is {state}" in done.output


def test_members_of_another_machine_or_kind_do_not_count():
    with pytest.raises(Unavailable, match="not a member"):
        check("runner", [member("runner", ELSEWHERE), member("engine", host_id())], host_id())


def test_after_a_restart_the_incarnation_that_is_up_counts():
    old, new = member("engine", host_id(), state="lost"), member("engine", host_id())
    assert check("engine", [old, new], host_id()) is new


def test_a_kvstore_that_is_not_there_is_an_error_in_time():
    start = time.monotonic()
    with pytest.raises(Unavailable):
        members("tcp://127.0.0.1:9", patience=0.3)
    assert time.monotonic() - start < 3
