"""Toolchains: from an inferlet's source tree to a Wasm component."""

from pie_bakery.build import build
from pie_bakery.check import check_component
from pie_bakery.new import new
from pie_bakery.python_runtime import PythonRuntime, prepare_python_runtime
from pie_bakery.tools import BuildError

__all__ = ["BuildError", "PythonRuntime", "build", "check_component", "new", "prepare_python_runtime"]
