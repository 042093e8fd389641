"""The runner's configuration: `[runner]` in the file, `PIE_RUNNER_*` in the environment, flags of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pie_wire.config import option, pie_home


@dataclass(frozen=True)
class RunnerConfig:
    """All of a runner's settings; times in seconds, sizes in bytes."""

    name: str = option("runner-1", "member name; different for each runner of a deployment")
    kvstore_endpoint: str = option(f"ipc://{pie_home()}/run/kvstore.sock", "where kvstore listens")
    gateway_endpoint: str = option(f"ipc://{pie_home()}/run/gateway-runners.sock", "where the gateway expects runners")
    capacity: int = option(512, "processes that may run at once")
    memory: int = option(512 << 20, "memory of one program")
    window: int = option(32, "tokens the engine may decode ahead of a program that does not say")
    slice_budget: float = option(0.005, "how long programs run before messages are looked at again")
    model_wait: float = option(10.0, "how long a program's model.load waits for an engine that is starting")
    python_runtime: str = option("", "component that runs Python source; empty: the newest in runtime/ of the Pie home")
    cache_bytes: int = option(2 << 30, "program files kept on disk")
    code_bytes: int = option(4 << 30, "compiled code kept on disk")
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "least severe log level shown")
    log_format: Literal["auto", "text", "json"] = option("auto", "log lines for people, for programs, or by terminal")
