"""`python -m pie_engine.runs.grammar_check`: compiles grammars where it does no harm if that takes for ever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from numpy.typing import NDArray
from pie_wire.grammar_check import Verdict, Vocabulary, serve_checks
from pie_wire.messages.engine import Grammar


def limits() -> LLParserLimits:
    """For compilation and for every mask; llguidance's defaults but for the size of a grammar, which sets memory."""
    return LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)


def load(vocabulary: Vocabulary) -> LLTokenizer:
    """Raises ValueError when llguidance cannot tell the bytes of its tokens."""
    return LLTokenizer(vocabulary.tokenizer, n_vocab=vocabulary.size, eos_token=list(vocabulary.eos) or None)


def translate(source: Grammar) -> str:
    """To llguidance's form. Raises ValueError."""
    match source.kind:
        case "json-schema":
            return LLMatcher.grammar_from_json_schema(source.text)
        case "regex":
            return LLMatcher.grammar_from_regex(source.text)
        case "lark":
            return LLMatcher.grammar_from_lark(source.text)
        case "ebnf":
            return LLMatcher.grammar_from_lark(gbnf_to_lark(source.text))


def check(tokenizer: LLTokenizer, source: Grammar) -> Verdict:
    """Compile, and compute the first mask, which builds what the compiler has put off."""
    try:
        grammar = translate(source)
    except (ValueError, GbnfToLarkError, RecursionError) as exc:
        return Verdict(error=str(exc) or type(exc).__name__)
    matcher = LLMatcher(tokenizer, grammar, limits=limits(), log_level=0)
    if not matcher.is_error():
        mask_of(matcher, tokenizer.vocab_size)
    return Verdict(error=matcher.get_error()) if matcher.is_error() else Verdict(grammar=grammar)


def mask_of(matcher: LLMatcher, vocab: int) -> NDArray[np.uint32]:
    """Tokens that may come next, `[ceil(vocab / 32)]` words; all zero once the matcher is in error."""
    mask = np.zeros((vocab + 31) // 32, dtype=np.uint32)
    matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    if matcher.is_error():
        mask[:] = 0
    return mask


def _compiler(vocabulary: Vocabulary) -> Callable[[Grammar], Verdict]:
    tokenizer = load(vocabulary)
    return lambda source: check(tokenizer, source)


if __name__ == "__main__":
    serve_checks(_compiler)
