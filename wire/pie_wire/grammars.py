"""A model's tokens as llguidance knows them, and the grammars that it reads."""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark
from numpy.typing import NDArray
from pie_wire.grammar_check import Vocabulary
from pie_wire.messages.engine import Grammar


def load(vocabulary: Vocabulary) -> LLTokenizer:
    """Holds the interpreter for up to a second. Raises ValueError for a tokenizer it cannot follow."""
    return LLTokenizer(vocabulary.tokenizer, n_vocab=vocabulary.size, eos_token=list(vocabulary.eos) or None)


def translated(source: Grammar) -> str:
    """In llguidance's own form. Raises ValueError or GbnfToLarkError for what is no such grammar."""
    match source.kind:
        case "json-schema":
            return LLMatcher.grammar_from_json_schema(source.text)
        case "regex":
            return LLMatcher.grammar_from_regex(source.text)
        case "lark":
            return LLMatcher.grammar_from_lark(source.text)
        case "ebnf":
            return LLMatcher.grammar_from_lark(gbnf_to_lark(source.text))


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """At the beginning of a grammar in llguidance's form. Its size sets the memory, hence the limits."""
    limits = LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
    return LLMatcher(tokenizer, grammar, limits=limits, log_level=0)


def allowed_bits(matcher: LLMatcher, size: int) -> NDArray[np.uint32]:
    """Tokens that may follow: bit `i % 32` of word `i // 32`. Nothing once the matcher is in error."""
    words = np.zeros(-(-size // 32), dtype="<u4")
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
    if matcher.is_error():
        words[:] = 0
    return words
