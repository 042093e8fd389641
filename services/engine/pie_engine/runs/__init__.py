"""Runs: decoding ahead of a program, with grammars and guesses."""
