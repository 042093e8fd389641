"""From the component's `run` to an author's `main`, and back."""

from __future__ import annotations

import asyncio
import binascii
import dataclasses
import inspect
import json
import linecache
import marshal
import random
import sys
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from wit_world.imports import random as host_random
from wit_world.imports import runtime

from inferlet import loop, stdio
from inferlet.errors import PieError

_MODULE = "inferlet_main"
_TRACE_END = 50
_SHOWN = 80
_SCALARS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false"}
_OWN_FOLDER = __file__.rpartition("/")[0] + "/"


class ProgramFailedError(Exception):
    """The text that the client will see."""


def run_source(envelope: str) -> str:
    """Run a program given as source. `envelope`: JSON {"source", "filename", "code", "input"}; the result is JSON text.

    `code` is what an envelope {"compile": source, "filename"} was answered with, or null.
    """
    request = json.loads(envelope)
    if "compile" in request:
        return compile_source(request["compile"], request["filename"])
    load, value = _unpack(request)
    return run_program(load, value)


def compile_source(source: str, filename: str) -> str:
    """A program's code as JSON text; null when only the program itself can say what is to be said of its source."""
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            code = compile(source, filename, "exec", dont_inherit=True)
    except Exception:  # noqa: BLE001 - the program that is launched from it tells its author
        return "null"
    return "null" if said else json.dumps(binascii.b2a_base64(marshal.dumps(code), newline=False).decode())


def rehearse(envelope: str) -> None:
    """Run a program that asks nothing of the host, while there is none, and leave no trace of it."""
    global host_random  # noqa: PLW0603 - of the host only its random numbers are asked for, which are drawn again
    real, host_random = host_random, _NoHost
    try:
        run_source(envelope)
    finally:
        host_random = real
        del sys.modules[_MODULE]


class _NoHost:
    @staticmethod
    def get_bytes(count: int) -> bytes:
        return bytes(count)


def _unpack(request: dict[str, Any]) -> tuple[Callable[[], Callable[..., Any]], Any]:
    filename = request["filename"]
    source = request["source"]
    made = request.get("code")

    def load() -> Callable[..., Any]:
        # Tracebacks quote the lines of a file that exists nowhere else.
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        module = types.ModuleType(_MODULE)
        module.__file__ = filename
        sys.modules[_MODULE] = module
        if made is None:
            code = compile(source, filename, "exec", dont_inherit=True)
        else:
            code = marshal.loads(binascii.a2b_base64(made))  # noqa: S302 - the runner had it made by this same module
        exec(code, module.__dict__)  # noqa: S102 - this is its purpose
        main = getattr(module, "main", None)
        if not callable(main):
            raise ProgramFailedError(f"{filename} defines no function `main`.")
        return main

    return load, request["input"]


def run_program(load: Callable[[], Callable[..., Any]], value: Any) -> str:
    """Load `main`, call it with the input, return its result as JSON text. Raises ProgramFailedError."""
    random.seed(int.from_bytes(host_random.get_bytes(32), "little"))
    try:
        return _answer(load, value)
    except ProgramFailedError:
        raise
    except SystemExit as exc:
        if exc.code in (None, 0):
            return "null"
        raise ProgramFailedError(f"exit: {exc.code}") from None
    except BaseException as exc:  # noqa: BLE001 - whatever ends the program is its answer
        if isinstance(exc, PieError):
            runtime.set_cause(exc.code)
        raise ProgramFailedError(_report(exc)) from None
    finally:
        stdio.flush()


def _answer(load: Callable[[], Callable[..., Any]], value: Any) -> str:
    return _encode(_call(load(), value))


def _call(main: Callable[..., Any], value: Any) -> Any:
    args, kwargs = _bind(main, value)
    if inspect.iscoroutinefunction(main):
        return loop.run(main(*args, **kwargs))
    answer = main(*args, **kwargs)
    if inspect.iscoroutine(answer):
        return loop.run(answer)
    if inspect.isawaitable(answer):
        return loop.run(_await(answer))
    return answer


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _bind(main: Callable[..., Any], value: Any) -> tuple[list[Any], dict[str, Any]]:
    """How the input meets main's parameters: an object spreads over them by name, unless main takes it whole.

    main takes the input whole when it is no object, or when main has one parameter and that is called `input` or is not
    among the keys of the object.
    """
    params = parameters(main)
    if not params:
        return [], {}
    kinds = inspect.Parameter
    named = [p for p in params if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    spreads = any(p.kind is kinds.VAR_KEYWORD for p in params)
    first = params[0]
    alone = len(params) == 1 and first.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)
    if not isinstance(value, dict):
        return ([] if value is None and first.default is not kinds.empty else [_fit(first, value)]), {}
    if alone and (first.name == "input" or (first.name not in value and first.default is kinds.empty)):
        return [_fit(first, value)], {}
    names = {p.name for p in named}
    unknown = [key for key in value if key not in names]
    if unknown and not spreads:
        raise ProgramFailedError(f"The input has no use for {', '.join(map(repr, unknown))}; it takes {sorted(names)}.")
    missing = [p.name for p in named if p.default is kinds.empty and p.name not in value]
    if missing:
        raise ProgramFailedError(f"The input lacks {', '.join(map(repr, missing))}; main takes {sorted(names)}.")
    known = {p.name: p for p in named}
    return [], {key: _fit(known[key], item) if key in known else item for key, item in value.items()}


