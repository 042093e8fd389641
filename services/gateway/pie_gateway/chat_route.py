"""`/v1/chat/completions`: each request is one run of the chat inferlet."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec
from pie_wire.errors import InternalError, NotFound, PeerLost, PieError, TooLarge, Unavailable, from_info
from pie_wire.messages.common import Event
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pie_gateway.config import GatewayConfig
from pie_gateway.core import GatewayCore
from pie_gateway.local_run import LocalRun
from pie_gateway.openai import (
    RETRY_AFTER,
    ChatDelta,
    ChatRequest,
    ChatResult,
    chat_input,
    error_body,
    parse,
    status_of,
    usage_body,
)
from pie_gateway.reports import models_of

BODY_WITHIN = 30.0


@dataclass(frozen=True)
class _Completion:
    """What all chunks of one answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _sse({**self.head("chat.completion.chunk"), "choices": [choice]})

    def head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class ChatRoute:
    def __init__(self, config: GatewayConfig, core: GatewayCore, soon: Callable[[], None]) -> None:
        self._config = config
        self._core = core
        self._soon = soon

    async def completions(self, request: Request) -> Response:
        """Plain or streamed; every failure before the first token has an HTTP status of its own."""
        try:
            asked = parse(await self._body(request))
            completion = _Completion(self._model(asked))
        except PieError as exc:
            return error_response(exc)
        except ClientDisconnect:
            return Response(status_code=499)
        run = LocalRun(self._core, self._soon, timeout=self._config.chat_timeout)
        watch = asyncio.create_task(_close_when_gone(request, run))
        try:
            await run.launch(self._config.chat_program, chat_input(asked))
            parts = self._parts(run)
            if not asked.stream:
                return await self._plain(completion, parts)
            first = await anext(parts)
        except PieError as exc:
            return error_response(exc)
        else:
            streamed = self._streamed(completion, asked.include_usage, first, parts, run, watch)
            run, watch = None, None
            return StreamingResponse(streamed, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        finally:
            if run is not None and watch is not None:
                await _finish(run, watch)

    async def _plain(self, completion: _Completion, parts: AsyncIterator[ChatDelta | ChatResult]) -> Response:
        async for part in parts:
            if isinstance(part, ChatResult):
                message = {"role": "assistant", "content": part.text}
                choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": part.finish_reason}
                head = completion.head("chat.completion")
                return JSONResponse({**head, "choices": [choice], "usage": usage_body(part.usage)})
        raise InternalError("the chat inferlet ended without a result")

    async def _streamed(
        self,
        completion: _Completion,
        include_usage: bool,
        first: ChatDelta | ChatResult,
        parts: AsyncIterator[ChatDelta | ChatResult],
        run: LocalRun,
        watch: asyncio.Task[None],
    ) -> AsyncIterator[bytes]:
        try:
            yield completion.chunk({"role": "assistant", "content": ""})
            part: ChatDelta | ChatResult | None = first
            while part is not None:
                if isinstance(part, ChatDelta):
                    yield completion.chunk({"content": part.delta})
                else:
                    yield completion.chunk({}, part.finish_reason)
                    if include_usage:
                        head = completion.head("chat.completion.chunk")
                        yield _sse({**head, "choices": [], "usage": usage_body(part.usage)})
                part = await anext(parts, None)
            yield b"data: [DONE]\n\n"
        except PieError as exc:
            yield _sse(error_body(exc))
        finally:
            await _finish(run, watch)

    async def _parts(self, run: LocalRun) -> AsyncIterator[ChatDelta | ChatResult]:
        """What the inferlet says, typed.

        Raises:
            PieError: its own error; InternalError if it does not keep to the contract.
        """
        async for event in run.events():
            part = _part(event)
            if part is not None:
                yield part

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_WITHIN):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._config.http_body:
                        raise TooLarge(f"request body exceeds {self._config.http_body} bytes")
        except TimeoutError as exc:
            raise TooLarge(f"request body did not arrive within {BODY_WITHIN:g} s") from exc
        return bytes(body)

    def _model(self, asked: ChatRequest) -> str:
        names = [m.name for m in models_of(self._core.membership.members)]
        if not names:
            raise Unavailable("no engine is there now: see /healthz")
        if asked.model and asked.model not in names:
            raise NotFound(f"no model {asked.model!r}; there is {', '.join(names)}")
        return asked.model or names[0]


def error_response(error: PieError) -> JSONResponse:
    """An error in OpenAI's shape; 503 carries Retry-After."""
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else None
    return JSONResponse(error_body(error), status, headers)


def _part(event: Event) -> ChatDelta | ChatResult | None:
    try:
        match event.kind:
            case "message":
                return msgspec.json.decode(event.text, type=ChatDelta)
            case "return":
                return msgspec.json.decode(event.text, type=ChatResult)
            case "error":
                raise from_info(event.error) if event.error else InternalError("the chat inferlet failed")
            case _:
                return None
    except msgspec.MsgspecError as exc:
        raise InternalError(f"the chat inferlet sent something else than agreed: {exc}") from exc


async def _close_when_gone(request: Request, run: LocalRun) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    run.close(PeerLost("the HTTP client has gone"))


async def _finish(run: LocalRun, watch: asyncio.Task[None]) -> None:
    run.close()
    watch.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watch


def _sse(data: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
