"""The runner's configuration: `[runner]` in the file, `PIE_RUNNER_*` in the environment, flags of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pie_wire.config import option, pie_home
from pie_wire.errors import BadRequest
from pie_wire.tenants import OwnLimits

from pie_runner.process_limits import ProcessLimits


@dataclass(frozen=True)
class RunnerConfig:
    """All of a runner's settings; times in seconds, sizes in bytes."""

    name: str = option("runner-1", "member name; different for each runner of a deployment")
    kvstore_endpoint: str = option(f"ipc://{pie_home()}/run/kvstore.sock", "where kvstore listens")
    gateway_endpoint: str = option(f"ipc://{pie_home()}/run/gateway-runners.sock", "where the gateway expects runners")
    dedicated_to: str = option(
        "", "tenants that this runner is for, by commas; no other's programs come here; empty: all"
    )
    capacity: int = option(512, "processes that may run at once")
    memory: int = option(512 << 20, "memory of one program")
    cpu_seconds: float = option(0.0, "processor time of one program; 0: no limit")
    wall_seconds: float = option(0.0, "time from a program's first step to its end; 0: no limit")
    tokens: int = option(0, "tokens that one program may append, feed and generate; 0: no limit")
    contexts: int = option(1024, "contexts that one program may have open; 0: no limit")
    pages: int = option(0, "pages of KV that one program's contexts may hold at once; 0: no limit")
    children: int = option(64, "programs that one program may have launched and running; 0: no limit")
    messages: int = option(1024, "messages of its client that one program has not received yet")
    message_bytes: int = option(8 << 20, "bytes of these together")
    output_bytes: int = option(1 << 30, "output of one program's whole life; 0: no limit")
    output_rate: int = option(32 << 20, "bytes of output a second; a program that is faster waits; 0: no limit")
    http_requests: int = option(32, "HTTP requests of one program at once")
    http_total: int = option(0, "HTTP requests of one program in all; 0: no limit")
    http_seconds: float = option(300.0, "time from an HTTP request to the end of its response")
    http_bytes: int = option(64 << 20, "largest body of an HTTP request, and of a response")
    http_all_requests: int = option(512, "HTTP requests of all programs at once; more wait")
    http_ca: str = option("", "file of certificates that programs' HTTPS trusts besides the usual ones")
    logits_bytes: int = option(64 << 20, "raw rows of logits that one program may hold at once; 0: no limit")
    file_bytes: int = option(64 << 20, "largest file of a program")
    scratch_bytes: int = option(256 << 20, "files of one program in /scratch")
    data_bytes: int = option(1 << 30, "files of one user and program in /data")
    file_entries: int = option(10_000, "files and folders of one program in /scratch, and in /data")
    data_programs: int = option(256, "programs of one user that may have files in /data; 0: no limit")
    files: str = option(str(pie_home()), "folder of data/ and scratch/, where files of programs lie")
    tenants: str = option("", "TOML file of what tenants may use; empty: the defaults that follow, for all")
    tenant_contexts: int = option(0, "contexts that the programs of one tenant may have open here; 0: no limit")
    tenant_pages: int = option(0, "pages of KV that they may hold here at once; 0: no limit")
    tenant_tokens: int = option(0, "tokens that those now running may use here; 0: no limit")
    mcp: str = option("", "TOML file of tool servers (Model Context Protocol)")
    mcp_requests: int = option(16, "calls of tool servers by one program at once")
    mcp_seconds: float = option(60.0, "time of one call of a tool server")
    mcp_bytes: int = option(4 << 20, "largest answer of a tool server")
    window: int = option(32, "tokens the engine may decode ahead of a program that does not say")
    slice_budget: float = option(0.005, "how long programs run before messages are looked at again")
    model_wait: float = option(10.0, "how long a program's model.load waits for an engine that is starting")
    python_runtime: str = option("", "component that runs Python source; empty: the newest in runtime/ of the Pie home")
    cache_bytes: int = option(2 << 30, "program files kept on disk")
    code_bytes: int = option(4 << 30, "compiled code kept on disk")
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "least severe log level shown")
    log_format: Literal["auto", "text", "json"] = option("auto", "log lines for people, for programs, or by terminal")

    @property
    def process_limits(self) -> ProcessLimits:
        """What one process may use, unless its tenant has limits of its own."""
        return ProcessLimits(**{name: getattr(self, name) for name in OwnLimits.__struct_fields__})

    @property
    def dedicated(self) -> frozenset[str]:
        """The names in `dedicated_to`. Raises BadRequest for an empty one, which could open the runner to all."""
        if not self.dedicated_to:
            return frozenset()
        names = [name.strip() for name in self.dedicated_to.split(",")]
        if not all(names):
            raise BadRequest(
                f"dedicated_to is {self.dedicated_to!r}: expected names of tenants with commas between them"
            )
        return frozenset(names)
