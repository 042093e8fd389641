"""Contexts and the operations on them: state changes only, no batch, no device."""
