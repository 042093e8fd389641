"""A program that holds a resource of every kind, calls one function of the world, and panics."""

from __future__ import annotations

import struct

from costs import imported, name_of, segment
from hostile import ANSWER, component, imports

MODES = ("returns", "unreachable", "in realloc", "stack", "memory", "in post-return")
RET = 1024
NEVER = "9000000000000000"
_SPEC = 2048
_GUESSES = 2304
_PROBE = 2560
_TEXTS: dict[str, tuple[int, bytes]] = {}
_SAMPLER = struct.pack("<ffIfffff", 0.0, 1.0, 0, 0.0, 1.0, 1.0, 0.0, 0.0) + bytes(28)


def _texts(port: int) -> dict[str, bytes]:
    return {
        "letter": b"a\0\0\0",
        "tokens": struct.pack("<4I", 1, 2, 3, 4),
        "regex": b"[a-z]+",
        "path": b"/scratch/a",
        "server": b"house",
        "method": b"GET",
        "url": f"http://127.0.0.1:{port}/".encode(),
        "turn": b'{"role":"user","content":"a"}',
        "turns": b'[{"role":"user","content":"a"}]',
        "tools": b'[{"name":"a"}]',
        "role": b"user",
        "base64": b"AAAAAAAAAAA=",
        "parent": struct.pack("<i", -1),
    }


def place(port: int) -> str:
    """The data of all texts; notes where each lies."""
    at, lines = 8192, list[str]()
    for name, text in _texts(port).items():
        _TEXTS[name] = at, text
        lines.append(segment(at, text))
        at += len(text) + 16 & ~7
    return "".join(lines)


def texts() -> dict[str, tuple[int, int]]:
    """Where each text lies, and how long it is, behind `place`."""
    return {name: (at, len(text)) for name, (at, text) in _TEXTS.items()}


def records() -> dict[str, int]:
    """Where what these functions take as one record lies, once there is all of `setup`."""
    return {"generation/run.open": _SPEC, "forward/verify": _GUESSES}


def text_at(name: str) -> str:
    at, text = _TEXTS[name]
    return f"(i32.const {at}) (i32.const {len(text)})"


def held(name: str) -> str:
    return f"(global.get ${name})"


OF_CONTEXT = frozenset(f"scheduling/{name}" for name in ("bid", "idle", "suspend", "rent", "balance", "receipts"))
"""Functions outside of `context` that take one first."""


def setup() -> list[tuple[str, str]]:
    """What makes a resource of every kind: (name, call). Calls that end with `RET` return a result."""
    model, context, ret = held("model"), held("context"), f"(i32.const {RET})"
    zeros = "(i32.const 0) "
    request = f"{text_at('method')} {text_at('url')} {zeros * 5} {zeros} (i64.const 0) {zeros}"
    return [
        ("model", f"(call $model/model.load {zeros * 2} {ret})"),
        ("tokenizer", f"(call $model/model.tokenizer {model})"),
        ("detokenizer", f"(call $model/tokenizer.detokenizer {held('tokenizer')})"),
        ("conversation", f"(call $chat/conversation.new {model})"),
        ("context", f"(call $context/context.create {model} {ret})"),
        ("", f"(call $context/context.append {context} (i32.const {_TEXTS['tokens'][0]}) (i32.const 4) {ret})"),
        ("forked", f"(call $context/context.fork {context} {ret})"),
        ("", f"(i32.store (i32.const {_SPEC}) {held('forked')}) (i32.store (i32.const {_GUESSES}) {context})"),
        ("run", f"(call $generation/run.open (i32.const {_SPEC}) {ret})"),
        ("pending-rest", f"(call $generation/run.drain {held('run')} {zeros * 4} {ret})"),
        ("pending-output", f"(call $forward/execute {context} {zeros * 9} (i32.const {_PROBE}) (i32.const 1) {ret})"),
        ("pending-export", f"(call $context/context.export {context} {ret})"),
        ("logits", f"(call $logits/logits.from-bytes {text_at('base64')} {ret})"),
        ("grammar", f"(call $grammar/grammar.compile {model} (i32.const 1) {text_at('regex')} {ret})"),
        ("matcher", f"(call $grammar/grammar.matcher {held('grammar')} {ret})"),
        ("decoder", f"(call $decoders/decoder.create {model} (i32.const 1) (i32.const 1) {zeros * 2})"),
        ("done", f"(call $clocks/sleep (i64.const {NEVER}))"),
        ("pending-message", "(call $session/receive)"),
        ("pending-file", "(call $session/receive-file)"),
        ("pending-response", f"(call $http/send {request} {ret})"),
        ("upload", f"(call $http/begin {request} {zeros} (i64.const 0) {ret})"),
        ("child", f"(call $children/launch {text_at('role')} {text_at('tools')} {zeros * 4} {ret})"),
        ("pending-pull", f"(call $messaging/pull {text_at('role')} {ret})"),
        ("subscription", f"(call $messaging/subscribe {text_at('role')} {ret})"),
        ("session", f"(call $mcp/connect {text_at('server')} {ret})"),
        ("pending-answer", f"(call $mcp/session.list-tools {held('session')} {ret})"),
    ]


