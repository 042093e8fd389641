"""The gateway's configuration: `[gateway]` in the file, `PIE_GATEWAY_*` in the environment, flags of the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pie_wire.config import option, pie_home


@dataclass(frozen=True)
class GatewayConfig:
    """All of a gateway's settings; times in seconds, sizes in bytes."""

    name: str = option("gateway", "member name; also names its event log")
    endpoint: str = option(f"ipc://{pie_home()}/run/gateway.sock", "where clients dial")
    runners_endpoint: str = option(f"ipc://{pie_home()}/run/gateway-runners.sock", "where runners dial")
    kvstore_endpoint: str = option(f"ipc://{pie_home()}/run/kvstore.sock", "where kvstore listens")
    data: str = option(str(pie_home() / "gateway"), "folder of the process table and the event logs")
    http_host: str = option("127.0.0.1", "address of the HTTP front; empty for none")
    http_port: int = option(8080, "port of the HTTP front; 0 picks a free one")
    http_body: int = option(2 << 20, "largest HTTP request body")
    chat_program: str = option("chat", "program behind /v1/chat/completions")
    chat_timeout: float = option(600.0, "longest chat completion")
    policy: str = option("", "TOML file of what programs are granted; empty: nothing")
    user_grants: Literal["auto", "on", "off"] = option(
        "auto", "whether users may grant, with `pie run --allow`; auto: where clients dial a Unix socket"
    )
    client_adapters: Literal["auto", "on", "off"] = option(
        "auto", "whether clients may load and unload adapters; auto: where they dial a Unix socket"
    )
    tenants: str = option("", "TOML file of what tenants may use; empty: the default that follows, for all")
    tenant_processes: int = option(0, "processes that one tenant may have at once; 0: no limit")
    queue: int = option(2048, "launches that may wait for a runner; half of them of a tenant that is alone")
    queue_timeout: float = option(10.0, "how long a launch waits for a runner with room")
    child_depth: int = option(8, "how deep programs may launch programs that launch programs")
    tree_processes: int = option(256, "processes that one launch and its descendants may be at once")
    start_timeout: float = option(30.0, "how long a runner may take to accept a process")
    kill_timeout: float = option(5.0, "how long a runner may take to end a process")
    recovery_grace: float = option(5.0, "after a restart: how long runners have to announce their processes")
    reattach_grace: float = option(30.0, "after a restart: how long a client that owns a process may stay away")
    keep_ended: float = option(600.0, "how long events of ended processes are kept")
    keep_ended_count: int = option(10_000, "how many ended processes are kept at most")
    keep_ids: float = option(86_400.0, "how long ids of forgotten processes are refused")
    log_process_bytes: int = option(64 << 20, "events kept of one process")
    log_total_bytes: int = option(4 << 30, "events kept of all processes; the oldest ended ones go first")
    uploads: int = option(16, "uploads under way at once")
    upload_idle: float = option(60.0, "an upload without a new chunk for so long makes room for another")
    log_level: str = option("info", "debug, info, warning or error")

    @property
    def clients_load_adapters(self) -> bool:
        """Whoever can open a socket of this machine is taken for its operator."""
        return self.client_adapters == "on" or (self.client_adapters == "auto" and self.endpoint.startswith("ipc://"))

    @property
    def users_grant(self) -> bool:
        """Whoever can open a socket of this machine could do what programs are granted without them."""
        return self.user_grants == "on" or (self.user_grants == "auto" and self.endpoint.startswith("ipc://"))
