"""Measurements of the engine, run by `pie bench engine`. They import what the engine imports; nothing imports them."""
