"""The shapes of the OpenAI chat completions API, as far as they are served here.

Source: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pie_wire.errors import (
    BadField,
    BadRequest,
    Conflict,
    NotFound,
    PieError,
    TooLarge,
    Unsupported,
)

DEFAULT_MAX_TOKENS = 512
RETRY_AFTER = 1
"""Seconds, for answers that say that trying again can help."""
CALLERS_FAULT = frozenset({"bad_request", "bad_field", "too_large", "unsupported"})
PASSING = frozenset({"engine_lost", "unavailable", "overloaded", "store_unavailable", "deadline_exceeded"})


class TextPart(msgspec.Struct):
    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class ChatRequest(msgspec.Struct):
    """Fields that do not change the result here (`user`, `metadata`, ...) are ignored."""

    messages: list[ChatMessage]
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    tools: list[Any] | None = None
    logprobs: bool | None = None
    response_format: dict[str, Any] | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatDelta(msgspec.Struct):
    """A `message` event of the chat inferlet."""

    delta: str


class ChatResult(msgspec.Struct):
    """What the chat inferlet returns."""

    text: str
    finish_reason: str
    usage: Usage


def parse(body: bytes) -> ChatRequest:
    """Read and check a request.

    Raises:
        BadField: not JSON, or a field is missing or out of range. Unsupported: it asks for what is not offered.
    """
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise BadField(f"request body: {exc}") from exc
    limit = _max_tokens(request)
    if not request.messages:
        raise BadField("messages is empty")
    if limit < 1:
        raise BadField(f"max_tokens is {limit}, expected at least 1")
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise BadField(f"temperature is {request.temperature}, expected 0 to 2")
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise BadField(f"top_p is {request.top_p}, expected more than 0 and at most 1")
    if len(_stop(request)) > 16 or not all(_stop(request)):
        raise BadField("stop: expected at most 16 non-empty strings")
    if request.n not in (None, 1):
        raise Unsupported("n: one choice per request is offered")
    if request.tools:
        raise Unsupported("tools are not offered by this route")
    if request.logprobs:
        raise Unsupported("logprobs are not offered by this route")
    if request.response_format and request.response_format.get("type") != "text":
        raise Unsupported("response_format: only text is offered")
    return request


def chat_input(request: ChatRequest) -> str:
    """The JSON input of the chat inferlet."""
    fields: dict[str, object] = {
        "messages": [
            {"role": "system" if m.role == "developer" else m.role, "content": m.text} for m in request.messages
        ],
        "max_tokens": _max_tokens(request),
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "seed": request.seed,
        "stop": _stop(request),
    }
    return msgspec.json.encode(fields).decode()


def status_of(error: PieError) -> int:
    """The HTTP status of an error; 503 where trying again can help. An error that the chat program only passed on
    counts as what caused it."""
    if error.retryable or error.info().retryable:
        return 503
    if error.cause in CALLERS_FAULT:
        return 400
    if error.cause in PASSING:
        return 503
    match error:
        case NotFound():
            return 404
        case Conflict():
            return 409
        case TooLarge() | BadRequest() | Unsupported():
            return 400
        case _:
            return 500


def error_body(error: PieError) -> dict[str, object]:
    info = error.info()
    status = status_of(error)
    kind = "invalid_request_error" if status < 500 else "service_unavailable" if status == 503 else "server_error"
    return {"error": {"message": info.message, "type": kind, "param": None, "code": info.code}}


def usage_body(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _max_tokens(request: ChatRequest) -> int:
    for limit in (request.max_completion_tokens, request.max_tokens):
        if limit is not None:
            return limit
    return DEFAULT_MAX_TOKENS


def _stop(request: ChatRequest) -> list[str]:
    if request.stop is None:
        return []
    return [request.stop] if isinstance(request.stop, str) else request.stop
