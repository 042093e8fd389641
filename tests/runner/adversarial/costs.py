"""Programs that call one function of the world each, with as much as it takes: what that costs the loop is measured."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostile import ANSWER, component, imports

MIB = 1 << 20
RET = 1024
NAME = 8192
"""Where short texts lie."""
TAIL = 65536
BUF = MIB
"""Where what is passed lies; further arguments at `BUF2`."""
BUF2 = 136 * MIB
_HEAP = 300 * MIB
MOST_TEXT = 16 * MIB
MOST_NUMBERS = 1 << 18
MOST_ITEMS = 1 << 13


@dataclass(frozen=True)
class Case:
    """`before` prepares, `call` is measured."""

    call: str
    before: str = ""
    data: str = ""


def name_of(module: str, function: str) -> str:
    """`context/context.append` of a module's `[method]context.append`."""
    interface = module.rpartition("/")[2].partition("@")[0]
    kind, _, rest = function.rpartition("]")
    return f"{interface}/{rest}" + (".new" if kind == "[constructor" else "")


def imported(functions: Iterable[tuple[str, str, Sequence[str], Sequence[str]]]) -> str:
    """The imports of a core module, each called `name_of` it."""
    lines: list[str] = []
    for module, function, params, results in functions:
        takes = f"(param {' '.join(params)})" if params else ""
        gives = f"(result {' '.join(results)})" if results else ""
        lines.append(f'(import "{module}" "{function}" (func ${name_of(module, function)} {takes} {gives}))')
    return " ".join(lines)


def program(case: Case, *, endless: bool = False) -> bytes:
    """`before`, a rest, `call`, a rest: what runs between the two rests is the call. `endless`: it calls for ever."""
    call = case.call
    if endless:
        call = f"(loop $for_ever (global.set $top (i32.const {_HEAP})) {call} (br $for_ever))"
    return component(f"""(module {imported(imports())}
  (memory $memory (export "cm32p2_memory") {_HEAP >> 16})
  (global $top (mut i32) (i32.const {_HEAP}))
  (global $model (mut i32) (i32.const 0))
  (global $context (mut i32) (i32.const 0))
  (global $it (mut i32) (i32.const 0))
  {case.data}
  (func (export "cm32p2_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (local.set $end (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (local.get $end) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (global.set $top (local.get $end))
    (local.get $at))
  (func $repeat (param $at i32) (param $have i32) (param $want i32) (local $more i32)
    (block $done (loop $again
      (br_if $done (i32.ge_u (local.get $have) (local.get $want)))
      (local.set $more (i32.sub (local.get $want) (local.get $have)))
      (if (i32.gt_u (local.get $more) (local.get $have)) (then (local.set $more (local.get $have))))
      (memory.copy (i32.add (local.get $at) (local.get $have)) (local.get $at) (local.get $more))
      (local.set $have (i32.add (local.get $have) (local.get $more)))
      (br $again))))
  (func $made (result i32) (i32.load (i32.const {RET + 4})))
  (func $wait (param $id i32)
    (i32.store (i32.const 256) (local.get $id))
    (call $futures/wait-any (i32.const 256) (i32.const 1) (i32.const 264)))
  (func $rest (local $done i32)
    (local.set $done (call $clocks/sleep (i64.const 100000000)))
    (call $wait (call $futures/done.id (local.get $done)))
    (call $futures/done_drop (local.get $done)))
  (func (export "cm32p2||run") (param i32 i32) (result i32) (local $i i32)
    (call $model/model.load (i32.const 0) (i32.const 0) (i32.const {RET}))
    (global.set $model (call $made))
    {case.before}
    (call $rest)
    {call}
    (call $rest)
    {ANSWER}))""")


def _bytes(text: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in text)


def segment(at: int, text: bytes) -> str:
    """These bytes at an address of the guest's memory."""
    return f'(data (i32.const {at}) "{_bytes(text)}")'


