"""Formats read off templates, and decoders over them: what is rendered comes back, however the tokens are split."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pie_runner.conversation import Conversation
from pie_runner.decoding.call_grammar import call_grammar
from pie_runner.decoding.calls import NotACallError, arguments_of, tools_of
from pie_runner.decoding.decoder import Decoder
from pie_runner.decoding.turns import adapted
from pie_runner.host.decoders import INLINE_TOKENS, MAX_TOKENS
from pie_runner.models import Model, load_model
from pie_runner.testing import CallError
from pie_wire.errors import BadRequest
from pie_wire.messages.common import ModelFacts
from tokenizers import Tokenizer

SPECIAL = ["<|end|>", "[TOOL_CALLS]", "[ARGS]", "<|start|>", "<|channel|>", "<|message|>", "<|call|>", "<|constrain|>"]
SPECIAL += ["<|return|>"]
ROLES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
CUE = "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
OFFER = "{% if tools %}<|system|>{% for t in tools %}{{ t | tojson }}{% endfor %}<|end|>{% endif %}"
TEMPLATES = {
    "tagged": OFFER
    + ROLES
    + "{% for c in m.tool_calls or [] %}{% if not loop.first %}\n{% endif %}"
    + '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}"
    + CUE,
    "bare": OFFER
    + ROLES
    + "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endif %}"
    + '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    + "{% endif %}"
    + CUE,
    "list": OFFER
    + ROLES
    + "{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{% if not loop.first %}, {% endif %}"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    + "{% endfor %}]{% endif %}"
    + CUE,
    "named": OFFER
    + ROLES
    + "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments }}{% endfor %}"
    + CUE,
    "none": ROLES + CUE,
    "thinks": OFFER
    + "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    + "{% endif %}{{ m['content'] }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}"
    + CUE,
}
WEATHER = {
    "name": "weather",
    "description": "of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}
TOOLS = json.dumps([WEATHER, {"name": "now"}])


def make_model(model_files, template, special=SPECIAL) -> Model:
    tokenizer = Tokenizer.from_str(model_files["tokenizer.json"].decode())
    tokenizer.add_special_tokens(list(special))
    files = {"tokenizer.json": tokenizer.to_str().encode(), "chat_template.jinja": template.encode()}
    return load_model(ModelFacts("m", 400, 4096), files)


@pytest.fixture(scope="module")
def models(model_files) -> dict[str, Model]:
    plain = [token for token in SPECIAL if token not in ("<|channel|>", "<|call|>")]
    return {name: make_model(model_files, template, plain) for name, template in TEMPLATES.items()}


def decoder(model, *, reasoning=True, tools=True, starts=None) -> Decoder:
    return Decoder(model, reasoning=reasoning, tools=tools, starts_in_reasoning=starts)


def joined(events):
    """Events with neighbouring texts as one, so that how tokens were split does not show."""
    found = []
    for event in events:
        if found and found[-1][0] == event.tag and event.tag in ("text", "reasoning"):
            found[-1] = (event.tag, found[-1][1] + event.value)
        else:
            found.append((event.tag, event.value))
    return found


def decode(model, text, **options):
    made = decoder(model, **options)
    return joined([*made.feed(model.tokenizer.encode(text)), *made.finish()])


def calls_of(events):
    return [(value.name, json.loads(value.arguments)) for tag, value in events if tag == "call"]


def asking(*calls, content=""):
    turns = [{"id": f"call{i:05d}", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(calls)]
    return {"role": "assistant", "content": content, "tool_calls": turns}


ARGUMENTS = st.dictionaries(
    st.text("abcd_", min_size=1, max_size=6),
    st.one_of(st.integers(-99, 99), st.text('ab"\\{}[]<>/ é\n', max_size=12), st.booleans(), st.just([1, {"x": "}"}])),
    max_size=3,
)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rendered_calls_come_back_however_the_tokens_are_split(models, name, data):
    model = models[name]
    several = model.formats.calls.between is not None
    calls = data.draw(
        st.lists(st.tuples(st.sampled_from(["weather", "now"]), ARGUMENTS), min_size=1, max_size=2 if several else 1)
    )
    user = {"role": "user", "content": "hi"}
    start = model.template.render([user], cue=True)
    text = model.template.render(adapted(model, [user, asking(*calls)], ()), cue=False)
    if not text.startswith(start):
        text = start + text.partition("<|assistant|>")[2]
    tokens = model.tokenizer.encode(text[len(start) :])
    made, events, at = decoder(model), [], 0
    while at < len(tokens):
        size = data.draw(st.integers(1, 12))
        events += made.feed(tokens[at : at + size])
        at += size
    events += made.finish()

    assert calls_of(joined(events)) == calls
    assert joined(events) == decode(model, text[len(start) :])
    assert not [event for event in events if event.tag in ("bad-call", "special")]


def test_formats_are_the_templates_own(models):
    form = {name: model.formats.calls for name, model in models.items()}

    assert [form[name].source for name in TEMPLATES] == ["template"] * 4 + ["fallback", "template"]
    assert form["tagged"].openings == ("<tool_call>",)
    assert form["tagged"].closing == "</tool_call>"
    assert form["bare"].openings == ()
    assert form["named"].style == "named"
    assert models["thinks"].formats.reasoning is not None
    assert form["thinks"].before == '<tool_call>\n{"name": "'


def test_text_reasoning_and_calls_in_one_answer(models):
    text = (
        '<think>hm</think>\n\nLook <b>:\n<tool_call>\n{"arguments": {"place": "</tool_call>"}, "name": "weather"}\n'
        "</tool_call>\nThat is all<|end|>ignored"
    )

    events = decode(models["thinks"], text)

    assert [tag for tag, _ in events] == [
        "reasoning-start", "reasoning", "reasoning-end", "text", "call-start", "call", "text", "done",
    ]  # fmt: skip
    assert calls_of(events) == [("weather", {"place": "</tool_call>"})]
    assert events[1][1] == "hm"
    assert events[-1] == ("done", "Look <b>:\nThat is all")


def test_what_is_not_asked_for_is_text(models):
    text = '<think>hm</think><tool_call>{"name": "now"}</tool_call>'

    assert decode(models["thinks"], text, reasoning=False, tools=False) == [("text", text), ("done", text)]


def test_an_answer_can_begin_inside_the_reasoning(model_files):
    template = TEMPLATES["thinks"].replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    model = make_model(model_files, template, ["<|end|>"])

    assert model.formats.reasoning is not None
    assert model.formats.reasoning.open_at_start
    assert decode(model, "so</think>yes")[1:] == [
        ("reasoning", "so"), ("reasoning-end", "so"), ("text", "yes"), ("done", "yes"),
    ]  # fmt: skip
    assert decode(model, "yes", starts=False) == [("text", "yes"), ("done", "yes")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>\nweather(Rome)\n</tool_call> ok", "bracket"),
        ('<tool_call>\n{"name": "weather", "arguments": {"place": }}\n</tool_call> ok', "not valid JSON"),
        ('<tool_call>\n{"arguments": {}}\n</tool_call> ok', "no name"),
        ('<tool_call>\n{"name": "weather", "arguments": [1]}\n</tool_call> ok', "not a JSON object"),
        ("<tool_call>\n[]\n</tool_call> ok", "empty list"),
        ('<tool_call>\n{"name": "weather", "arguments": {"x": NaN}}\n</tool_call> ok', "NaN"),
    ],
)
def test_a_call_that_is_none_is_told_and_the_text_goes_on(models, text, reason):
    events = decode(models["tagged"], text)

    bad = next(value for tag, value in events if tag == "bad-call")
    assert reason in bad.reason
    assert bad.text.startswith("<tool_call>")
    assert events[-1] == ("done", "ok")


def test_half_a_surrogate_pair_in_a_call_is_no_half_character(models):
    body = r'{"name": "a\ud83d", "id": "\udc00", "arguments": {"x": "\ud83d\ude00 \ud83d"}}'

    [call] = [value for tag, value in decode(models["tagged"], f"<tool_call>\n{body}\n</tool_call>") if tag == "call"]

    assert call == ("\ufffd", "a\ufffd", '{"x": "\U0001f600 \ufffd"}')


def test_json_that_is_nested_without_end_is_refused():
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(BadRequest):
        tools_of(f'[{{"name": "a", "parameters": {{"x": {deep}}}}}]')
    for depth in (*range(900, 1000, 7), 100_000):
        try:
            arguments_of(f'{{"x": {"[" * depth}{"]" * depth}}}')
        except NotACallError:
            pass  # how deep is too deep depends on who calls


def test_an_answer_that_ends_inside_a_call_is_told(models):
    events = decode(models["tagged"], 'well <tool_call>\n{"name": "weather"')

    assert events[-2][0] == "bad-call"
    assert events[-2][1].text == '<tool_call>\n{"name": "weather"'
    assert events[-1] == ("done", "well ")


def test_a_call_is_bounded(models, monkeypatch):
    monkeypatch.setattr("pie_runner.decoding.decoder.MAX_CALL", 100)
    made = decoder(models["tagged"])
    made.feed(models["tagged"].tokenizer.encode('<tool_call>{"a": "'))

    events = made.feed(models["tagged"].tokenizer.encode("x" * 101))

    assert "at most" in next(event.value.reason for event in events if event.tag == "bad-call")


def test_bare_json_that_is_no_call_is_text(models):
    assert decode(models["bare"], '{"answer": 42} and more') == [
        ("text", '{"answer": 42} and more'), ("done", '{"answer": 42} and more'),
    ]  # fmt: skip
    assert calls_of(decode(models["bare"], '{"name": "now", "parameters": {}}')) == [("now", {})]
    assert decode(models["bare"], 'so {"name": "now"}')[-1] == ("done", 'so {"name": "now"}')


def test_spelled_out_markers_of_special_tokens_are_text(models):
    model = models["named"]
    spelled = [i for piece in ("[TOOL_", "CALLS]now") for i in model.tokenizer.encode(piece)]
    made = decoder(model)

    assert joined([*made.feed(spelled), *made.finish()])[-1] == ("done", "[TOOL_CALLS]now")


def test_other_special_tokens_are_events_of_their_own(models):
    model = models["tagged"]
    [number] = model.tokenizer.encode("<|return|>")

    assert decode(model, "a<|return|>b") == [("text", "a"), ("special", number), ("text", "b"), ("done", "ab")]


def test_channels_of_the_harmony_format(model_files):
    model = make_model(model_files, TEMPLATES["none"].replace("<|end|>", "<|return|>"))
    text = (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.weather "
        '<|constrain|>json<|message|>{"place": "Rome"}<|call|>'
    )

    events = decode(model, text)

    assert model.formats.calls.source == "family"
    assert calls_of(events) == [("weather", {"place": "Rome"})]
    assert ("reasoning-end", "hm") in events
    assert decode(model, "<|channel|>final<|message|>Sunny<|return|>")[0] == ("text", "Sunny")


def test_a_decoder_can_begin_again(models):
    made = decoder(models["tagged"])
    made.feed(models["tagged"].tokenizer.encode("a<|end|>"))
    assert made.feed([1]) == []
    made.reset()

    assert joined([*made.feed(models["tagged"].tokenizer.encode("b")), *made.finish()])[-1] == ("done", "b")


def test_many_tokens_are_decoded_beside_the_loop_and_too_many_refused(world):
    async def main(api, text):
        model = await api.call("model", "[static]model.load", "")
        options = SimpleNamespace(reasoning=True, tools=True, starts_in_reasoning=None)
        made = await api.call("decoders", "[static]decoder.create", model, options)
        few = await api.call("decoders", "[method]decoder.feed", made, [65] * INLINE_TOKENS)
        many = await api.call("decoders", "[method]decoder.feed", made, [65] * (INLINE_TOKENS + 1))
        codes = []
        for tokens in ([65] * (MAX_TOKENS + 1), [100_000] * (INLINE_TOKENS + 1)):
            try:
                await api.call("decoders", "[method]decoder.feed", made, tokens)
            except CallError as exc:
                codes.append(exc.code)
        return json.dumps([len(few[0].value), len(many[0].value), codes])

    result = json.loads(world.outcome(main).text)

    assert result == [INLINE_TOKENS, INLINE_TOKENS + 1, ["too_large", "bad_request"]]


def test_ids_outside_the_vocabulary_are_refused(models):
    with pytest.raises(BadRequest):
        decoder(models["tagged"]).feed([400])


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_calls_and_results_are_rendered_for_every_template(models, name):
    talk = Conversation(models[name], tools=tools_of(TOOLS))
    text = talk.message("user", "hi") + talk.turn(asking(("weather", {"place": "Rome"})))
    text += talk.turn({"role": "tool", "tool_call_id": "call00000", "name": "weather", "content": "sunny"})
    text += talk.cue()

    assert '"of a place"' in text
    assert "Rome" in text
    assert "sunny" in text
    assert text.endswith("<|assistant|>")


def test_the_offer_joins_the_programs_own_system_message(models):
    talk = Conversation(models["none"], tools=tools_of(TOOLS))
    text = talk.message("system", "be kind") + talk.message("user", "hi")

    assert text.startswith("<|system|>be kind\n\nYou can call")
    assert text.count("<|system|>") == 1


@pytest.mark.parametrize(
    "tools",
    ["x", "{}", "[1]", "[{}]", '[{"name": ""}]', '[{"name": "a"}, {"name": "a"}]', '[{"name": "a", "parameters": 1}]'],
)
def test_bad_tools_are_refused(tools):
    with pytest.raises(BadRequest):
        tools_of(tools)


@pytest.mark.parametrize("calls", ["x", [1], [{"function": {}}], [{"function": {"name": "a", "arguments": "{"}}]])
def test_bad_calls_in_a_turn_are_refused(models, calls):
    talk = Conversation(models["tagged"])
    with pytest.raises(BadRequest):
        talk.turn({"role": "assistant", "content": "", "tool_calls": calls})


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_grammar_of_calls_takes_what_the_template_writes(models, name):
    llguidance = pytest.importorskip("llguidance")
    from llguidance.hf import from_tokenizer  # noqa: F401 - present with it

    model = models[name]
    if not model.formats.calls.before:
        pytest.skip("the format cannot be enforced")
    text = call_grammar(model.formats.calls, model.alphabet, tools_of(TOOLS))
    tokenizer = llguidance.LLTokenizer(
        model_tokenizer_text(model), n_vocab=400, eos_token=model.tokenizer.id_of("<|end|>")
    )
    matcher = llguidance.LLMatcher(tokenizer, text)
    assert not matcher.get_error()
    form = model.formats.calls
    written = form.before + "weather" + form.middle + '{"place":"Rome"}' + form.after

    for token in model.tokenizer.encode(model.alphabet.spell(written)):
        assert matcher.consume_token(token), matcher.get_error()
    assert matcher.is_accepting()


def model_tokenizer_text(model):
    return model.tokenizer._backend.to_str()


def test_a_grammar_needs_tools(models):
    with pytest.raises(BadRequest):
        call_grammar(models["tagged"].formats.calls, models["tagged"].alphabet, [])
