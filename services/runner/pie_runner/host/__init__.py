"""Host functions: what programs can call, as one table in the form of `wasm.hostcall`.

A module per WIT interface. Functions find their state in the process of the fiber that calls; they check what the
program gave them and raise typed errors, which the program sees.
"""

from __future__ import annotations

from pie_runner.host import (
    adapters,
    chat,
    children,
    clocks,
    context,
    decoders,
    filesystem,
    forward,
    futures,
    generation,
    grammar,
    http,
    log,
    logits,
    mcp,
    messaging,
    model,
    random,
    runtime,
    scheduling,
    session,
)
from pie_runner.wasm.hostcall import HostFunction

TABLE: dict[tuple[str, str], HostFunction] = {
    (interface, name): function
    for interface, functions in {
        "adapters": adapters.FUNCTIONS,
        "chat": chat.FUNCTIONS,
        "children": children.FUNCTIONS,
        "clocks": clocks.FUNCTIONS,
        "context": context.FUNCTIONS,
        "decoders": decoders.FUNCTIONS,
        "filesystem": filesystem.FUNCTIONS,
        "forward": forward.FUNCTIONS,
        "futures": futures.FUNCTIONS,
        "generation": generation.FUNCTIONS,
        "grammar": grammar.FUNCTIONS,
        "http": http.FUNCTIONS,
        "log": log.FUNCTIONS,
        "mcp": mcp.FUNCTIONS,
        "logits": logits.FUNCTIONS,
        "messaging": messaging.FUNCTIONS,
        "model": model.FUNCTIONS,
        "random": random.FUNCTIONS,
        "runtime": runtime.FUNCTIONS,
        "scheduling": scheduling.FUNCTIONS,
        "session": session.FUNCTIONS,
    }.items()
    for name, function in functions.items()
}
