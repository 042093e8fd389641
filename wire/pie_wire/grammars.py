"""Grammars as engine and runner compile them, with llguidance, which belongs to those two: nothing else imports this.

`python -m pie_wire.grammars` is the process that compiles one first (`grammar_check`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pie_wire.grammar_check import Verdict, Vocabulary, serve_checks
from pie_wire.messages.engine import Grammar

# Where this package is used without those two services, llguidance and numpy are not there.
if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray


def load(vocabulary: Vocabulary) -> LLTokenizer:
    """Holds the interpreter for up to a second. Raises ValueError for a tokenizer it cannot follow."""
    from llguidance import LLTokenizer

    return LLTokenizer(vocabulary.tokenizer, n_vocab=vocabulary.size, eos_token=list(vocabulary.eos) or None)


def translated(source: Grammar) -> str:
    """In llguidance's own form. Raises ValueError or GbnfToLarkError for what is no such grammar."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

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
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(max_grammar_size=100_000, max_lexer_states=50_000, verbose_errors=False)
    return LLMatcher(tokenizer, grammar, limits=limits, log_level=0)


def allowed_bits(matcher: LLMatcher, size: int) -> NDArray[np.uint32]:
    """Tokens that may follow: bit `i % 32` of word `i // 32`. Nothing once the matcher is in error."""
    import numpy as np

    words = np.zeros(-(-size // 32), dtype="<u4")
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
    if matcher.is_error():
        words[:] = 0
    return words


def _compiler(vocabulary: Vocabulary) -> Callable[[Grammar], Verdict]:
    from llguidance.gbnf_to_lark import GbnfToLarkError

    tokenizer = load(vocabulary)

    def check(source: Grammar) -> Verdict:
        try:
            grammar = translated(source)
        except (ValueError, GbnfToLarkError, RecursionError) as exc:
            return Verdict(error=str(exc) or type(exc).__name__)
        matcher = new_matcher(tokenizer, grammar)
        if not matcher.is_error():
            # Builds what the compiler has put off.
            allowed_bits(matcher, vocabulary.size)
        return Verdict(error=matcher.get_error()) if matcher.is_error() else Verdict(grammar=grammar)

    return check


if __name__ == "__main__":
    serve_checks(_compiler)