class _Param(NamedTuple):
    """As much of an `inspect.Parameter` as is looked at here."""

    name: str
    kind: Any
    default: Any
    annotation: Any


def parameters(main: Callable[..., Any]) -> list[Any]:
    """Those of `inspect.signature`, which takes many times as long; a plain function says everything itself."""
    if type(main) is not types.FunctionType or main.__dict__:
        return list(inspect.signature(main).parameters.values())
    code, kinds, empty = main.__code__, inspect.Parameter, inspect.Parameter.empty
    names, count, end = code.co_varnames, code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    defaults: dict[str, Any] = dict(zip(names[:count][::-1], (main.__defaults__ or ())[::-1], strict=False))
    defaults |= main.__kwdefaults__ or {}
    annotations = main.__annotations__
    found = [(name, kinds.POSITIONAL_ONLY) for name in names[: code.co_posonlyargcount]]
    found += [(name, kinds.POSITIONAL_OR_KEYWORD) for name in names[code.co_posonlyargcount : count]]
    if code.co_flags & inspect.CO_VARARGS:
        found.append((names[end], kinds.VAR_POSITIONAL))
        end += 1
    found += [(name, kinds.KEYWORD_ONLY) for name in names[count : count + code.co_kwonlyargcount]]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        found.append((names[end], kinds.VAR_KEYWORD))
    return [_Param(name, kind, defaults.get(name, empty), annotations.get(name, empty)) for name, kind in found]


def _fit(param: inspect.Parameter | _Param, value: Any) -> Any:
    """A value for a parameter, checked if that is annotated as string, integer, number or bool. A number or bool for a
    string is its text: a command line cannot tell `5` from `"5"`."""
    wanted = getattr(param.annotation, "__name__", param.annotation)
    if wanted not in _SCALARS or value == param.default:
        return value
    match wanted, value:
        case "bool", bool():
            return value
        case "str", str():
            return value
        case "str", bool() | int() | float():
            return json.dumps(value)
        case "int" | "float", int() | float() if not isinstance(value, bool):
            if wanted == "float":
                return value
            if value == int(value):
                return int(value)
    shown = json.dumps(value, ensure_ascii=False)
    raise ProgramFailedError(f"The input's {param.name!r} must be {_SCALARS[wanted]}, not {_abridged(shown)}.")


def _abridged(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _encode(result: Any) -> str:
    if result is None:
        return "null"
    if hasattr(result, "model_dump"):
        result = result.model_dump()
    try:
        return json.dumps(result, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as exc:
        raise ProgramFailedError(f"main returned something that is not JSON: {exc}") from None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _report(exc: BaseException) -> str:
    """The traceback from the author's code on: our own frames and asyncio's above it say nothing to them."""
    if isinstance(exc, asyncio.CancelledError) and exc.__context__ is not None:
        exc = exc.__context__
    ours = (__file__, asyncio.runners.__file__, asyncio.base_events.__file__)
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename in (*ours, loop.__file__):
        frame = frame.tb_next
    frame = frame or exc.__traceback__
    if isinstance(exc, PieError):
        _end_at_author(frame)
    _shorten(frame)
    return "".join(traceback.format_exception(type(exc), exc, frame)).rstrip()


def _end_at_author(trace: types.TracebackType | None) -> None:
    """An error of the host is raised in our code; what matters is which line of the author's asked for it."""
    last = None
    while trace is not None:
        if not trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
            last = trace
        trace = trace.tb_next
    if last is not None:
        last.tb_next = None


def _shorten(trace: types.TracebackType | None) -> None:
    """Cut the middle out of a very long traceback: formatting a million frames would take minutes."""
    entries = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    if len(entries) > 2 * _TRACE_END:
        # One by one: freeing the chain as a whole would recurse once for each link, in C.
        for entry in entries[_TRACE_END - 1 : -_TRACE_END]:
            entry.tb_next = None
        entries[_TRACE_END - 1].tb_next = entries[-_TRACE_END]