@dataclass(frozen=True)
class Argument:
    """A text or a list in memory: `given` is its address and size."""

    at: int
    count: int
    data: str
    before: str

    @property
    def given(self) -> str:
        return f"(i32.const {self.at}) (i32.const {self.count})"


def filled(pattern: bytes, size: int, head: bytes = b"", tail: bytes = b"", at: int = BUF, each: int = 1) -> Argument:
    """`head`, `pattern` as often as fits, `tail`: `size` bytes in all, which are elements of `each` bytes."""
    middle = (size - len(head) - len(tail)) // len(pattern) * len(pattern)
    start = at + len(head)
    place = TAIL if at == BUF else TAIL + 32768
    data = segment(at, head + pattern) + (segment(place, tail) if tail else "")
    before = f"(call $repeat (i32.const {start}) (i32.const {len(pattern)}) (i32.const {middle}))"
    if tail:
        before += f"(memory.copy (i32.const {start + middle}) (i32.const {place}) (i32.const {len(tail)}))"
    return Argument(at, (len(head) + middle + len(tail)) // each, data, before)


def numbers(count: int, at: int = BUF, values: tuple[int, ...] = (5, 900, 17, 30)) -> Argument:
    """A list of u32."""
    raw = b"".join(value.to_bytes(4, "little") for value in values)
    return filled(raw, count * 4 // len(raw) * len(raw), at=at, each=4)


def short(text: str) -> tuple[str, str]:
    """(data, given) of a name."""
    return segment(NAME, text.encode()), f"(i32.const {NAME}) (i32.const {len(text)})"


def taking(function: str, argument: Argument, before: str = "", behind: str = f"(i32.const {RET})") -> Case:
    """A method of `$it` that takes that and returns by pointer."""
    call = f"(call ${function} (global.get $it) {argument.given} {behind})"
    return Case(call, before + argument.before, argument.data)


_OWN = "(global.set $it (call $made))"
_MODEL = "(global.set $it (global.get $model))"
CONTEXT = f"(call $context/context.create (global.get $model) (i32.const {RET})) {_OWN}"
TOKENIZER = "(global.set $it (call $model/model.tokenizer (global.get $model)))"
DETOKENIZER = TOKENIZER + "(global.set $it (call $model/tokenizer.detokenizer (global.get $it)))"
CONVERSATION = "(global.set $it (call $chat/conversation.new (global.get $model)))"
_ROW = filled(b"AAAAAACAPwAAAEA/", 4 * (MIB // 3) // 4 * 4, at=BUF2)
"""A row of logits, as large as any: 0, 1, 0.75 again and again."""
ROW = f"{_ROW.before} (call $logits/logits.from-bytes {_ROW.given} (i32.const {RET})) {_OWN}"


def _on_row(function: str, extra: str = "") -> Case:
    return Case(f"(call $logits/logits.{function} (global.get $it) {extra} (i32.const {RET}))", ROW, _ROW.data)


def _row_taking(function: str, argument: Argument, behind: str = "") -> Case:
    case = taking(f"logits/logits.{function}", argument, ROW, f"{behind} (i32.const {RET})")
    return Case(case.call, case.before, case.data + _ROW.data)


_MESSAGES = filled(b'{"role":"user","content":"a"},', 4000 * 30, b"[", b'{"role":"user","content":"a"}]')
_TEXT = filled(b"some words, 17 of them; ", MOST_TEXT)

_GRAMMAR, _GRAMMAR_GIVEN = short("[a-z ]*")
MATCHER = (
    f"(call $grammar/grammar.compile (global.get $model) (i32.const 1) {_GRAMMAR_GIVEN} (i32.const {RET})) {_OWN}"
    f"(call $grammar/grammar.matcher (global.get $it) (i32.const {RET})) {_OWN}"
)
_LETTERS = numbers(64, values=(81, 82, 83, 84))
_CONTEXT_FULL = numbers(8000, at=BUF2)
FULL = (
    CONTEXT
    + _CONTEXT_FULL.before
    + (f"(call $context/context.append (global.get $it) {_CONTEXT_FULL.given} (i32.const {RET}))")
)
_TURN = filled(b"word ", 4 * MIB)
_ROLE, _ROLE_GIVEN = short("user")
_PATH, _PATH_GIVEN = short("/scratch/a")
_NAMED, _NAMED_GIVEN = short("a")
_FILE = filled(b"QUJD", 85 * MIB)
_PIECE = filled(b"QUJD", 21 * MIB)
_REPLY = numbers(8192)
_TOOLS = filled(b'{"type":"string"},', 256 * 1024, b'[{"name":"a","parameters":{"anyOf":[', b"{}]}}]")


def _simple(call: str, argument: Argument | None = None, before: str = "", data: str = "") -> Case:
    given = argument.given if argument else ""
    prepared = before + (argument.before if argument else "")
    return Case(f"(call {call.replace('ARG', given)})", prepared, data + (argument.data if argument else ""))


CASES: dict[str, Case] = {
    "futures/wait-any": _simple(f"$futures/wait-any ARG (i32.const {RET})", numbers(65536)),
    "log/stdout": _simple("$log/stdout ARG", _TEXT),
    "log/write": _simple("$log/write (i32.const 0) ARG", _TEXT),
    "random/get-bytes": _simple(f"$random/get-bytes (i32.const 65536) (i32.const {RET})"),
    "session/send": _simple(f"$session/send ARG (i32.const 0) (i32.const {RET})", filled(b"abcd", MIB)),
    "session/send-bytes": _simple(f"$session/send-bytes ARG (i32.const 0) (i32.const {RET})", filled(b"abcd", MIB)),
    "session/send-file": _simple(f"$session/send-file {_NAMED_GIVEN} ARG (i32.const {RET})", _FILE, data=_NAMED),
    "filesystem/write": _simple(f"$filesystem/write {_PATH_GIVEN} ARG (i32.const {RET})", _PIECE, data=_PATH),
    "filesystem/read": Case(
        f"(call $filesystem/read {_PATH_GIVEN} (i64.const 0) (i64.const 99999999) (i32.const {RET}))",
        _PIECE.before + f"(call $filesystem/write {_PATH_GIVEN} {_PIECE.given} (i32.const {RET}))",
        _PATH + _PIECE.data,
    ),
    "messaging/push": _simple(
        f"$messaging/push {_NAMED_GIVEN} ARG (i32.const {RET})", filled(b"abcd", MIB // 4), data=_NAMED
    ),
    "model/tokenizer.decode": taking(
        "model/tokenizer.decode", numbers(MOST_NUMBERS), TOKENIZER, f"(i32.const 1) (i32.const {RET})"
    ),
    "model/tokenizer.encode": taking("model/tokenizer.encode", _TURN, TOKENIZER),
    "model/detokenizer.feed": taking("model/detokenizer.feed", numbers(65536), DETOKENIZER),
    "context/context.append": taking("context/context.append", numbers(MOST_NUMBERS), CONTEXT),
    "context/context.append full": taking("context/context.append", numbers(8000), CONTEXT),
    "context/context.tokens": _simple(
        f"$context/context.tokens (global.get $it) (i32.const {RET})", before=FULL, data=_CONTEXT_FULL.data
    ),
    "context/context.fork": _simple(
        f"$context/context.fork (global.get $it) (i32.const {RET})", before=FULL, data=_CONTEXT_FULL.data
    ),
    "context/context.import": _simple(
        f"$context/context.import (global.get $model) ARG (i32.const {RET})", filled(b"QUJD", 66 * MIB)
    ),
    "logits/logits.from-bytes": _simple(
        f"$logits/logits.from-bytes {_ROW.given} (i32.const {RET})", before=_ROW.before, data=_ROW.data
    ),
    "logits/logits.read": _on_row("read"),
    "logits/logits.topk": _on_row("topk", "(i32.const 16384)"),
    "logits/logits.argmax": _on_row("argmax"),
    "logits/logits.entropy": _on_row("entropy"),
    "logits/logits.log-softmax": _on_row("log-softmax"),
    "logits/logits.draw": _on_row("draw"),
    "logits/logits.fork": _on_row("fork"),
    "logits/logits.gather": _row_taking("gather", numbers(16384)),
    "logits/logits.allow": _row_taking("allow", numbers(MOST_NUMBERS)),
    "logits/logits.penalize": _row_taking(
        "penalize", numbers(MOST_NUMBERS), "(f32.const 1.1) (f32.const 0.1) (f32.const 0.1)"
    ),
    "logits/logits.bias": _row_taking("bias", filled(bytes(range(4)) * 2, 8 * MOST_ITEMS, each=8)),
    "logits/logits.keep-typical-p": _on_row("keep-typical-p", "(f32.const 0.9)"),
    "logits/logits.keep-top-p": _on_row("keep-top-p", "(f32.const 0.9)"),
    "logits/logits.keep-top-k": _on_row("keep-top-k", "(i32.const 200000)"),
    "logits/logits.keep-min-p": _on_row("keep-min-p", "(f32.const 0.9)"),
    "chat/render": Case(
        f"(call $chat/render (global.get $model) {_MESSAGES.given} (i32.const 0) (i32.const 0) (i32.const 0)"
        f" (i32.const 1) (i32.const {RET}))",
        _MESSAGES.before,
        _MESSAGES.data,
    ),
    "chat/conversation.message": _simple(
        f"$chat/conversation.message (global.get $it) {_ROLE_GIVEN} ARG (i32.const {RET})", _TURN, CONVERSATION, _ROLE
    ),
    "chat/conversation.reply": _simple(
        f"$chat/conversation.reply (global.get $it) ARG (i32.const {RET})",
        _REPLY,
        CONVERSATION + f"(call $chat/conversation.cue (global.get $it) (i32.const {RET}))",
    ),
    "chat/conversation.seal": _simple(
        f"$chat/conversation.seal (global.get $it) (i32.const {RET})",
        before=CONVERSATION + _REPLY.before + f"(call $chat/conversation.cue (global.get $it) (i32.const {RET}))"
        f"(call $chat/conversation.reply (global.get $it) {_REPLY.given} (i32.const {RET}))",
        data=_REPLY.data,
    ),
    "chat/conversation.with-tools": _simple(
        f"$chat/conversation.with-tools (global.get $model) ARG (i32.const {RET})", _TOOLS
    ),
    "chat/conversation.message 1000": _simple(
        f"$chat/conversation.message (global.get $it) {_ROLE_GIVEN} {_NAMED_GIVEN} (i32.const {RET})",
        before=CONVERSATION + f"(loop $more (call $chat/conversation.message (global.get $it) {_ROLE_GIVEN} "
        f"{_NAMED_GIVEN} (i32.const {RET})) (local.set $i (i32.add (local.get $i) (i32.const 1)))"
        "(br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))",
        data=_ROLE,
    ),
    "decoders/decoder.feed": taking(
        "decoders/decoder.feed",
        numbers(64),
        "(global.set $it (call $decoders/decoder.create (global.get $model) (i32.const 1) (i32.const 1) "
        "(i32.const 0) (i32.const 0)))",
    ),
    "decoders/call-grammar": _simple(f"$decoders/call-grammar (global.get $model) ARG (i32.const {RET})", _TOOLS),
    "grammar/grammar.compile": _simple(
        f"$grammar/grammar.compile (global.get $model) (i32.const 1) ARG (i32.const {RET})",
        filled(b"(ab|cd){1,9}", 20000),
    ),
    "grammar/matcher.mask": _simple(
        f"$grammar/matcher.mask (global.get $it) (i32.const {RET})", before=MATCHER, data=_GRAMMAR
    ),
    "grammar/matcher.fork": _simple(
        f"$grammar/matcher.fork (global.get $it) (i32.const {RET})", before=MATCHER, data=_GRAMMAR
    ),
    "grammar/matcher.accept": taking("grammar/matcher.accept", _LETTERS, MATCHER),
    "grammar/matcher.forced": _simple(
        f"$grammar/matcher.forced (global.get $it) (i32.const {RET})", before=MATCHER, data=_GRAMMAR
    ),
}
CASES["grammar/matcher.accept"] = Case(
    CASES["grammar/matcher.accept"].call, CASES["grammar/matcher.accept"].before, _LETTERS.data + _GRAMMAR
)


def _execute(probes: str, count: int, data: str, before: str = "") -> Case:
    """One pass over a context, asked so many probes at `BUF`."""
    zeros = "(i32.const 0) " * 5
    return Case(
        f"(call $forward/execute (global.get $it) (i32.const 0) (i32.const 0) {zeros}"
        f"(i32.const 0) (i32.const 0) {probes} (i32.const {count}) (i32.const {RET})) {_OWN}"
        "(call $wait (call $forward/pending-output.id (global.get $it)))"
        f"(call $forward/pending-output.get (global.get $it) (i32.const {RET}))",
        CONTEXT + f"(call $context/context.append (global.get $it) (i32.const {BUF2}) (i32.const 4) "
        f"(i32.const {RET}))" + before,
        data,
    )


def _draws(count: int) -> Case:
    zeros = "(i32.const 0) " * 7
    return Case(
        f"(call $forward/execute (global.get $it) {zeros}(i32.const {BUF}) (i32.const {count}) (i32.const 0) "
        f"(i32.const 0) (i32.const {RET}))",
        CONTEXT,
    )


_PROBE = struct.pack("<IIfI", 0, 0, 0.0, 0)
_SOFT = struct.pack("<IIfI", 0, 2, 0.5, 0)
CASES["forward/execute draws"] = _draws(1024)
CASES["forward/execute 64 rows"] = _execute(f"(i32.const {BUF})", 60, segment(BUF, _PROBE * 60))
CASES["forward/execute distribution"] = _execute(f"(i32.const {BUF})", 1, segment(BUF, _SOFT))
CASES["http/send"] = Case(
    f"(call $http/send (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const {BUF}) "
    f"(i32.const {MOST_ITEMS // 3}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) "
    f"(i64.const 0) (i32.const 0) (i32.const {RET}))"
)

# What takes a name, with more text than any name has; what stands behind that argument.
_LONG = filled(b"a/b c", 15 * MIB)
_WITH_MODEL = ("delete", "open", "prefetch", "take", "unpin")
for _function, _behind in {
    **{f"context/context.{each}": "" for each in (*_WITH_MODEL, "save")},
    "context/context.pin": "(i64.const 1)",
    **{f"filesystem/{each}": "" for each in ("list", "make-folder", "stat")},
    "filesystem/remove": "(i32.const 1)",
    "filesystem/rename": _PATH_GIVEN,
    "mcp/connect": "",
    "messaging/pull": "",
    "messaging/subscribe": "",
    "model/model.load": "",
    "runtime/set-cause": None,
}.items():
    _self = "(global.get $it)" if _function.startswith("context/") else ""
    _ret = "" if _behind is None or _function == "messaging/none" else f"(i32.const {RET})"
    CASES[_function] = _simple(
        f"${_function} {_self} ARG {_behind or ''} {_ret}",
        _LONG,
        _MODEL if _function.partition(".")[2] in _WITH_MODEL else CONTEXT,
        _PATH,
    )

_SHORT_TURN = filled(b"words in a message ", MIB // 2, b'{"role":"user","content":"', b'"}')
_INPUT = filled(b'"some text", ', 4 * MIB - 16, b"[", b"0]")
_ARGUMENTS = filled(b'{"a":[1,"b"]},', MIB // 4 - 16, b'{"a":[', b"0]}")
_SERVER, _SERVER_GIVEN = short("house")
_SESSION = f"(call $mcp/connect {_SERVER_GIVEN} (i32.const {RET})) {_OWN}"
_ADAPTERS = filled(bytes(12), 12 * 4096, each=12)
_MASK = filled(b"/w8A", 4 * (MIB // 3) // 4 * 4)
_REQUEST = (
    f"(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const {BUF}) (i32.const {MOST_ITEMS // 3}) "
    "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 0)"
)
_METHOD, _METHOD_GIVEN = short("GET")
_URL = "http://127.0.0.1:9/"
_URL_DATA = segment(NAME + 64, _URL.encode())
_UPLOAD = (
    f"(call $http/begin {_METHOD_GIVEN} (i32.const {NAME + 64}) (i32.const {len(_URL)}) "
    + "(i32.const 0) " * 6
    + f"(i64.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const {RET})) {_OWN}"
)
_SAMPLER = struct.pack("<ffIfffff", 0.0, 1.0, 0, 0.0, 1.0, 1.0, 0.0, 0.0)
_STOPS = segment(TAIL, struct.pack("<2I", TAIL + 4096, 1000) * 64) + segment(TAIL + 4096, b"stop here " * 100)
_SPEC = 2048
_GUESSED = numbers(1 << 16, values=(5, 900, 17, 30))


def _run(data: bytes, segments: str, before: str) -> Case:
    """A run whose record, behind the context's handle and the numbers of the sampler, goes on with `data`."""
    return Case(
        f"(call $generation/run.open (i32.const {_SPEC}) (i32.const {RET}))",
        f"{FULL} (i32.store (i32.const {_SPEC}) (global.get $it)) {before}",
        segment(_SPEC + 8, _SAMPLER + data) + segments + _CONTEXT_FULL.data,
    )


CASES |= {
    "chat/conversation.turn": _simple(
        f"$chat/conversation.turn (global.get $it) ARG (i32.const {RET})", _SHORT_TURN, CONVERSATION
    ),
    "children/launch": _simple(
        f"$children/launch {_NAMED_GIVEN} ARG {'(i32.const 0) ' * 4} (i32.const {RET})",
        _INPUT,
        data=_NAMED,
    ),
    "context/context.set-adapters": taking("context/context.set-adapters", _ADAPTERS, CONTEXT),
    "filesystem/append": _simple(f"$filesystem/append {_PATH_GIVEN} ARG (i32.const {RET})", _PIECE, data=_PATH),
    "log/stderr": _simple("$log/stderr ARG", _TEXT),
    "logits/logits.mask": _row_taking("mask", _MASK),
    "messaging/broadcast": _simple(
        f"$messaging/broadcast {_NAMED_GIVEN} ARG (i32.const {RET})", filled(b"abcd", MIB // 4), data=_NAMED
    ),
    "mcp/session.call-tool": _simple(
        f"$mcp/session.call-tool (global.get $it) {_NAMED_GIVEN} ARG (i32.const {RET})", _ARGUMENTS, _SESSION, _SERVER
    ),
    "mcp/session.get-prompt": _simple(
        f"$mcp/session.get-prompt (global.get $it) {_NAMED_GIVEN} ARG (i32.const {RET})", _ARGUMENTS, _SESSION, _SERVER
    ),
    "mcp/session.read-resource": taking("mcp/session.read-resource", _LONG, _SESSION),
    "http/begin": Case(f"(call $http/begin {_REQUEST} (i32.const 0) (i64.const 0) (i32.const {RET}))"),
    "http/upload.write": _simple(
        f"$http/upload.write (global.get $it) ARG (i32.const {RET})", _FILE, _UPLOAD, _METHOD + _URL_DATA
    ),
    "forward/verify": Case(
        f"(call $forward/verify (i32.const {_SPEC}) (i32.const {RET}))",
        f"{CONTEXT} (i32.store (i32.const {_SPEC}) (global.get $it)) {_GUESSED.before}",
        segment(_SPEC + 8, struct.pack("<4I", BUF, 1 << 16, BUF, 1 << 16) + _SAMPLER) + _GUESSED.data,
    ),
    "generation/run.open stops": _run(
        bytes(48) + struct.pack("<4I", BUF, 1000, TAIL, 64),
        _STOPS + numbers(1000).data,
        numbers(1000).before,
    ),
    "generation/run.open mask": _run(
        bytes(8) + struct.pack("<4I", 1, 0, BUF, _MASK.count) + bytes(4), _MASK.data, _MASK.before
    ),
}
_RUN = (
    f"{FULL} (i32.store (i32.const {_SPEC}) (global.get $it))"
    f"(call $generation/run.open (i32.const {_SPEC}) (i32.const {RET})) {_OWN}"
)
CASES["generation/run.drain"] = Case(
    f"(call $generation/run.drain (global.get $it) (i32.const 1) (i32.const 1) {_LONG.given} (i32.const {RET}))",
    _RUN + _LONG.before,
    segment(_SPEC + 8, _SAMPLER) + _CONTEXT_FULL.data + _LONG.data,
)
CASES["forward/compute draws"] = Case(
    CASES["forward/execute draws"].call.replace("execute", "compute"), CASES["forward/execute draws"].before
)
CASES["mcp/session.read-resource"] = Case(
    CASES["mcp/session.read-resource"].call, CASES["mcp/session.read-resource"].before, _LONG.data + _SERVER
)

# What takes handles and numbers only, and has much to do where there is much.
_THOUSAND = CASES["chat/conversation.message 1000"]
for _function, _given in {
    "truncate": "(i32.const 1)",
    "drop-tokens": "(i32.const 64) (i32.const 7000)",
    "flush": None,
    "reserve": "(i32.const 100)",
    "pages": "",
    "export": "",
}.items():
    CASES[f"context/context.{_function}"] = Case(
        f"(drop (call $context/context.{_function} (global.get $it)))"
        if _given is None
        else f"(call $context/context.{_function} (global.get $it) {_given} (i32.const {RET}))",
        FULL,
        _CONTEXT_FULL.data,
    )
CASES["context/context_drop"] = Case("(call $context/context_drop (global.get $it))", FULL, _CONTEXT_FULL.data)
CASES["chat/conversation.cue"] = Case(
    f"(call $chat/conversation.cue (global.get $it) (i32.const {RET}))", _THOUSAND.before, _THOUSAND.data
)
CASES["chat/conversation.fork"] = Case(
    "(drop (call $chat/conversation.fork (global.get $it)))", _THOUSAND.before, _THOUSAND.data
)
CASES["chat/conversation.rewind"] = Case(
    f"(call $chat/conversation.rewind (global.get $it) (i32.const 1) (i32.const {RET}))",
    _THOUSAND.before,
    _THOUSAND.data,
)

BEYOND: dict[str, Case] = {
    "numbers": _simple(
        f"$logits/logits.allow (global.get $it) ARG (i32.const {RET})", numbers(MOST_NUMBERS + 4), ROW, _ROW.data
    ),
    "bytes": _simple(f"$session/send-bytes ARG (i32.const 0) (i32.const {RET})", filled(b"abcd", 3 * MIB)),
    "pairs": _row_taking("bias", filled(bytes(range(4)) * 2, 8 * (MOST_ITEMS + 1), each=8)),
    "draws": _draws(MOST_ITEMS + 1),
    "a name": _simple(
        f"$context/context.open (global.get $it) ARG (i32.const {RET})", filled(b"a/b c", 120 * MIB), _MODEL
    ),
    "a path": _simple(f"$filesystem/stat ARG (i32.const {RET})", filled(b"a/b c", 120 * MIB)),
    "a text to print": _simple("$log/stdout ARG", filled(b"abcd", MOST_TEXT + 4)),
    "a line to log": _simple("$log/write (i32.const 0) ARG", filled(b"abcd", MOST_TEXT + 4)),
}
"""More than a call may pass."""
