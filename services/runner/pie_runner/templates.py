"""A model's chat template: untrusted Jinja from the model's files, rendered in Jinja's sandbox.

The environment (filters, globals, whitespace rules) is the one transformers documents for chat templates, so that the
same template gives the same text; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox
from pie_wire.errors import BadRequest, Unsupported

Message = Mapping[str, Any]
MAX_RENDERED = 4 << 20


class _Refusal(jinja2.TemplateError):
    """The template itself called `raise_exception`."""


class ChatTemplate:
    """One template with the special tokens it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str], now: Callable[[], datetime] | None = None) -> None:
        """Raises Unsupported when the template is no valid Jinja. `tokens`: `bos_token` and its like."""
        self.source = source
        self._tokens = dict(tokens)
        self._now = now or (lambda: datetime.now(UTC))
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
        )
        env.filters["tojson"] = _tojson
        functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": self._strftime}
        env.globals.update(functions)
        try:
            self._template = env.from_string(source)
        except jinja2.TemplateError as exc:
            raise Unsupported(f"the model's chat template is not valid: {exc}") from exc

    def render(self, messages: Sequence[Message], *, cue: bool, tools: Sequence[Any] | None = None) -> str:
        """The conversation as text; with `cue`, the generation prompt follows.

        Raises:
            BadRequest: the template refuses these messages; its words are in the message.
        """
        try:
            text = self._template.render(
                messages=messages, tools=tools, documents=None, add_generation_prompt=cue, **self._tokens
            )
        except _Refusal as exc:
            raise BadRequest(f"the model's chat template refuses this conversation: {exc.message}") from exc
        except Exception as exc:
            raise BadRequest(f"the model's chat template failed: {type(exc).__name__}: {exc}") from exc
        if len(text) > MAX_RENDERED:
            raise BadRequest(f"the rendered conversation exceeds {MAX_RENDERED} characters")
        return text

    def _strftime(self, form: str) -> str:
        return self._now().strftime(form)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` blocks, which mark what the assistant says for training, render as their content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise _Refusal(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
