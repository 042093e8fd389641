"""Contexts, generations, passes and chats, against an engine that decodes the alphabet."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from lab import Lab
from pie_runner.wasm.program import Program
from pie_wire.errors import LimitExceeded

PRELUDE = "import asyncio\nfrom inferlet import *\n"


def run(lab: Lab, python: Program, body: str, value: object = None, **options: Any) -> Any:
    source = PRELUDE + "async def main(input=None):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return lab.run(python, source, value, **options).value


def test_turns_chain_and_generation_opens_the_answer(lab: Lab, python: Program):
    body = """
        ctx = Context().system("be brief").user("hi")
        text = await ctx.generate(Sampler.argmax(), max_tokens=3).text()
        return text, ctx.text()
    """

    assert run(lab, python, body) == ["?@A", "<system>be brief;<user>hi;<assistant>?@A"]


def test_the_next_turn_closes_the_answer(lab: Lab, python: Program):
    body = """
        ctx = Context().user("a")
        await ctx.generate(max_tokens=1).text()
        ctx.user("b")
        return ctx.text()
    """

    assert run(lab, python, body) == "<user>a;<assistant>?;<user>b;"


def test_raw_text_gets_no_turns(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("abc")
        return await ctx.generate(max_tokens=3).text(), ctx.text(), ctx.seq_len
    """

    assert run(lab, python, body) == ["def", "abcdef", 6]


def test_steps(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("abc")
        gen = ctx.generate(max_tokens=2)
        steps = [[step.tokens, step.text, step.finish_reason] async for step in gen]
        return steps, gen.tokens_generated, gen.is_done
    """

    assert run(lab, python, body) == [[[[100], "d", None], [[101], "e", "length"]], 2, True]


def test_the_older_form_of_the_loop(lab: Lab, python: Program):
    body = """
        tokens = []
        async for step in Context().append_text("a").generate(max_tokens=2):
            out = await step.execute()
            tokens += out.tokens
        return tokens
    """

    assert run(lab, python, body) == [98, 99]


def test_leaving_early_keeps_what_was_taken(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("a")
        async for step in ctx.generate(max_tokens=50):
            if step.text == "c":
                break
        ctx.append_text("!")
        return ctx.text()
    """

    assert run(lab, python, body) == "abc!"


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("[103]", "bcdef", "stop"),
        ("['e']", "bcd", "stop"),
        ("['efx', 'gh']", "bcdef", "stop"),
        ("['zz']", "bcdefghi", "length"),
        ("['hi', 'ij']", "bcdefg", "stop"),
        ("'de'", "bc", "stop"),
    ],
)
def test_stops(lab: Lab, python: Program, stop: str, text: str, reason: str):
    body = f"""
        gen = Context().append_text("a").generate(max_tokens=8, stop={stop})
        return await gen.text(), gen.finish_reason
    """

    assert run(lab, python, body) == [text, reason]


@pytest.mark.parametrize(("stop", "reason"), [("None", "stop"), ("[]", "length"), ("['no such text']", "stop")])
def test_an_empty_list_stops_at_nothing(lab: Lab, python: Program, stop: str, reason: str):
    body = f"""
        gen = Context().append_text("}}").generate(max_tokens=8, stop={stop})
        await gen.text()
        return gen.finish_reason
    """

    assert run(lab, python, body) == reason


def test_forks_are_decoded_concurrently(lab: Lab, python: Program):
    body = """
        root = Context().append_text("a")
        async def go(n):
            with root.fork() as ctx:
                return await ctx.generate(max_tokens=n).text()
        return await asyncio.gather(go(3), go(5)), root.text()
    """

    assert run(lab, python, body) == [["bcd", "bcdef"], "a"]


