"""Messages that the engine receives. Context operations are pipelined: numbered, batched, answered by steps."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from pie_wire.messages.base import Message, Push, Request
from pie_wire.messages.common import Account, ModelFacts
from pie_wire.messages.runner import Pressure


class SamplerSpec(msgspec.Struct, frozen=True, array_like=True):
    """How a token is drawn; the defaults switch everything off. Temperature 0 is greedy.

    Order: mask and stop ids, bias, penalties (repetition, frequency, presence), temperature, top-k, top-p, min-p,
    typical."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    """Over prompt and generated tokens; the others over generated ones."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias_ids: list[int] = []
    """Tokens whose logits get `bias`; distinct."""
    bias: list[float] = []
    mask: bytes | list[int] | None = None
    """Tokens that may be drawn. Bytes: packed bits, `ceil(vocab / 32) * 4` of them, bit `i % 8` of byte `i // 8` for
    token i. List: run lengths, alternately forbidden and allowed, beginning with forbidden."""
    min_tokens: int = 0
    """Stop ids are not drawn before so many tokens have been generated."""


class Output(msgspec.Struct, frozen=True, array_like=True):
    """What to return for input row `row` of a pass: a sampled token, the `top` most probable, raw logits, the
    log-probabilities of `ids`, the entropy, or the hidden state. Rows may be asked several things."""

    row: int
    kind: Literal["token", "top", "logits", "logprobs", "entropy", "hidden"] = "token"
    sampler: SamplerSpec = SamplerSpec()
    seed: int = 0
    top: int = 0
    ids: list[int] = []
    start: int | None = None
    """Length of the context where generation began, for penalties and `min_tokens`; without it nothing counts as
    generated."""
    stop: list[int] = []
    """The ids that `min_tokens` keeps away."""


class Create(msgspec.Struct, frozen=True, array_like=True, tag="create"):
    """A new, empty context with an id chosen by the runner, never used before on this link."""

    context: int
    process: str
    tenant: str
    account: Account


class Import(msgspec.Struct, frozen=True, array_like=True, tag="import"):
    """A new context from an export: buffers `buffer`, ... of this message, `count` of them. Refused if they are
    damaged, of another model or number format, or need an adapter that is not loaded."""

    context: int
    process: str
    tenant: str
    account: Account
    buffer: int
    count: int


class Fork(msgspec.Struct, frozen=True, array_like=True, tag="fork"):
    """`context` becomes a copy-on-write copy of the first `length` tokens of `parent`."""

    context: int
    parent: int
    generation: int
    """Of the parent."""
    length: int
    process: str


