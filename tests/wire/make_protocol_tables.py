"""Writes the tables of docs/protocol.md from the message classes, error tree and limits; the prose stays by hand.

A generated part stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from pie_wire import capabilities, channel, codec, errors, hub, transport
from pie_wire.link import Timing
from pie_wire.messages import base, client, common, engine, gateway, kvstore, link, runner
from pie_wire.messages.base import Message, Push, Request

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"

ADVICE = {
    "bad_field": "Correct the field that the message names.",
    "bad_frame": "Check the frame layout; a client library of another product may be dialing this port.",
    "bad_program": "Rebuild or correct the program as the message says, and upload it again.",
    "bad_request": "Correct the request; repeating it unchanged fails again.",
    "cancelled": "Nothing: the caller asked for it.",
    "closed": "Open a new one; a handle is used once.",
    "conflict": "Choose another name or id, or say `replace` where the message offers it.",
    "deadline_exceeded": "Try again, with a longer timeout if the work is long. A launch may be repeated with its id.",
    "device_error": "Retry on a fresh context; if it stays, look at the engine's log.",
    "engine_lost": "Make new contexts once an engine is back; open snapshots again.",
    "forbidden": "Ask for it in the manifest, and the operator to grant it: the message names both places.",
    "gone": "Start anew: it was kept for its time and then deleted.",
    "hash_mismatch": "Upload again from the beginning.",
    "internal": "Report it with the service's log: this is a defect.",
    "limit_exceeded": "Make the program need less, or raise the limit that the message names.",
    "not_found": "Check the name; `pie` lists what exists.",
    "out_of_memory": "Use a shorter context, raise the account's cap or give the engine more KV memory.",
    "overloaded": "Wait and try again; if it stays, add capacity.",
    "peer_lost": "Try again: links are remade without being asked.",
    "process_lost": "Launch again with a new id if running twice does no harm.",
    "program_error": "Look at `cause`, an error of the host that may pass; else correct the program.",
    "protocol": "Correct the peer: it broke the rules of this document.",
    "quota_exceeded": "Remove what is no longer needed, or have the operator raise the limit that the message names.",
    "skipped": "Look at `cause`: an earlier operation on the same context failed.",
    "stale_epoch": "Stop this process: a newer incarnation has its name.",
    "store_unavailable": "Wait and try again; check that Redis answers.",
    "terminated": "Nothing: its owner or an operator ended it.",
    "too_large": "Send less; the message names the limit.",
    "trapped": "Correct the program: its WebAssembly trapped.",
    "unavailable": "Try again; check with `pie status` that the service runs.",
    "unknown_verb": "Upgrade the older side, or check the verb.",
    "unsupported": "Ask for something this deployment offers.",
    "version_mismatch": "Upgrade the side with the lower major version.",
}

LIMITS: list[tuple[str, int | float, str, str]] = [
    ("body", codec.MAX_BODY_BYTES, "bytes", "MessagePack body of a frame"),
    ("verb", codec.MAX_VERB_BYTES, "bytes", "verb of a frame"),
    ("buffers", codec.MAX_BUFFERS, "", "buffers of a frame"),
    ("buffer", codec.MAX_BUFFER_BYTES, "bytes", "one buffer"),
    ("window, frames", channel.WINDOW_FRAMES, "", "unacknowledged frames of a session and direction"),
    ("window, bytes", channel.WINDOW_BYTES, "bytes", "unacknowledged bytes of a session and direction"),
    ("backlog", channel.BACKLOG_BYTES, "bytes", "what may wait for the window before the session is given up"),
    ("ack, frames", channel.ACK_EVERY_FRAMES, "", "received frames after which an acknowledgement is due at once"),
    ("ack, bytes", channel.ACK_EVERY_BYTES, "bytes", "received bytes after which an acknowledgement is due at once"),
    ("resend pause", channel.RESEND_PAUSE, "s", "between two requests for the same gap"),
    ("error message", errors.MAX_MESSAGE_CHARS, "characters", "longer ones are cut"),
    ("links", hub.MAX_LINKS, "", "open links per listening port"),
    ("pending requests", hub.MAX_PENDING, "", "unanswered requests of one process"),
    ("socket high-water mark", transport.HIGH_WATER, "", "messages; a fuse, never flow control"),
    ("hello", Timing().hello, "s", "between the first greetings of a dialer"),
    ("hello, slow", Timing().hello_slow, "s", "between later ones, when nobody answers"),
    ("refused", Timing().refused, "s", "pause of a dialer that was refused"),
    ("beat", Timing().beat, "s", "between two beats"),
    ("stuck", Timing().stuck, "s", "silence after which a peer counts as stuck"),
    ("dead", Timing().dead, "s", "silence after which a session is given up"),
    ("input", common.MAX_INPUT_BYTES, "bytes", "input of a launch"),
    ("event", common.MAX_EVENT_BYTES, "bytes", "one event"),
    ("queued message", common.MAX_QUEUED_BYTES, "bytes", "one message of a topic"),
    ("artifact", common.MAX_ARTIFACT_BYTES, "bytes", "an uploaded program"),
    ("chunk", common.CHUNK_BYTES, "bytes", "one chunk of an upload or download, as this code sends them"),
    ("unacknowledged events", common.UNACKED_EVENTS, "", "per process, before `send` blocks or drops"),
    ("unacknowledged event bytes", common.UNACKED_BYTES, "bytes", "per process, before `send` blocks or drops"),
]


def _field_notes(cls: type[Any]) -> dict[str, str]:
    """The strings that stand below fields in the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    notes: dict[str, str] = {}
    for before, after in itertools.pairwise(body):
        if (
            isinstance(before, ast.AnnAssign)
            and isinstance(before.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            notes[before.target.id] = _line(str(after.value.value))
    return notes


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _type(hint: Any) -> str:
    """A type in the words of MessagePack."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "nil"
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is list:
        return f"array of {_type(arguments[0])}"
    if origin is tuple:
        return f"array ({', '.join(_type(argument) for argument in arguments)})"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {"str": "string", "bytes": "binary", "bool": "boolean"}.get(hint.__name__, hint.__name__)


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case "" | [] | {} | b"":
            return "empty"
        case msgspec.Struct():
            return "all defaults"
        case str():
            return f'`"{value}"`'.replace("|", "\\|")
        case _:
            return str(value)


def _fields(cls: type[Any]) -> Iterator[str]:
    hints, notes = typing.get_type_hints(cls), _field_notes(cls)
    fields = msgspec.structs.fields(cls)
    if not fields:
        return
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for field in fields:
        about = notes.get(field.name, "")
        yield f"| `{field.encode_name}` | {_type(hints[field.name])} | {_default(field)} | {about} |"
    yield ""


def _own(module: types.ModuleType) -> Iterator[type[Any]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__:
            yield value


def _records(*modules: types.ModuleType) -> Callable[[], Iterator[str]]:
    def rows() -> Iterator[str]:
        for module in modules:
            for cls in _own(module):
                if issubclass(cls, Message):
                    continue
                yield f"#### {cls.__name__}"
                yield ""
                if cls.__doc__:
                    yield from (_line(cls.__doc__), "")
                config = cls.__struct_config__
                if config.array_like:
                    tag = f' led by the string `"{config.tag}"`' if config.tag else ""
                    yield from (f"An array{tag}: fields by position.", "")
                yield from _fields(cls)

    return rows


def _messages(*modules: types.ModuleType) -> Callable[[], Iterator[str]]:
    def rows() -> Iterator[str]:
        for module in modules:
            for cls in _own(module):
                if not issubclass(cls, Message) or not cls.verb:
                    continue
                yield f"#### `{cls.verb}`"
                yield ""
                yield from (f"{_nature(cls)} {_line(cls.__doc__)}".rstrip(), "")
                yield from _fields(cls)

    return rows


def _nature(cls: type[Message]) -> str:
    if issubclass(cls, Request):
        return f"Request, answered by `{cls.reply.verb}`."
    if issubclass(cls, Push):
        return "Push."
    return "Link message." if cls.handshake else "Reply."


def _header() -> Iterator[str]:
    yield from _fields(codec.Header)


def _error_record() -> Iterator[str]:
    yield from _fields(errors.ErrorInfo)


def _error_codes() -> Iterator[str]:
    yield "| code | retry | scope | meaning | what to do |"
    yield "|---|---|---|---|---|"
    for code, cls in sorted(_error_classes().items()):
        retry = "yes" if cls.retryable else "no"
        yield f"| `{code}` | {retry} | {cls.scope} | {_line(cls.__doc__)} | {ADVICE.get(code, '')} |"
    yield ""


def _error_classes() -> dict[str, type[errors.PieError]]:
    found: dict[str, type[errors.PieError]] = {}
    for code in errors.codes():
        made = type(errors.from_info(errors.ErrorInfo(code, "")))
        if made is errors.RemoteError:
            made = type(errors.from_info(errors.ErrorInfo(code, "", retryable=True)))
        found[code] = made
    return found


def _limits() -> Iterator[str]:
    yield "| limit | value | what it bounds |"
    yield "|---|---|---|"
    for name, value, unit, about in LIMITS:
        yield f"| {name} | {_amount(value, unit)} | {about} |"
    yield ""


def _amount(value: float, unit: str) -> str:
    for shift, prefix in ((20, "MiB"), (10, "KiB")):
        if unit == "bytes" and value >= 1 << shift:
            return f"{int(value) >> shift} {prefix}"
    return f"{value:,g} {unit}".strip() if isinstance(value, float) else f"{value:,} {unit}".strip()


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "header": _header,
    "error": _error_record,
    "error codes": _error_codes,
    "limits": _limits,
    "link": _messages(link, base),
    "gateway": _messages(gateway),
    "client": _messages(client),
    "runner": _messages(runner),
    "engine": _messages(engine),
    "kvstore": _messages(kvstore),
    "records": _records(link, common, capabilities, gateway, runner, engine, kvstore),
}

_PART = re.compile(r"(<!-- table: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render(text: str) -> str:
    """The document with every table as it should be."""
    return _PART.sub(lambda part: part[1] + "\n" + "\n".join(TABLES[part[2]]()) + "\n" + part[3], text)


def main() -> None:
    DOCUMENT.write_text(render(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
