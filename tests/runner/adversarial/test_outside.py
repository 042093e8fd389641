"""Programs that ask for addresses they may not have, written in every way, behind names and behind redirects: each is
refused, and no connection is tried."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest
from attacks import Attack
from pie_runner.outside.http_transport import Resolve
from pie_runner.outside.resolver import look_up
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.hosts import Address
from web_server import Web, serving

SOURCE = b"""
from inferlet import PieError, http

async def main(urls):
    ends = []
    for url in urls:
        try:
            with await http.get(url) as answer:
                ends.append(await answer.text() or str(answer.status))
        except PieError as exc:
            ends.append(exc.code)
    return ends
"""
PUBLIC = "93.184.215.14"
HERE = [
    "127.0.0.1", "127.0.0.1.", "127.255.255.254", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "017700000001",  # noqa: S104
    "0x7f000001", "0x7F.1", "127.0.0.0x1", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:FFFF:7F00:0001]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "localhost", "LOCALHOST", "127\u30020\u30020\u30021",
]  # fmt: skip
"""This machine."""
NEAR = [
    "169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%251]", "10.0.0.1", "012.1",
    "172.16.0.1", "192.168.1.1", "100.64.0.1", "255.255.255.255", "224.0.0.1", "[ff02::1]", "[::ffff:10.0.0.1]",
]  # fmt: skip
"""The network of the operator, and what a cloud tells its machines."""
UNREADABLE = ["0177.0.0.1", "0251.0376.0251.0376", "\uff11\uff12\uff17.0.0.1", "\u2460\u2461\u2466.0.0.1"]
"""In no URL."""
NAMES = {
    "metadata.example": ["169.254.169.254"],
    "loop.example": ["127.0.0.1"],
    "zero.example": ["0.0.0.0"],  # noqa: S104
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "mapped-metadata.example": ["::ffff:169.254.169.254"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "private.example": ["10.0.0.1", "192.168.1.1", "fd00::1"],
}


def resolves(attack: Attack, resolve: Resolve) -> None:
    """Programs' names mean this from now on."""

    def of(_: str) -> Resolve:
        return resolve

    attack.world.http.resolve_of = of


@pytest.fixture
def front() -> Iterator[Web]:
    """The server that the program may talk to, by its address and by a name."""
    with serving() as web:
        yield web


@pytest.fixture
def secret() -> Iterator[Web]:
    """The server that it may not talk to."""
    with serving() as web:
        yield web