class Append(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """Tokens at the end. Their KV is computed when a flush, run or pass needs it."""

    context: int
    generation: int
    tokens: list[int]


class Truncate(msgspec.Struct, frozen=True, array_like=True, tag="truncate"):
    """Keep the first `length` tokens."""

    context: int
    generation: int
    length: int


class DropTokens(msgspec.Struct, frozen=True, array_like=True, tag="drop-tokens"):
    """Forget the tokens [start, stop), all before the last one: from the last token on no row sees them, and pages that
    hold nothing else are freed. Length and positions of all others stay. Only a copy of its pages brings such a
    context back (it is *impure*): it is never computed again. Answered like a flush."""

    context: int
    generation: int
    start: int
    stop: int


class Reserve(msgspec.Struct, frozen=True, array_like=True, tag="reserve"):
    """Give the context room for `pages` working pages more. From the first reservation on, the context may not grow
    beyond the pages it has and the room it was given. Takes no page: refused only where the pool or the account could
    never hold as much."""

    context: int
    generation: int
    pages: int


class Commit(msgspec.Struct, frozen=True, array_like=True, tag="commit"):
    """Seal the first `pages` working pages, which must be full and have ascending positions: they get KV, can be found
    by others, and truncation no longer reaches them. Answered like a flush."""

    context: int
    generation: int
    pages: int


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """Give up room for the last `pages` working pages; tokens in them vanish."""

    context: int
    generation: int
    pages: int


class Pin(msgspec.Struct, frozen=True, array_like=True, tag="pin"):
    """Keep the KV of the context's full pages in the pool for `ttl` seconds, whatever becomes of the context, under a
    name of its account; what the name held before is let go. Pinned pages count as the account's and are refused beyond
    its quota. Answered like a flush."""

    context: int
    generation: int
    name: str
    ttl: float


class Unpin(msgspec.Struct, frozen=True, array_like=True, tag="unpin"):
    """Let go what a name of this account holds, if anything. Never fails."""

    account: Account
    name: str


class AdapterUse(msgspec.Struct, frozen=True, array_like=True):
    """A loaded adapter, as `name` (its newest version) or `name@digest`, and the factor of what it adds."""

    adapter: str
    weight: float = 1.0


class Prefetch(msgspec.Struct, frozen=True, array_like=True, tag="prefetch"):
    """Compute the KV of these tokens' full pages, so that a context which begins with them finds it. Acknowledged at
    once; nothing tells when it is done."""

    process: str
    tenant: str
    account: Account
    tokens: list[int]
    adapters: list[AdapterUse] = []


class Export(msgspec.Struct, frozen=True, array_like=True, tag="export"):
    """The context as bytes, up to what the program has of it: tokens, positions, masks, adapters and KV, for an engine
    with the same model. A run goes on. Answered by `exports`. `bare`: without KV, unless the context is impure.
    `length`: the first so many tokens, for a program that reads on from a run while its export waits. Without it, all
    that the program has when the export's turn comes."""

    context: int
    generation: int
    bare: bool = False
    length: int | None = None


MAX_EXPORT_HEADER = 4 << 20
"""Bytes of the first buffer of an export: far beyond what a context needs, and little enough to be read at once, since
its lists grow many times as objects."""


class ExportHeader(msgspec.Struct, frozen=True):
    """The first buffer of an export, as a map; the others hold whole pages. `kv` leading tokens have KV: all, or all
    but the last, or none of a context that can be computed from the rest. By slot, ascending: `shifts` of positions
    from there on, `masks` of rows that are not causal, `views`, the slots that no row from there on sees, and
    `adapters` from there on, each as name@digest with its weight."""

    magic: str
    version: int
    fingerprint: str
    page_size: int
    page_bytes: int
    tokens: list[int]
    kv: int
    shifts: list[tuple[int, int]] = []
    masks: list[tuple[int, list[tuple[int, int]]]] = []
    views: list[tuple[int, list[tuple[int, int]]]] = []
    adapters: list[tuple[int, list[tuple[str, float]]]] = []
    checksum: bytes = b""


class Flush(msgspec.Struct, frozen=True, array_like=True, tag="flush"):
    """Answered when all tokens but the last have KV."""

    context: int
    generation: int


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """Frees the context, also a dead one. Never fails."""

    context: int


class Speculation(msgspec.Struct, frozen=True, array_like=True):
    """How a run guesses ahead; it changes its speed, never its tokens. `ngram`: look the last so many tokens up in the
    context itself (0: off). `model`: where that finds nothing, let the engine's draft model guess (not with a grammar
    or penalties, which would have to see the guesses). `drafts`: most guesses in a step."""

    ngram: int = 0
    drafts: int = 8
    model: bool = False


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """What the tokens of a run must spell: a JSON Schema, a regular expression (Rust's syntax, no look-around, matched
    from begin to end), a grammar in Lark's notation, or one in the EBNF of llama.cpp (GBNF, rule `root`)."""

    kind: Literal["json-schema", "regex", "lark", "ebnf"]
    text: str


class OpenRun(msgspec.Struct, frozen=True, array_like=True, tag="open-run"):
    """Decode ahead of the program by at most `window` tokens. Ends at a stop id (not emitted) or `max_tokens`.

    `probes` are answered for every token beside it; their rows do not matter, and none of them is a token."""

    context: int
    generation: int
    run: int
    sampler: SamplerSpec
    seed: int
    stop: list[int]
    max_tokens: int
    window: int
    speculation: Speculation = Speculation()
    probes: list[Output] = []
    grammar: Grammar | None = None
    """With one, the model's end tokens end the run too, and so does the token after which nothing may follow."""


class Consume(msgspec.Struct, frozen=True, array_like=True, tag="consume"):
    """The program has taken `count` tokens of the run, counted from its start."""

    context: int
    run: int
    count: int


class PauseRun(msgspec.Struct, frozen=True, array_like=True, tag="pause-run"):
    """Decode no further for now; the context's pages are the first to go when they run out. Tokens decoded stay."""

    context: int
    run: int


class ResumeRun(msgspec.Struct, frozen=True, array_like=True, tag="resume-run"):
    """Go on after a pause."""

    context: int
    run: int


class CloseRun(msgspec.Struct, frozen=True, array_like=True, tag="close-run"):
    """End the run: the context keeps its start and the first `count` tokens, no fewer than were consumed. A run that
    ended is closed too."""

    context: int
    run: int
    count: int


class Mask(msgspec.Struct, frozen=True, array_like=True):
    """What the rows of a pass see of their context's slots, one per token, counted from 0. A row sees slots up to its
    own at most; each kind says which of them."""

    kind: Literal["causal", "window", "runs", "tree"] = "causal"
    """`causal`: all. `window`: the last `window`, its own included, and the first `sink`. `runs`: as `runs` says.
    `tree`: all before the pass, the chain of `parents`, and itself."""
    window: int = 0
    sink: int = 0
    runs: list[list[int]] = []
    """Per row, lengths of alternating stretches from slot 0, the first one hidden ([0, n] shows n). What lies beyond
    them is hidden. An empty list: causal."""
    parents: list[int] = []
    """Per row, the earlier row of this pass that it follows; -1: the context as it was."""


class Forward(msgspec.Struct, frozen=True, array_like=True, tag="forward"):
    """One lockstep pass. Rows: the context's last token (pending, if any) is row 0 when `tokens` is empty;
    else row i is `tokens[i]`, which are appended. `outputs` come back in order.

    Positions and masks become part of the context: whenever its KV is computed again, it is with them."""

    context: int
    generation: int
    tokens: list[int]
    outputs: list[Output]
    positions: list[int] = []
    """One per token; empty: each one more than the token before it, in a tree than its parent."""
    mask: Mask = Mask()
    """Not `causal` with empty `tokens`: the last token's mask is replaced."""


class Verify(msgspec.Struct, frozen=True, array_like=True, tag="verify"):
    """One lockstep pass over guesses of what follows the context's last token. Guess i is `tokens[i]` and comes after
    guess `parents[i]`, an earlier one, or after the context's last token (-1).

    `sampler` (an output of kind `token`; its row does not matter) draws behind the last token and behind every guess.
    The longest path on which every guess is the token drawn in its place becomes part of the context. Answered like a
    pass, with one token for each guess of the path and the token drawn behind it, which is not appended."""

    context: int
    generation: int
    tokens: list[int]
    parents: list[int]
    sampler: Output


class SetAdapters(msgspec.Struct, frozen=True, array_like=True, tag="set-adapters"):
    """The context's last token and all after it are computed with these adapters and no others; an empty list means
    the plain model. Versions are chosen now and stay with the context, its forks too. A truncation to before this
    point undoes it."""

    context: int
    generation: int
    adapters: list[AdapterUse]


class Idle(msgspec.Struct, frozen=True, array_like=True, tag="idle"):
    """The context enters or leaves an idle scope, ahead of what waits in it. In one, its run pauses, its bid counts as
    0 and its pages are the first that pressure takes. Never fails."""

    context: int
    on: bool


class Bid(msgspec.Struct, frozen=True, array_like=True, tag="bid"):
    """What the context's pages are worth to it, ahead of what waits in it: under pressure the lowest bid of an account
    goes first. Any finite number from 0; 1 unless set. Refused without harm to the context if it is none."""

    context: int
    value: float


class Suspend(msgspec.Struct, frozen=True, array_like=True, tag="suspend"):
    """Give the pages back now: kept in host memory, or computed again later. A run pauses. Any later operation on the
    context resumes it."""

    context: int
    generation: int


Op = (
    Create
    | Import
    | Fork
    | Append
    | Truncate
    | DropTokens
    | Reserve
    | Commit
    | Release
    | Pin
    | Unpin
    | Prefetch
    | Export
    | Flush
    | Drop
    | OpenRun
    | Consume
    | PauseRun
    | ResumeRun
    | CloseRun
    | Forward
    | SetAdapters
    | Idle
    | Bid
    | Suspend
    | Verify
)


class Ops(Push, frozen=True, omit_defaults=True):
    """Operations number `first`, `first + 1`, ... of this link, in order."""

    verb: ClassVar[str] = "eng.ops"
    first: int
    ops: list[Op]


class ModelReply(Message, frozen=True, omit_defaults=True):
    """The model's facts; buffer i holds the tokenizer file `files[i]`."""

    verb: ClassVar[str] = "eng.model-reply"
    facts: ModelFacts
    files: list[str]


class GetModel(Request[ModelReply], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "eng.get-model"
    reply: ClassVar[type[ModelReply]] = ModelReply


class AdapterInfo(Message, frozen=True, omit_defaults=True):
    """One version of an adapter. `digest` is the content's, in hex; `size` in bytes as held.

    `current` is what the bare name means; `superseded` is found by `name@digest` only; `unloaded` is not found any
    more. The last two are freed when `users`, the spans of contexts that need it, is 0."""

    verb: ClassVar[str] = "eng.adapter"
    name: str
    digest: str
    state: Literal["current", "superseded", "unloaded"] = "current"
    users: int = 0
    size: int = 0
    rank: int = 0
    modules: int = 0


class LoadAdapter(Request[AdapterInfo], frozen=True, omit_defaults=True):
    """Read a LoRA adapter in PEFT's format from a folder on the engine's machine. A name that is taken gets a new
    version; the same content again is the version that is there."""

    verb: ClassVar[str] = "eng.load-adapter"
    reply: ClassVar[type[AdapterInfo]] = AdapterInfo
    name: str
    folder: str


class AdapterList(Message, frozen=True, omit_defaults=True):
    """Versions held, and their bytes against the limit."""

    verb: ClassVar[str] = "eng.adapter-list"
    adapters: list[AdapterInfo]
    used: int = 0
    limit: int = 0


class UnloadAdapter(Request[AdapterList], frozen=True, omit_defaults=True):
    """Take `name` (all its versions) or `name@digest` away. Contexts that use one go on; its memory is freed behind
    the last of them. The reply has what was taken away, with its users."""

    verb: ClassVar[str] = "eng.unload-adapter"
    reply: ClassVar[type[AdapterList]] = AdapterList
    adapter: str


class ListAdapters(Request[AdapterList], frozen=True, omit_defaults=True):
    verb: ClassVar[str] = "eng.list-adapters"
    reply: ClassVar[type[AdapterList]] = AdapterList


class Standing(Message, frozen=True, omit_defaults=True):
    """How short pages are, and per context asked for (columns): `rents`, price times pages held, in bids; `balances`,
    pages left of the share of the pool that its account has by weight, negative when it lives on what others leave."""

    verb: ClassVar[str] = "eng.standing"
    pressure: Pressure
    rents: list[float]
    balances: list[float]
    step_seconds: float = 0.0
    """What the last steps took, a moving mean; 0 before the first."""


class GetStanding(Request[Standing], frozen=True, omit_defaults=True):
    """Answered at the next step border, after the operations sent before it; `not_found` for a context that is not
    this runner's."""

    verb: ClassVar[str] = "eng.get-standing"
    reply: ClassVar[type[Standing]] = Standing
    contexts: list[int]
