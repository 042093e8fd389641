"""HTTP of programs: what reaches a server, what is refused, and what is bounded."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from http_programs import allowing, ask, finish
from pie_runner.outside.http_client import PIECE, WINDOW, HttpSettings
from pie_runner.process_limits import ProcessLimits
from pie_runner.testing import CallError
from pie_wire.capabilities import Capabilities, Grants
from pie_wire.messages.runner import Kill
from runner_world import World
from web_server import BIG, Web, serving, wait_for


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as found:
        yield found


@pytest.fixture
def world(bare_world: World) -> World:
    return bare_world


async def fetched(api: Any, record: Any) -> dict[str, Any]:
    """A request to its end: status, url, headers, body; or the code and message of its error."""
    try:
        pending = await api.call("http", "send", record)
        response = await api.wait("http.pending-response", pending)
        body = b""
        while piece := base64.b64decode(await api.wait("http.response", response, "read")):
            body += piece
    except CallError as exc:
        return {"code": exc.code, "message": str(exc)}
    head = [await api.call("http", f"[method]response.{what}", response) for what in ("status", "url", "headers")]
    return {"status": head[0], "url": head[1], "headers": head[2], "body": body.decode("latin-1")}


def run(world: World, *records: Any, capabilities: Capabilities, pid: str = "p1") -> Any:
    """What each of these requests of one program gives."""

    async def main(api: Any, text: str) -> str:
        return json.dumps([await fetched(api, record) for record in records])

    world.start(main, pid=pid, capabilities=capabilities)
    finish(world, pid)
    last = world.log(pid)[-1]
    assert last.kind == "return", last
    results = json.loads(last.text)
    return results[0] if len(results) == 1 else results


def test_a_request_reaches_the_server_as_it_was_written(world: World, web: Web):
    record = ask(web.url("/echo"), method="post", body=b"\x00hello", headers=[("X-Mine", "1"), ("user-agent", "me")])
    answer = run(world, record, capabilities=allowing("127.0.0.1:*"))

    assert (answer["status"], answer["body"], answer["url"]) == (200, "\x00hello", web.url("/echo"))
    assert [value for name, value in answer["headers"] if name == "x-twice"] == ["a", "b"]
    [seen] = web.seen
    assert (seen.method, seen.headers["x-mine"], seen.headers["user-agent"]) == ("POST", "1", "me")
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["host"] == f"127.0.0.1:{web.port}"


def test_nothing_leaves_without_both_sides_and_the_refusal_says_which(world: World, web: Web):
    url = web.url("/echo")
    neither = run(world, ask(url), capabilities=Capabilities())
    assert neither["code"] == "forbidden"
    assert f'`http = ["127.0.0.1:{web.port}"]` under [capabilities]' in neither["message"]

    asked = run(world, ask(url), capabilities=allowing("127.0.0.1:*", granted=()), pid="p2")
    assert "policy file" in asked["message"]
    assert f"--allow http=127.0.0.1:{web.port}" in asked["message"]

    parent = allowing("api.example.com")
    child = parent.of_child(Grants(http=["127.0.0.1:*"]), Grants(http=["127.0.0.1:*"]))
    assert "launched it" in run(world, ask(url), capabilities=child, pid="p3")["message"]
    assert web.seen == []


def test_a_name_that_leads_into_the_operators_network_is_refused(world: World, web: Web):
    world.addresses = {"api.example.com": ["127.0.0.1"], "metadata": ["169.254.169.254"]}
    by_name = allowing("*", "*:*")
    url = web.url("/echo", "api.example.com")

    first, second = run(world, ask(url), ask("http://metadata/latest"), capabilities=by_name)
    assert first["code"] == second["code"] == "forbidden"
    assert f'http = ["127.0.0.1:{web.port}"]' in first["message"]
    assert web.seen == []

    granted = allowing("api.example.com:*", granted=("*:*", "127.0.0.0/8:*"))
    assert run(world, ask(url), capabilities=granted, pid="p2")["status"] == 200


def test_a_child_does_not_get_its_parents_missing_addresses(world: World, web: Web):
    world.addresses = {"api.example.com": ["127.0.0.1"]}
    names, addresses = Grants(http=["*:*"]), Grants(http=["*:*", "127.0.0.0/8:*"])
    url = web.url("/echo", "api.example.com")

    poor = Capabilities(names, names).of_child(names, addresses)
    rich = Capabilities(names, addresses).of_child(names, addresses)
    assert run(world, ask(url), capabilities=poor)["code"] == "forbidden"
    assert run(world, ask(url), capabilities=rich, pid="p2")["status"] == 200


def test_the_address_that_was_checked_is_the_one_connected_to(world: World, web: Web):
    """A name server that answers differently the second time is not asked a second time."""
    asked = []

    async def rebinding(host: str, port: int):
        asked.append(host)
        return [__import__("ipaddress").ip_address("127.0.0.1" if len(asked) == 1 else "10.0.0.1")]

    world.http.resolve_of = lambda _: rebinding
    capabilities = allowing("api.example.com:*", granted=("api.example.com:*", "127.0.0.1:*"))

    assert run(world, ask(web.url("/echo", "api.example.com")), capabilities=capabilities)["status"] == 200
    assert asked == ["api.example.com"]


def test_localhost_is_granted_by_its_name_but_not_by_a_star(world: World, web: Web):
    world.addresses = {"localhost": ["127.0.0.1"]}
    url = web.url("/echo", "localhost")

    assert run(world, ask(url), capabilities=allowing("localhost:*"))["status"] == 200
    assert run(world, ask(url), capabilities=allowing("*:*"), pid="p2")["code"] == "forbidden"


def test_redirects_are_followed_as_far_as_asked_and_checked_each_time(world: World, web: Web):
    world.addresses = {"evil.example": ["127.0.0.1"]}
    away = web.url("/to?" + web.url("/echo", "evil.example"))
    here = web.url("/to?/to?/echo")
    none, one, two, forbidden, endless = run(
        world,
        ask(here),
        ask(here, redirects=1),
        ask(here, redirects=2),
        ask(away, redirects=5),
        ask(web.url("/loop"), redirects=10**6),
        capabilities=allowing("127.0.0.1:*"),
    )

    assert [none["status"], one["status"], two["status"]] == [302, 302, 200]
    assert two["url"] == web.url("/echo")
    assert forbidden["code"] == "forbidden"
    assert endless["status"] == 302
    assert sum(seen.path == "/loop" for seen in web.seen) == 21


def test_credentials_do_not_follow_a_redirect_to_another_host(world: World, web: Web):
    world.addresses = {"other.example": ["127.0.0.1"]}
    record = ask(
        web.url("/to?" + web.url("/echo", "other.example")), redirects=1, headers=[("authorization", "secret")]
    )
    capabilities = allowing("127.0.0.1:*", "other.example:*")

    assert run(world, record, capabilities=capabilities)["status"] == 200
    assert "authorization" in web.seen[0].headers
    assert "authorization" not in web.seen[1].headers


def test_cookies_are_not_kept_and_proxies_not_used(world: World, web: Web, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    results = run(world, ask(web.url("/echo")), ask(web.url("/echo")), capabilities=allowing("127.0.0.1:*"))

    assert [result["status"] for result in results] == [200, 200]
    assert not any("cookie" in seen.headers for seen in web.seen)


@pytest.mark.parametrize(
    "record",
    [
        ask("ftp://127.0.0.1/"),
        ask("127.0.0.1/x"),
        ask("http://"),
        ask("http://user:word@127.0.0.1/"),
        ask("http://127.0.0.1:99999/"),
        ask("http://[::1/"),
        ask("file:///etc/passwd"),
        ask("http://127.0.0.1/", method="GET /x"),
        ask("http://127.0.0.1/", method=""),
        ask("http://127.0.0.1/", headers=[("a b", "c")]),
        ask("http://127.0.0.1/", headers=[("a", "b\r\nc: d")]),
        ask("http://127.0.0.1/", headers=[("a", "ü€")]),
        ask("http://127.0.0.1/", headers=[("Host", "other")]),
        ask("http://127.0.0.1/", headers=[("transfer-encoding", "chunked")]),
        ask("http://127.0.0.1/", headers=[("a", "b")] * 1000),
        SimpleNamespace(method="GET", url="http://127.0.0.1/", headers=[], body="%%%", timeout=None, redirects=0),
    ],
)
def test_what_is_no_request_is_refused(world: World, record: Any):
    assert run(world, record, capabilities=allowing("*:*", "0.0.0.0/0:*"))["code"] == "bad_request"


def test_failures_of_servers_are_typed(world: World, web: Web):
    closed = web.port
    with serving() as other:
        free = other.port
    results = run(
        world,
        ask(f"http://127.0.0.1:{free}/"),
        ask("http://unknown.example/"),
        ask(f"http://127.0.0.1:{closed}/cut"),
        ask(f"http://127.0.0.1:{closed}/junk"),
        ask(f"http://127.0.0.1:{closed}/slow", timeout=50_000_000),
        ask(f"http://127.0.0.1:{closed}/none"),
        capabilities=allowing("127.0.0.1:*", "unknown.example"),
    )

    assert [result.get("code", result.get("status")) for result in results] == [
        "unavailable", "unavailable", "unavailable", "unavailable", "deadline_exceeded", 404,
    ]  # fmt: skip


def test_a_server_waits_for_a_program_that_does_not_read(world: World, web: Web):
    async def main(api: Any, text: str) -> str:
        response = await api.wait("http.pending-response", await api.call("http", "send", ask(web.url("/big"))))
        done = await api.call("clocks", "sleep", 5 * 10**9)
        await api.wait("futures.done", done)
        size = 0
        while piece := base64.b64decode(await api.wait("http.response", response, "read")):
            if len(piece) > PIECE:
                return "a piece is too large"
            size += len(piece)
        return str(size)

    world.start(main, capabilities=allowing("127.0.0.1:*"))
    for _ in range(300):
        world.turn()
        time.sleep(0.001)
    kernel = 12 << 20
    assert web.sent < PIECE * (WINDOW + 2) + kernel < BIG
    finish(world)

    assert world.log()[-1].text == str(BIG)


def test_a_dropped_response_and_a_killed_program_close_the_connection(world: World, web: Web):
    async def drops(api: Any, text: str) -> str:
        response = await api.wait("http.pending-response", await api.call("http", "send", ask(web.url("/big"))))
        api.drop(response)
        return "1"

    async def hangs(api: Any, text: str) -> str:
        await api.wait("http.pending-response", await api.call("http", "send", ask(web.url("/big"))))
        await api.wait("futures.done", await api.call("clocks", "sleep", 10**18))
        return "1"

    world.start(drops, capabilities=allowing("127.0.0.1:*"))
    finish(world)
    assert wait_for(web.gone.is_set)

    web.gone.clear()
    world.start(hangs, pid="p2", capabilities=allowing("127.0.0.1:*"))
    assert wait_for(lambda: world.turn() or len(web.seen) == 2)
    world.push(Kill("p2", "by the test"))
    finish(world, "p2")
    assert wait_for(web.gone.is_set)


def test_a_killed_program_that_waits_for_an_answer_leaves_nothing(world: World, web: Web):
    async def waits(api: Any, text: str) -> str:
        await api.wait("http.pending-response", await api.call("http", "send", ask(web.url("/slow"))))
        return "1"

    world.start(waits, capabilities=allowing("127.0.0.1:*"))
    assert wait_for(lambda: world.turn() or len(web.seen) == 1)
    [process] = world.runner.processes.values()
    world.push(Kill("p1", "by the test"))
    finish(world)

    assert process.outside.requests_under_way == 0
    assert len(process.waitables) == 0


@pytest.fixture
def limited(model_files) -> Iterator[World]:
    made = World(model_files, ProcessLimits(http_requests=2, http_total=5, http_bytes=1 << 20, http_seconds=0.3))
    yield made
    made.aside.close()


def test_requests_are_counted_at_once_and_in_all(limited: World, web: Web):
    async def main(api: Any, text: str) -> str:
        codes = []
        held = [await api.call("http", "send", ask(web.url("/slow"))) for _ in range(2)]
        for _ in range(2):
            try:
                await api.call("http", "send", ask(web.url("/echo")))
            except CallError as exc:
                codes.append(str(exc))
        for item in held:
            api.drop(item)
        codes += [(await fetched(api, ask(web.url("/echo")))).get("status") for _ in range(3)]
        return json.dumps([*codes, await fetched(api, ask(web.url("/echo")))])

    limited.start(main, capabilities=allowing("127.0.0.1:*"))
    finish(limited)
    first, second, *good, last = json.loads(limited.log()[-1].text)

    assert first == second
    assert "http_requests = 2" in first
    assert good == [200, 200, 200]
    assert (last["code"], "http_total = 5" in last["message"]) == ("limit_exceeded", True)


def test_one_tenants_hung_requests_leave_room_for_others(model_files, web: Web):
    world = World(model_files, ProcessLimits(http_requests=16), HttpSettings(all_requests=8))

    async def hangs(api: Any, text: str) -> str:
        held = [await api.call("http", "send", ask(web.url("/slow"))) for _ in range(16)]
        await api.wait("futures.done", await api.call("clocks", "sleep", 10**18))
        return str(held)

    async def asks(api: Any, text: str) -> str:
        return json.dumps(await fetched(api, ask(web.url("/echo"))))

    async def waits_in_vain(api: Any, text: str) -> str:
        return json.dumps(await fetched(api, ask(web.url("/echo"), timeout=300_000_000)))

    may = allowing("127.0.0.1:*")
    try:
        world.start(hangs, capabilities=may)
        assert wait_for(lambda: world.turn() or len(web.seen) == 4)
        world.start(asks, pid="p2", tenant="other", capabilities=may)
        finish(world, "p2", 5.0)
        assert json.loads(world.log("p2")[-1].text)["status"] == 200

        world.start(waits_in_vain, pid="p3", capabilities=may)
        finish(world, "p3", 5.0)
        error = json.loads(world.log("p3")[-1].text)
        assert error["code"] == "deadline_exceeded"
        assert "other requests of tenant local" in error["message"]
        assert [seen.path for seen in web.seen].count("/slow") == 4, "half of all, for one tenant alone"

        world.push(Kill("p1", "by the test"))
        world.start(asks, pid="p4", capabilities=may)
        finish(world, "p4", 5.0)
        assert json.loads(world.log("p4")[-1].text)["status"] == 200
    finally:
        world.aside.close()


def test_a_large_body_is_decoded_beside_the_loop_and_its_size_looked_at_before(world: World, limited: World, web: Web):
    url, content = web.url("/echo"), b"abcdefghi" * 100_000
    bad = ask(url, method="POST", body=content)
    bad.body = "QQ==" * (1 << 19)
    much = ask(url, method="POST")
    much.body = "%" * (2 << 20)

    good, padded = run(world, ask(url, method="POST", body=content), bad, capabilities=allowing("127.0.0.1:*"))
    refused = run(limited, much, capabilities=allowing("127.0.0.1:*"))

    assert good["body"].encode("latin-1") == content
    assert (padded["code"], refused["code"]) == ("bad_request", "limit_exceeded")


def test_size_and_time_are_bounded_by_the_operator(limited: World, web: Web):
    large, big, slow = run(
        limited,
        ask(web.url("/echo"), method="POST", body=bytes(2 << 20)),
        ask(web.url("/big")),
        ask(web.url("/slow"), timeout=10**12),
        capabilities=allowing("127.0.0.1:*"),
    )

    assert (large["code"], big["code"], slow["code"]) == ("limit_exceeded", "limit_exceeded", "deadline_exceeded")
    assert "http_bytes = 1048576" in big["message"]


def test_certificates_are_verified_for_the_name_that_was_asked_for(model_files, tmp_path: Path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example.com").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    capabilities = allowing("*:*", granted=("*:*", "127.0.0.1:*"))

    with serving(context) as web:
        good, other = web.url("/echo", "api.example.com", "https"), web.url("/echo", "other.example.com", "https")
        for ca, expected in (("", [None, None]), (str(ca_file), [200, None])):
            world = World(model_files, http=HttpSettings(ca_file=ca))
            world.addresses = {"api.example.com": ["127.0.0.1"], "other.example.com": ["127.0.0.1"]}
            results = run(world, ask(good), ask(other), capabilities=capabilities)
            world.aside.close()

            assert [result.get("status") for result in results] == expected
            assert "certificate" in results[1]["message"].lower()


def test_an_answer_is_got_once(world: World, web: Web):
    async def main(api: Any, text: str) -> str:
        pending = await api.call("http", "send", ask(web.url("/echo")))
        response = await api.wait("http.pending-response", pending)
        ends = [await api.wait("http.response", response, "read") for _ in range(3)]
        try:
            await api.call("http", "[method]pending-response.get", pending)
        except CallError as exc:
            return json.dumps([exc.code, ends])
        return "null"

    world.start(main, capabilities=allowing("127.0.0.1:*"))
    finish(world)

    assert json.loads(world.log()[-1].text) == ["closed", ["", "", ""]]