@pytest.fixture
def tried(attack: Attack, front: Web, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Connections that were begun, but for those to `front`. None of them is made."""
    found: list[tuple[str, int]] = []
    backend: Any = httpcore.AnyIOBackend
    really = backend.connect_tcp

    async def connect_tcp(self: Any, host: str, port: int, *rest: Any) -> Any:
        if (host, port) == ("127.0.0.1", front.port):
            return await really(self, host, port, *rest)
        found.append((host, port))
        raise httpcore.ConnectError("no test leaves this machine")

    monkeypatch.setattr(backend, "connect_tcp", connect_tcp)

    async def resolve(host: str, port: int) -> list[Address]:
        if host in attack.world.addresses:
            return [ipaddress.ip_address(text) for text in attack.world.addresses[host]]
        return look_up(host, port)  # as the system does, which reads addresses in old spellings too

    attack.world.addresses = {**NAMES, "front.example": ["127.0.0.1"]}
    resolves(attack, resolve)
    return found


def ends(attack: Attack, front: Web, urls: list[str], *more: str) -> list[str]:
    """How a program that may talk to all names, to `front` and to `more` fares with each of these."""
    rights = Grants(http=["*:*", f"127.0.0.1:{front.port}", *more])
    text = json.dumps({"urls": urls})
    pid = attack.launch(SOURCE, text, "python", capabilities=Capabilities(rights, rights))
    attack.world.run_in_real_time(lambda: attack.world.ended(pid))
    last = attack.world.log(pid)[-1]
    assert last.kind == "return", last
    return json.loads(last.text)


def all_forbidden(urls: list[str]) -> dict[str, str]:
    return dict.fromkeys(urls, "forbidden")


def test_what_is_no_url(attack: Attack, front: Web, secret: Web, tried: list[Any]):
    urls = [secret.url("/", host) for host in UNREADABLE]
    away = [front.url(f"/to?{url}") for url in urls if url.isascii()]

    found = ends(attack, front, urls + away)

    assert found == ["bad_request"] * len(urls) + ["unavailable"] * len(away)
    assert (tried, secret.seen) == ([], [])


@pytest.mark.parametrize("port", ["", ":{secret}"])
def test_addresses_in_any_spelling(attack: Attack, front: Web, secret: Web, tried: list[Any], port: str):
    urls = [f"http://{host}{port.format(secret=secret.port)}/" for host in [*HERE, *NEAR]]

    found = ends(attack, front, urls)

    assert dict(zip(urls, found, strict=True)) == all_forbidden(urls)
    assert (tried, secret.seen) == ([], [])


def test_names_that_mean_such_addresses(attack: Attack, front: Web, secret: Web, tried: list[Any]):
    urls = [secret.url("/", host) for host in NAMES] + [f"https://{host}/" for host in NAMES]

    found = ends(attack, front, urls)

    assert dict(zip(urls, found, strict=True)) == all_forbidden(urls)
    assert (tried, secret.seen) == ([], [])


def test_of_a_name_that_means_several_only_the_public_one_is_tried(
    attack: Attack, front: Web, secret: Web, tried: list[Any]
):
    attack.world.addresses |= {
        "mixed.example": ["127.0.0.1", PUBLIC, "169.254.169.254", "::ffff:127.0.0.1"],
        "hidden.example": [f"10.0.0.{i}" for i in range(40)] + [PUBLIC],
    }

    found = ends(attack, front, [secret.url("/", "mixed.example"), secret.url("/", "hidden.example")])

    assert found == ["unavailable", "forbidden"]
    assert (tried, secret.seen) == ([(PUBLIC, secret.port)], [])


def test_redirects_to_what_may_not_be_asked_for(attack: Attack, front: Web, secret: Web, tried: list[Any]):
    targets = [f"http://{host}:{secret.port}/" for host in [*HERE, *NEAR, *NAMES] if host.isascii()]
    targets += [f"//169.254.169.254:{secret.port}/", f"https://127.0.0.1:{secret.port}/"]
    urls = [front.url(f"/to?{target}", "front.example") for target in targets]
    urls += [front.url(f"/to?{front.url('/to?' + target)}") for target in targets[:3]]

    found = ends(attack, front, urls)

    assert dict(zip(urls, found, strict=True)) == all_forbidden(urls)
    assert (tried, secret.seen) == ([], [])
    assert len(front.seen) == len(urls) + 3


def test_redirects_to_other_schemes_lead_nowhere(attack: Attack, front: Web, tried: list[Any]):
    targets = ["file:///etc/passwd", "ftp://front.example/", "unix:///run/x", "http:///", "http://[", "data:,text"]

    found = ends(attack, front, [front.url(f"/to?{target}") for target in targets])

    assert set(found) <= {"bad_request", "forbidden", "unavailable", "302"}, found
    assert tried == []


def test_a_name_that_means_another_address_after_its_check(attack: Attack, front: Web, secret: Web, tried: list[Any]):
    """Asked for again and again, by a program that has a connection to it already."""
    meanings = ["127.0.0.1", "169.254.169.254", "10.0.0.1"]
    asked: list[str] = []

    async def changing(host: str, port: int) -> list[Address]:
        asked.append(host)
        return look_up(meanings[(len(asked) - 1) % len(meanings)], port)

    resolves(attack, changing)
    away = front.url("/to?" + secret.url("/", "front.example"), "front.example")

    found = ends(attack, front, [front.url("/echo", "front.example"), *[away] * 3])

    assert found == ["200", *["forbidden"] * 3]
    assert (tried, secret.seen) == ([], [])
