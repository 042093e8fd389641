"""A process with one port, for the transport tests. Answers `gw.detach` and pushes its pid back; never answers
`gw.terminate`.

usage: python echo_service.py ENDPOINT
"""

from __future__ import annotations

import sys
import time

from pie_wire import logs
from pie_wire.errors import NotFound
from pie_wire.hub import Hub, Incoming
from pie_wire.messages.base import Done
from pie_wire.messages.client import Replaced
from pie_wire.messages.gateway import Detach, Terminate
from pie_wire.process import Shutdown, die_with_parent, identity
from pie_wire.transport import Transport


def main() -> None:
    die_with_parent()
    logs.setup("echo", form="text")
    hub = Hub(identity("gateway", "echo"), time.monotonic)
    transport = Transport(hub)
    shutdown = Shutdown(transport.wake)
    held: list[Incoming[Terminate]] = []

    def detach(incoming: Incoming[Detach]) -> Done:
        if incoming.message.pid == "missing":
            raise NotFound("no such process")
        hub.progress += 1
        hub.send(incoming.peer, Replaced(incoming.message.pid))
        return Done()

    hub.on(Detach, detach)
    hub.on(Terminate, held.append)
    sys.stdout.write(transport.bind("x", sys.argv[1]) + "\n")
    sys.stdout.flush()
    while not shutdown.requested.is_set():
        transport.poll(1.0)
    transport.close()


if __name__ == "__main__":
    main()
