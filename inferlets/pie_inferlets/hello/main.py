"""Greets. Needs no model."""

from inferlet import runtime


def main(name: str = "world") -> str:
    print(f"process {runtime.instance_id()} of {runtime.username()}, Pie {runtime.version()}")
    return f"Hello, {name}!"
