"""Running Wasm components as fibers of one event-loop thread.

`hostcall` is what the host functions of the runner are written against; `driver` runs fibers; `compiler` and `cache`
turn wasm into loadable code. Only `ffi` speaks to wasmtime's C API.
"""
