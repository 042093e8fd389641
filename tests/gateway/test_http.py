"""The HTTP front through ASGI: OpenAI's shapes, errors with the right status, and no process left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from gateway_world import FakeRunner, World
from pie_gateway.http import application
from pie_wire.errors import OutOfMemory, Overloaded, ProgramError, TooLarge
from pie_wire.messages.common import Program, ProgramRef
from pie_wire.messages.runner import Start

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
RESULT = {"text": "Hello!", "finish_reason": "stop", "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


class Front:
    """The application over a world whose time a task drives."""

    def __init__(self, **config: Any) -> None:
        self.world = World(**config)
        self.world.kvstore.programs.append(Program(ProgramRef("chat", "0.1.0", "python", "c" * 64)))
        self.runner: FakeRunner = self.world.runner()
        self.runner.on_start = self.answer
        assert self.world.core is not None
        self.core = self.world.core
        app = application(self.world.config, self.core, lambda: None)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pie")

    def answer(self, pid: str, start: Start) -> None:
        for delta in ("Hel", "lo!"):
            self.runner.emit(pid, "message", json.dumps({"delta": delta}))
        self.runner.emit(pid, "return", json.dumps(RESULT))

    @property
    def last_input(self) -> Any:
        return json.loads(list(self.runner.processes.values())[-1].start.input)

    async def drive(self) -> None:
        while True:
            self.world.run(0.05)
            await asyncio.sleep(0)

    async def chat(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json={**ASK, **fields})


def over(test: Callable[[Front], Awaitable[None]]) -> Callable[[], None]:
    """Run a test with a front, and see that it leaves no running process."""

    async def run() -> None:
        front = Front()
        driver = asyncio.create_task(front.drive())
        try:
            await asyncio.wait_for(test(front), 20)
            await asyncio.sleep(0.05)
            assert front.core.table.live_count == 0
        finally:
            driver.cancel()
            await front.http.aclose()

    def sync() -> None:
        asyncio.run(run())

    sync.__name__ = test.__name__
    return sync


@over
async def test_a_plain_completion(front: Front):
    answer = await front.chat(temperature=0, max_tokens=7, seed=3, stop="x", top_p=0.5)

    assert answer.status_code == 200
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "tiny"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    assert front.last_input == {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["x"],
    }


def chunks(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@over
async def test_a_streamed_completion(front: Front):
    answer = await front.chat(stream=True, stream_options={"include_usage": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = chunks(answer.text)
    assert [p["choices"][0]["delta"] if p["choices"] else None for p in parts] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo!"},
        {},
        None,
    ]
    assert [p["choices"][0]["finish_reason"] for p in parts[:-1]] == [None, None, None, "stop"]
    assert parts[-1]["usage"]["total_tokens"] == 11
    assert len({p["id"] for p in parts}) == 1


@over
async def test_content_parts_and_developer_messages(front: Front):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    assert (await front.chat(messages=messages)).status_code == 200
    assert front.last_input["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
    ]


BAD: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": "hi"},
    {"messages": [{"role": "robot", "content": "hi"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"max_tokens": 0},
    {"temperature": 3},
    {"temperature": "hot"},
    {"top_p": 0},
    {"n": 2},
    {"tools": [{"type": "function"}]},
    {"stop": ["", "x"]},
    {"stop": ["x"] * 17},
    {"logprobs": True},
    {"response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("fields", BAD, ids=[json.dumps(b)[:40] for b in BAD])
def test_bad_requests_are_400_in_openai_shape(fields: dict[str, Any]):
    @over
    async def run(front: Front) -> None:
        answer = await front.chat(**fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert error["code"] in {"bad_field", "unsupported"}
        assert front.runner.started == []

    run()


@over
async def test_a_body_that_is_no_json_or_too_large(front: Front):
    for body, code in ((b"{", "bad_field"), (b"\xff", "bad_field"), (b"x" * (3 << 20), "too_large")):
        answer = await front.http.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code


@over
async def test_an_unknown_model_is_404(front: Front):
    answer = await front.chat(model="gpt-99")

    assert answer.status_code == 404
    assert "tiny" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TooLarge("prompt too long"), 400),
        (ProgramError("Traceback: prompt too long", cause="too_large"), 400),
        (ProgramError("Traceback: engine lost", cause="engine_lost"), 503),
        (ProgramError("boom"), 500),
        (OutOfMemory("full"), 500),
        (Overloaded("x"), 503),
    ],
)
def test_errors_of_the_program_have_their_status(error: Any, status: int):
    @over
    async def run(front: Front) -> None:
        front.runner.on_start = lambda pid, start: front.runner.emit(pid, "error", error=error) and None
        for stream in (False, True):
            answer = await front.chat(stream=stream)
            assert answer.status_code == status
            assert answer.json()["error"]["code"] == error.code
            assert ("retry-after" in answer.headers) == (status == 503)

    run()


@over
async def test_an_error_after_the_first_token_ends_the_stream(front: Front):
    def on_start(pid: str, start: Start) -> None:
        front.runner.emit(pid, "message", '{"delta": "Hel"}')
        front.runner.emit(pid, "error", error=ProgramError("boom"))

    front.runner.on_start = on_start
    answer = await front.chat(stream=True)

    last = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert answer.status_code == 200
    assert last["error"]["code"] == "program_error"


@over
async def test_a_chat_program_that_breaks_its_contract_is_a_server_error(front: Front):
    front.runner.on_start = lambda pid, start: front.runner.emit(pid, "message", "plain text") and None
    answer = await front.chat()

    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"


@over
async def test_a_client_that_disconnects_ends_its_process(front: Front):
    front.runner.on_start = lambda pid, start: front.runner.emit(pid, "message", '{"delta": "x"}') and None
    for stream in (False, True):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_disconnecting(front, stream), 0.5)
        for _ in range(100):
            if front.core.table.live_count == 0:
                break
            await asyncio.sleep(0.01)
        assert len(front.runner.killed) == (2 if stream else 1)


async def _disconnecting(front: Front, stream: bool) -> None:
    """A request whose client hangs up as soon as it has sent its body."""
    body = json.dumps({**ASK, "stream": stream}).encode()
    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [],
    }
    app = application(front.world.config, front.core, lambda: None)
    await app(scope, receive, send)
    raise TimeoutError


def test_a_completion_that_takes_too_long_is_given_up():
    async def run() -> None:
        front = Front(chat_timeout=0.2)
        front.runner.on_start = lambda pid, start: None
        driver = asyncio.create_task(front.drive())
        answer = await front.chat()
        await asyncio.sleep(0.05)
        driver.cancel()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        assert len(front.runner.killed) == 1

    asyncio.run(run())


@over
async def test_without_an_engine_it_is_unavailable(front: Front):
    front.core.membership.members = []

    answer = await front.chat()

    assert answer.status_code == 503
    assert answer.headers["retry-after"]


@over
async def test_models_and_health(front: Front):
    models = (await front.http.get("/v1/models")).json()
    assert [m["id"] for m in models["data"]] == ["tiny"]

    healthy = await front.http.get("/healthz")
    assert healthy.status_code == 200
    assert healthy.json()["ready"]

    front.world.kill("kvstore")
    front.world.kill("runner-0")
    await asyncio.sleep(0.01)
    ill = await front.http.get("/healthz")
    assert ill.status_code == 503
    assert ill.json()["reasons"] == ["kvstore does not answer", "no runner has announced itself"]


@over
async def test_unknown_routes_and_methods(front: Front):
    assert (await front.http.get("/v1/nothing")).status_code == 404
    assert (await front.http.get("/v1/chat/completions")).status_code == 405
