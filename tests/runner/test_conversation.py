"""Turns joined are the whole conversation rendered, for templates of every temper."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pie_runner.conversation import Conversation
from pie_runner.models import Model, load_model
from pie_runner.templates import ChatTemplate
from pie_wire.errors import BadRequest, Unsupported
from pie_wire.messages.common import ModelFacts

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|system|>default<|end|>\n{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FOLDS_SYSTEM = (  # as Llama 2 does: the system text goes into the first user turn
    "{% if messages[0]['role'] == 'system' %}{% set sys = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}[{% if loop.first and sys %}<<{{ sys }}>>{% endif %}"
    "{{ m['content'] }}]{% else %}{{ m['content'] | trim }}<|end|>{% endif %}{% endfor %}"
)
NO_SYSTEM = (  # as Gemma does
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STRIPS_REASONING = (  # as Qwen 3 does with earlier turns
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_model(model_files, template) -> Model:
    return load_model(ModelFacts("m", 300, 1000), model_files | {"chat_template.jinja": template.encode()})


def whole(model: Model, messages, *, cue):
    return model.template.render([{"role": role, "content": text} for role, text in messages], cue=cue)


@pytest.mark.parametrize("template", [CHATML, FOLDS_SYSTEM, NO_SYSTEM, STRIPS_REASONING])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_turns_joined_are_the_whole_conversation(model_files, template, data):
    model = make_model(model_files, template)
    talk = Conversation(model)
    text, messages = "", []
    if template is not NO_SYSTEM and data.draw(st.booleans()):
        text += talk.message("system", "be kind")
        messages.append(("system", "be kind"))
    for i in range(data.draw(st.integers(1, 4))):
        text += talk.message("user", f"question {i}")
        messages.append(("user", f"question {i}"))
        text += talk.cue()
        assert text == whole(model, messages, cue=True)
        answer = f"answer {i}"
        half = len(answer) // 2
        talk.reply(model.tokenizer.encode(answer[:half]))
        talk.reply(model.tokenizer.encode(answer[half:]))
        text += answer
        messages.append(("assistant", answer))
        if data.draw(st.booleans()):
            text += talk.seal()
            assert talk.seal() == ""
    text += talk.seal()

    assert text == whole(model, messages, cue=False)
    assert talk.turns == len(messages)


def test_a_turn_that_cannot_stand_alone_is_held_back(model_files):
    talk = Conversation(make_model(model_files, FOLDS_SYSTEM))

    assert talk.message("system", "be kind") == ""
    assert talk.message("user", "hi") == "[<<be kind>>hi]"


def test_a_default_system_prompt_comes_with_the_first_turn(model_files):
    talk = Conversation(make_model(model_files, CHATML))

    assert talk.message("user", "hi") == "<|system|>default<|end|>\n<|user|>hi<|end|>\n"
    assert talk.cue() == "<|assistant|>"
    assert talk.cue() == ""


def test_what_the_model_wrote_stands_whatever_the_template_makes_of_it(model_files):
    model = make_model(model_files, STRIPS_REASONING)
    talk = Conversation(model)
    talk.message("user", "hi")
    talk.cue()
    talk.reply(model.tokenizer.encode("<think>hm</think>yes  "))

    assert talk.message("user", "more") == "<|end|><|user|>more<|end|>"


def test_a_templates_refusal_comes_out_in_its_words(model_files):
    talk = Conversation(make_model(model_files, NO_SYSTEM))
    assert talk.message("system", "x") == ""

    with pytest.raises(BadRequest, match="System role not supported"):
        talk.cue()


def test_replies_need_an_open_turn(model_files):
    talk = Conversation(make_model(model_files, CHATML))
    with pytest.raises(BadRequest):
        talk.reply([1])


def test_rewinding_and_forking_return_to_what_was(model_files):
    model = make_model(model_files, CHATML)
    talk = Conversation(model)
    talk.message("user", "one")
    talk.cue()
    talk.reply(model.tokenizer.encode("first"))
    branch = talk.fork()
    after = talk.message("user", "two")
    talk.cue()

    talk.rewind(2)
    assert talk.turns == 2
    assert talk.message("user", "two") == after
    assert branch.message("user", "other") == "<|end|>\n<|user|>other<|end|>\n"
    talk.rewind(0)
    assert talk.message("user", "one") == "<|system|>default<|end|>\n<|user|>one<|end|>\n"
    with pytest.raises(BadRequest):
        talk.rewind(9)


def test_a_rewind_forgets_a_held_back_turn(model_files):
    talk = Conversation(make_model(model_files, FOLDS_SYSTEM))
    talk.message("system", "be kind")
    talk.rewind(1)

    assert talk.turns == 0
    assert talk.message("user", "hi") == "[hi]"


@pytest.mark.parametrize(
    "messages",
    [
        [("user", "hi")],
        [("system", "terse"), ("user", "hi"), ("assistant", "yo 👍"), ("user", "日本語?")],
    ],
)
@pytest.mark.parametrize("cue", [True, False])
def test_rendering_is_that_of_transformers(oracle, smollm2_files, messages, cue):
    model = load_model(ModelFacts("smollm2", 49_152, 8192, eos=[2]), smollm2_files)
    turns = [{"role": role, "content": text} for role, text in messages]

    text = model.template.render(turns, cue=cue)

    assert text == oracle.apply_chat_template(turns, tokenize=False, add_generation_prompt=cue)
    talk = Conversation(model)
    joined = [i for role, content in messages for i in model.tokenizer.encode(talk.message(role, content))]
    if cue:
        joined += model.tokenizer.encode(talk.cue())
    assert joined == model.tokenizer.encode(text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ tools | tojson }}", '[{"name": "f", "x": "é"}]'),
        ("{% generation %}said{% endgeneration %}", "said"),
        ("{% for m in messages %}{% if true %}{% break %}{% endif %}x{% endfor %}", ""),
        ("{{ bos_token }}{{ strftime_now('%Y') | length }}", "<s>4"),
    ],
)
def test_templates_find_what_transformers_gives_them(source, expected):
    template = ChatTemplate(source, {"bos_token": "<s>"})

    assert template.render([{"role": "user", "content": "x"}], cue=False, tools=[{"name": "f", "x": "é"}]) == expected


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}"]
)
def test_hostile_templates_are_contained(source):
    with pytest.raises(BadRequest):
        ChatTemplate(source, {}).render([], cue=False)


def test_a_template_that_is_no_jinja_is_refused():
    with pytest.raises(Unsupported):
        ChatTemplate("{% if %}", {})
