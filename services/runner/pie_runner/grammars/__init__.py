"""Grammars of programs that choose tokens themselves."""
