"""`python -m pie_runner.grammars.checker`: compiles grammars where it does no harm if that takes for ever."""

from __future__ import annotations

from collections.abc import Callable

from llguidance.gbnf_to_lark import GbnfToLarkError
from pie_wire.grammar_check import Verdict, Vocabulary, serve_checks
from pie_wire.messages.engine import Grammar

from pie_runner.grammars.vocabulary import allowed_bits, load, new_matcher, translated


def _compiler(vocabulary: Vocabulary) -> Callable[[Grammar], Verdict]:
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