def given(interface: str, function: str, params: list[str], results: list[str]) -> str:
    """Arguments that a function accepts, or that it refuses itself."""
    ret = f"(i32.const {RET})"
    model = held("model")
    own = {
        "futures/wait-any": f"(i32.const {RET + 512}) (i32.const 1) {ret}",
        "log/write": f"(i32.const 1) {text_at('letter')}",
        "session/send": f"{text_at('letter')} (i32.const 0) {ret}",
        "session/send-bytes": f"{text_at('letter')} (i32.const 0) {ret}",
        "session/send-file": f"{text_at('letter')} {text_at('base64')} {ret}",
        "chat/render": f"{model} {text_at('turns')} (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1) {ret}",
        "chat/conversation.turn": f"{held('conversation')} {text_at('turn')} {ret}",
        "chat/conversation.with-tools": f"{model} {text_at('tools')} {ret}",
        "decoders/call-grammar": f"{model} {text_at('tools')} {ret}",
        "scheduling/when-pressure": f"{model} (i32.const 2) (i32.const 1) {ret}",
        "generation/run.open": f"(i32.const {_SPEC}) {ret}",
        "forward/compute": f"{held('context')} {'(i32.const 0) ' * 9} (i32.const {_PROBE}) (i32.const 1) {ret}",
        "forward/verify": f"(i32.const {_GUESSES}) {ret}",
        "filesystem/read": f"{text_at('path')} (i64.const 0) (i64.const 100) {ret}",
        "filesystem/write": f"{text_at('path')} {text_at('base64')} {ret}",
        "filesystem/append": f"{text_at('path')} {text_at('base64')} {ret}",
        "http/upload.write": f"{held('upload')} {text_at('base64')} {ret}",
    }
    name = f"{interface}/{function}"
    if name in own:
        return own[name]
    for _, call in setup():
        if call.startswith(f"(call ${name} "):
            return call.removeprefix(f"(call ${name} ").removesuffix(")")
    resource = function.partition(".")[0] if "." in function else function.removesuffix("_drop")
    wanted = list(params)
    values: list[str] = []
    static = name.startswith("context/context.") and function.partition(".")[2] in (
        *("open", "take", "delete", "import", "unpin", "prefetch"),
    )
    drops = function.endswith("_drop")
    if static or (not drops and interface in ("adapters", "decoders", "scheduling") and "." not in function and wanted):
        values.append(held("context") if name in OF_CONTEXT else model)
    elif "." in function or drops:
        values.append(held(resource))
    if drops:
        return values[0]
    wanted = wanted[len(values) :]
    if not results and wanted and (len(wanted) % 2 or wanted[-2] != "i32" or interface not in ("log", "runtime")):
        wanted, tail = wanted[:-1], [ret]
    else:
        tail = []
    for at, kind in enumerate(wanted):
        pointer = kind == "i32" and at % 2 == 0 and wanted[at + 1 : at + 2] == ["i32"]
        values.append(f"(i32.const {_TEXTS['letter'][0]})" if pointer else f"({kind}.const 1)")
    return " ".join([*values, *tail])


def made(name: str, call: str) -> str:
    """A step of `setup`, which prints where it fails."""
    if not name:
        return call
    if not call.endswith(f"(i32.const {RET}))"):
        return f"(global.set ${name} {call})"
    return f"""{call} (if (i32.load8_u (i32.const {RET})) (then (call $log/stdout {text_at("path")})))
    (global.set ${name} (i32.load (i32.const {RET + 4})))"""


def made_of_all() -> tuple[str, str]:
    """What calls `setup`; the globals that keep what it makes."""
    steps = [made(name, call) for name, call in setup()]
    return " ".join(steps), "".join(f"(global ${name} (mut i32) (i32.const 0))" for name, _ in setup() if name)


