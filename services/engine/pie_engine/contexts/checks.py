"""Validation of what programs ask for. Each function raises a typed error that says what is wrong and what is
allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf, isfinite

from pie_wire.errors import BadField, BadRequest, OutOfMemory, TooLarge, Unsupported
from pie_wire.messages import engine as wire

from pie_engine.contexts.asking import make_probe
from pie_engine.contexts.context import Context
from pie_engine.limits import Limits
from pie_engine.passes.outputs import answer_bytes
from pie_engine.passes.token_masks import read_mask

MAX_OUTPUTS = 1024
MAX_NGRAM = 16
MAX_DRAFTS = 64
MAX_PROBES = 16
MAX_ROW_PROBES = 64
"""Outputs of one row of a pass other than tokens."""
MAX_VECTOR_OUTPUTS = 64
MAX_PROBE_BYTES = 32 << 20
"""Of probes that list ids and probabilities, as far as a run may be ahead of its program."""
MAX_IDS = 1024
"""Ids of one list: of a top-k distribution, of log-probabilities, biased ones, stop ids."""
_VECTORS = frozenset({"logits", "hidden"})
_MAX_BIAS = 1e30
"""Far beyond any logit, and far from what float32 cannot hold."""
MAX_GUESSES = 256


def check_tokens(tokens: Sequence[int], limits: Limits) -> None:
    """Ids of the vocabulary."""
    if tokens and not (min(tokens) >= 0 and max(tokens) < limits.vocab):
        wrong = next(token for token in tokens if not 0 <= token < limits.vocab)
        raise BadField(f"token id {wrong} is not in the vocabulary of {limits.vocab}")


def longest(context: Context, limits: Limits) -> int:
    """Tokens that the context can have, if those to come have no positions of their own."""
    shift = context.lineage.position(context.length) - context.length
    most = min(_fitting(context, limits), limits.max_context - shift)
    return most if context.reserved is None else min(most, _room(context, context.reserved, limits))


def check_cut(context: Context, length: int, limits: Limits) -> None:
    """The context can be truncated to its first `length` tokens."""
    check_head(context, length)
    if length < context.committed * limits.page_size:
        raise BadRequest(f"the first {context.committed * limits.page_size} tokens are committed: they cannot be cut")


def check_head(context: Context, length: int) -> None:
    """The first `length` tokens can be a context."""
    if not 0 <= length <= context.length:
        raise BadField(f"a context of {context.length} tokens has no first {length}")
    for start, stop in context.lineage.dropped:
        if start < length <= stop:
            raise BadRequest(
                f"tokens {start} to {stop} were dropped: the context can be cut at {start} at most, or after {stop}"
            )


def check_length(context: Context, length: int, limits: Limits, *, placed: bool = False) -> None:
    """A context of this length fits the model, the pool and the account. `placed`: the new tokens' positions are
    checked elsewhere; else they count on."""
    shift = 0 if placed else context.lineage.position(context.length) - context.length
    if length + max(0, shift) > limits.max_context:
        raise TooLarge(f"{length} tokens exceed the model's context of {limits.max_context}: shorten the prompt")
    if context.reserved is not None and length > _room(context, context.reserved, limits):
        raise OutOfMemory(
            f"{length} tokens exceed the {_room(context, context.reserved, limits)} that pages are reserved for: "
            "reserve more first"
        )
    fitting = _fitting(context, limits)
    if length > fitting:
        raise OutOfMemory(
            f"{length} tokens exceed the {fitting} that KV memory can hold: shorten it or enlarge the pool"
        )


def _fitting(context: Context, limits: Limits) -> int:
    """Tokens that pool and account can hold of the context, beside those it has dropped."""
    return min(
        limits.max_context,
        limits.page_size * (context.use.most_pages(limits) + context.holes),
    )


def _room(context: Context, reserved: int, limits: Limits) -> int:
    return (context.committed + reserved) * limits.page_size


def check_sampler(spec: wire.SamplerSpec, limits: Limits) -> None:
    """Numbers in range, ids of the vocabulary, a mask that covers it and allows something."""
    if not (isfinite(spec.temperature) and spec.temperature >= 0.0):
        raise BadField(f"temperature must be a number of at least 0, not {spec.temperature}")
    for name, share in (("top_p", spec.top_p), ("typical_p", spec.typical_p)):
        if not 0.0 < share <= 1.0:
            raise BadField(f"{name} must be above 0 and at most 1, not {share}")
    if not 0.0 <= spec.min_p <= 1.0:
        raise BadField(f"min_p must be between 0 and 1, not {spec.min_p}")
    if spec.top_k < 0 or spec.min_tokens < 0:
        raise BadField(f"top_k and min_tokens must be 0 (off) or more, not {spec.top_k} and {spec.min_tokens}")
    if not 1.0 / _MAX_BIAS <= spec.repetition_penalty <= _MAX_BIAS:
        raise BadField(f"repetition_penalty must be a number above 0, not {spec.repetition_penalty}")
    for name, penalty in (("presence", spec.presence_penalty), ("frequency", spec.frequency_penalty)):
        if not abs(penalty) <= _MAX_BIAS:
            raise BadField(f"{name}_penalty must be a number up to {_MAX_BIAS:g} either way, not {penalty}")
    _check_bias(spec, limits)
    if spec.mask is not None:
        read_mask(spec.mask, limits.vocab)


def check_stop(stop: Sequence[int], limits: Limits) -> None:
    """Ids of the vocabulary, not too many."""
    if len(stop) > MAX_IDS:
        raise TooLarge(f"{len(stop)} stop ids exceed {MAX_IDS}")
    check_tokens(stop, limits)


def check_run(context: Context, op: wire.OpenRun, limits: Limits) -> None:
    """A run can start here."""
    check_sampler(op.sampler, limits)
    check_stop(op.stop, limits)
    if op.max_tokens < 1 or op.window < 1:
        raise BadField(f"max_tokens and window must be at least 1, not {op.max_tokens} and {op.window}")
    if not context.tokens:
        raise BadRequest("the context is empty: append at least one token before generating")
    if op.sampler.min_tokens > op.max_tokens:
        raise BadField(f"min_tokens of {op.sampler.min_tokens} exceed max_tokens of {op.max_tokens}")
    _check_speculation(op.speculation, limits)
    _check_probes(op, limits)
    check_length(context, context.length + 1, limits)


def check_pass(context: Context, op: wire.Forward, limits: Limits) -> None:
    """A lockstep pass can start here; its mask is checked where it is read."""
    check_tokens(op.tokens, limits)
    if op.positions and len(op.positions) != len(op.tokens):
        raise BadField(f"a pass of {len(op.tokens)} tokens needs as many positions or none, not {len(op.positions)}")
    check_length(context, context.length + len(op.tokens), limits, placed=bool(op.positions))
    if not op.tokens and not context.tokens:
        raise BadRequest("an empty pass on an empty context: give at least one token")
    vectors = sum(output.kind in _VECTORS for output in op.outputs)
    if len(op.outputs) > MAX_OUTPUTS or vectors > MAX_VECTOR_OUTPUTS:
        raise TooLarge(
            f"a pass has at most {MAX_OUTPUTS} outputs, {MAX_VECTOR_OUTPUTS} of them raw logits or hidden states"
        )
    probes = Counter(output.row for output in op.outputs if output.kind != "token")
    row, asked = max(probes.items(), key=lambda item: item[1], default=(0, 0))
    if asked > MAX_ROW_PROBES:
        raise TooLarge(
            f"row {row} is asked {asked} things beside tokens, and at most {MAX_ROW_PROBES} can be: ask each once, or "
            "in several passes"
        )
    rows = len(op.tokens) or 1
    first = context.length if op.tokens else context.length - 1
    for output in op.outputs:
        if not 0 <= output.row < rows:
            raise BadField(f"output row {output.row} is beyond the {rows} rows of the pass")
        length = first + output.row + 1
        if output.start is not None and not 0 <= output.start <= length:
            raise BadField(f"generation is said to start at {output.start} of {length} tokens")
        _check_output(output, limits)


def check_verification(context: Context, op: wire.Verify, limits: Limits) -> None:
    """Guesses form a tree behind a last token, and there is room for all of them."""
    check_tokens(op.tokens, limits)
    if not context.tokens:
        raise BadRequest("the context is empty: append at least one token before verifying guesses")
    if len(op.tokens) > MAX_GUESSES:
        raise TooLarge(f"at most {MAX_GUESSES} guesses can be verified at once, not {len(op.tokens)}")
    if len(op.parents) != len(op.tokens):
        raise BadField(f"{len(op.tokens)} guesses need as many parents, not {len(op.parents)}")
    wrong = next((i for i, parent in enumerate(op.parents) if not -1 <= parent < i), None)
    if wrong is not None:
        raise BadField(f"guess {wrong} must follow an earlier guess or -1, not {op.parents[wrong]}")
    if op.sampler.kind != "token":
        raise BadField(f"guesses are verified by a sampler, so the output must be a token, not {op.sampler.kind!r}")
    check_length(context, context.length + len(op.tokens), limits)
    _check_output(op.sampler, limits)


def _check_output(output: wire.Output, limits: Limits) -> None:
    match output.kind:
        case "token":
            check_sampler(output.sampler, limits)
            check_stop(output.stop, limits)
        case "top" if not 1 <= output.top <= min(MAX_IDS, limits.vocab):
            raise BadField(f"top must be between 1 and {min(MAX_IDS, limits.vocab)}, not {output.top}")
        case "logprobs":
            if not 1 <= len(output.ids) <= MAX_IDS:
                raise BadField(f"log-probabilities are of 1 to {MAX_IDS} ids, not of {len(output.ids)}")
            check_tokens(output.ids, limits)
        case _:
            pass


def _check_bias(spec: wire.SamplerSpec, limits: Limits) -> None:
    count = len(spec.bias_ids)
    if count != len(spec.bias):
        raise BadField(f"{len(spec.bias)} biases for {count} ids")
    if count > MAX_IDS:
        raise TooLarge(f"{count} biased ids exceed {MAX_IDS}: use a mask to forbid many")
    if len(set(spec.bias_ids)) != count:
        raise BadField("an id is biased twice")
    check_tokens(spec.bias_ids, limits)
    wrong = next((value for value in spec.bias if not (abs(value) <= _MAX_BIAS or value == -inf)), None)
    if wrong is not None:
        raise BadField(f"a bias is a number up to {_MAX_BIAS:g} either way, or minus infinity, not {wrong}")


def _check_speculation(spec: wire.Speculation, limits: Limits) -> None:
    if spec.model and not limits.draft_model:
        raise Unsupported("this engine has no draft model: start it with --draft-model, or leave `model` off")
    if not 0 <= spec.ngram <= MAX_NGRAM:
        raise BadField(f"ngram must be between 1 and {MAX_NGRAM}, or 0 (off), not {spec.ngram}")
    if not 1 <= spec.drafts <= MAX_DRAFTS:
        raise BadField(f"drafts must be between 1 and {MAX_DRAFTS}, not {spec.drafts}")


def _check_probes(op: wire.OpenRun, limits: Limits) -> None:
    for probe in op.probes:
        if probe.kind == "token":
            raise BadField("a probe of a run cannot be a token: the run's sampler draws those")
        _check_output(probe, limits)
    if len(op.probes) > MAX_PROBES:
        raise TooLarge(f"a run has at most {MAX_PROBES} probes, not {len(op.probes)}")
    vectors = sum(probe.kind in _VECTORS for probe in op.probes)
    if vectors * min(op.window, op.max_tokens) > MAX_VECTOR_OUTPUTS:
        raise TooLarge(
            f"a run may be at most {MAX_VECTOR_OUTPUTS} raw logits and hidden states ahead of its program, {vectors} "
            f"per token: give it a window of {MAX_VECTOR_OUTPUTS // vectors}"
        )
    listed = sum(answer_bytes(make_probe(p), limits.vocab) for p in op.probes if p.kind not in _VECTORS)
    if listed * min(op.window, op.max_tokens) > MAX_PROBE_BYTES:
        raise TooLarge(
            f"a run may be at most {MAX_PROBE_BYTES >> 20} MiB of probes ahead of its program, {listed} bytes per "
            f"token: give it a window of {MAX_PROBE_BYTES // listed}"
        )