def test_truncate_takes_from_the_end(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("abcdef")
        ctx.truncate(2)
        first = ctx.text()
        ctx.truncate(100)
        return first, ctx.seq_len
    """

    assert run(lab, python, body) == ["abcd", 0]


@pytest.mark.parametrize(
    ("remove", "wanted"),
    [
        (1, "<user>a;<assistant>?@;<user>c;"),
        (3, "<user>a;<assistant>;<user>c;"),
        (15, "<user>a<user>c;"),
        (100, "<user>c;"),
    ],
)
def test_turns_go_on_after_a_truncation(lab: Lab, python: Program, remove: int, wanted: str):
    body = f"""
        ctx = Context().user("a")
        await ctx.generate(max_tokens=3).text()
        ctx.truncate({remove})
        ctx.user("c")
        return ctx.text()
    """

    assert run(lab, python, body) == wanted


def test_truncating_into_a_closed_answer_opens_it_again(lab: Lab, python: Program):
    body = """
        ctx = Context().user("a")
        await ctx.generate(max_tokens=3).text()
        ctx.user("bb")
        ctx.truncate(len(";<user>bb;") + 1)
        ctx.user("c")
        return ctx.text()
    """

    assert run(lab, python, body) == "<user>a;<assistant>?@;<user>c;"


def test_a_fork_continues_its_own_conversation(lab: Lab, python: Program):
    body = """
        ctx = Context().user("a").cue()
        other = ctx.fork()
        await ctx.generate(max_tokens=1).text()
        other.append_text("said").user("b")
        return ctx.user("c").text(), other.text()
    """

    assert run(lab, python, body) == ["<user>a;<assistant>?;<user>c;", "<user>a;<assistant>said;<user>b;"]


def test_forward_pass(lab: Lab, python: Program):
    body = """
        ctx = Context().append_text("ab")
        f = ctx.forward().input([50, 60])
        both = f.sample([0, 1], Sampler.argmax())
        top = f.probe(1, Distribution(k=2))
        raw = f.probe(0, Logits())
        out = await f.execute()
        drawn = out.tokens_at(both), out.token(both)
        return drawn, out.distribution(top), list(out.logits(raw)), out.logits(top), ctx.seq_len
    """

    assert run(lab, python, body) == [[[51, 61], 51], [[0, 1], [0.5, 0.5]], [0, 0, 128, 63, 0, 0, 0, 64], None, 4]


def test_flush(lab: Lab, python: Program):
    assert run(lab, python, 'ctx = Context().append_text("a"); await ctx.flush(); return ctx.tokens') == [97]


def test_errors_of_the_host_are_typed(lab: Lab, python: Program):
    body = """
        try:
            Model.load("gpt")
        except PieError as exc:
            return exc.code, exc.message, exc.retryable
    """

    assert run(lab, python, body) == ["not_found", "There is no model 'gpt'; there is letters.", False]


def test_a_missing_snapshot_is_none(lab: Lab, python: Program):
    body = "m = Model.load(); return Context.open(m, 'x'), Context.take(m, 'x'), Context.delete(m, 'x')"

    assert run(lab, python, body) == [None, None, False]


def test_model_runtime_and_chat(lab: Lab, python: Program):
    body = """
        m = Model.load()
        t = m.tokenizer()
        turns = chat.render(m, [{"role": "user", "content": "x"}])
        words = t.decode(t.encode("abc")), t.decode(turns)
        return [m.name, m.max_context, m.page_size, m.vocab_size, m.stop_ids, *words,
                runtime.models(), runtime.username(), runtime.program(), runtime.arguments(), runtime.version()]
    """

    assert run(lab, python, body, {"a": [1]}) == [
        *("letters", 1024, 16, 256, [0], "abc", "<user>x;<assistant>"),
        *(["letters"], "local", "test@0.0.1", {"a": [1]}, "1.2.3"),
    ]


def test_session(lab: Lab, python: Program):
    source = """
from inferlet import session
async def main():
    session.send("text")
    session.send({"a": 1})
    session.send_bytes(b"raw")
    return await session.receive()
"""
    launch = lab.run(python, source, inbox=["hello"])

    assert launch.value == "hello"
    assert launch.instance.sent == ["text", '{"a": 1}', b"raw"]


def test_too_much_in_one_message(lab: Lab, python: Program):
    body = """
        try:
            session.send_bytes(bytes(5_000_000))
        except PieError as exc:
            return exc.code
    """

    assert run(lab, python, body) == "too_large"


def test_too_much_in_one_call_ends_the_program_with_the_limit(lab: Lab, python: Program):
    with pytest.raises(LimitExceeded, match="too much in one host call"):
        run(lab, python, "Context().append([1] * 5_000_000)")


def test_released_contexts_are_gone_at_once(lab: Lab, python: Program):
    body = """
        with Context() as ctx:
            ctx.append_text("a")
        ctx.release()
        try:
            ctx.seq_len
        except PieError as exc:
            return exc.code, exc.message
    """

    assert run(lab, python, body) == ["closed", "This context was released."]