def data_of_all() -> str:
    """What `setup` and `given` refer to, behind `place`."""
    return f"""{segment(_SPEC + 8, _SAMPLER)} {segment(_GUESSES + 24, _SAMPLER)}
  {segment(_GUESSES + 8, struct.pack("<4I", _TEXTS["letter"][0], 1, _TEXTS["parent"][0], 1))}
  {segment(_PROBE, struct.pack("<IIfI", 0, 4, 0.0, 0))}"""


def functions(*, answered: bool = False) -> list[str]:
    """Names of all, in the order of the program's numbers. Those of HTTP responses need a server that answers."""
    found = [name_of(module, function) for module, function, _, _ in imports()]
    return [name for name in found if answered or not name.startswith(("http/response.", "http/response_"))]


def response() -> str:
    """Makes the resource that `setup` leaves out: waits for the answer of a server. `$response` must be a global."""
    asked = held("pending-response")
    return f"""(i32.store (i32.const {RET + 512}) (call $http/pending-response.id {asked}))
    (call $futures/wait-any (i32.const {RET + 512}) (i32.const 1) (i32.const {RET}))
    (call $http/pending-response.get {asked} (i32.const {RET}))
    (global.set $response (i32.load (i32.const {RET + 8})))"""


_REST = f"""(global.set $rest (call $clocks/sleep (i64.const 100000000)))
    (i32.store (i32.const {RET + 520}) (call $futures/done.id (global.get $rest)))
    (call $futures/wait-any (i32.const {RET + 520}) (i32.const 1) (i32.const {RET + 528}))
    (call $futures/done_drop (global.get $rest))"""


def chosen(arms: list[str]) -> str:
    """`$call`, which does one of these, and `$digits`, which reads the number of it."""
    blocks = "(block " * len(arms)
    table = " ".join(str(i) for i in range(len(arms)))
    return f"""(func $call (param $which i32) {blocks} (br_table {table} (local.get $which)) {" ".join(arms)})
  (func $digits (param $at i32) (result i32) (local $value i32) (local $digit i32)
    (block $done (loop $more
      (local.set $digit (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))
      (br_if $done (i32.gt_u (local.get $digit) (i32.const 9)))
      (local.set $value (i32.add (i32.mul (local.get $value) (i32.const 10)) (local.get $digit)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $more)))
    (local.get $value))"""


def panicking(port: int, *, rests: bool = False) -> bytes:
    """Its input is a string of two numbers, `"MODE FUNCTION"`: of `MODES` and of `functions`. `rests`: HTTP is answered
    at that port, and before and behind the call it rests."""
    data = place(port)
    names = functions(answered=rests)
    every = [i for i in imports() if name_of(i[0], i[1]) in names]
    arms: list[str] = []
    for module, function, params, results in every:
        name = name_of(module, function)
        call = f"(call ${name} {given(*name.split('/', 1), list(params), list(results))})"
        arms.append(f") {f'(drop {call})' if results else call} (return)")
    steps, holders = made_of_all()
    return component(f"""(module {imported(every)}
  (memory $memory (export "cm32p2_memory") 4)
  (global $top (mut i32) (i32.const 65536))
  (global $mode (mut i32) (i32.const 0))
  (global $armed (mut i32) (i32.const 0))
  (global $response (mut i32) (i32.const 0))
  (global $rest (mut i32) (i32.const 0))
  {holders} {data} {data_of_all()}
  (func (export "cm32p2_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
    (if (i32.and (global.get $armed) (i32.eq (global.get $mode) (i32.const 2))) (then (unreachable)))
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $deep (param i32) (result i32)
    (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  {chosen(arms)}
  (func (export "cm32p2||run_post") (param i32)
    (if (i32.eq (global.get $mode) (i32.const 5)) (then (unreachable))))
  (func (export "cm32p2||run") (param $text i32) (param $size i32) (result i32) (local $which i32)
    (local.set $which (call $digits (i32.add (local.get $text) (i32.const 3))))
    (global.set $mode (i32.sub (i32.load8_u (i32.add (local.get $text) (i32.const 1))) (i32.const 48)))
    {steps}
    {f"{response()} {_REST}" if rests else ""}
    (i32.store (i32.const {RET + 512}) (call $forward/pending-output.id (global.get $pending-output)))
    (global.set $armed (i32.const 1))
    (call $call (local.get $which))
    {_REST if rests else ""}
    (block $out
      (br_if $out (i32.eqz (global.get $mode)))
      (br_if $out (i32.eq (global.get $mode) (i32.const 5)))
      (if (i32.eq (global.get $mode) (i32.const 3)) (then (drop (call $deep (i32.const 1)))))
      (if (i32.eq (global.get $mode) (i32.const 4))
        (then (loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))))
      (unreachable))
    {ANSWER}))""")
