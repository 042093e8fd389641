"""Toolchains: from an inferlet's source tree to a Wasm component."""

from pie_bakery.python_runtime import PythonRuntime, prepare_python_runtime

__all__ = ["PythonRuntime", "prepare_python_runtime"]
