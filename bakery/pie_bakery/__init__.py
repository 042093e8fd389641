"""Toolchains: from an inferlet's source tree to a Wasm component."""
