"""The runner: Wasm instances as fibers, the host API and per-process accounting."""
