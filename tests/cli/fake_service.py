"""A service that only joins kvstore.

FAKE_EXIT: end at once with this status. FAKE_LIFE: seconds from joining until it dies.
"""

from __future__ import annotations

import os
import sys
import time

from pie_wire.hub import Hub
from pie_wire.membership import Membership
from pie_wire.process import Shutdown, die_with_parent, identity
from pie_wire.transport import Transport

kind, name = sys.argv[1:]
die_with_parent()
shutdown = Shutdown()
if status := os.environ.get("FAKE_EXIT"):
    sys.stdout.write('{"event": "cannot run", "level": "error", "reason": "there is no such model"}\n')
    sys.exit(int(status))
hub = Hub(identity(kind, name), time.monotonic)
transport = Transport(hub)
membership = Membership(hub, endpoint=f"ipc:///{name}", info={"backend": "fake"})
transport.dial("kvstore", os.environ[f"PIE_{kind.upper()}_KVSTORE_ENDPOINT"])
life = float(os.environ.get("FAKE_LIFE", "600"))
joined_at = 0.0
while not shutdown.requested.is_set():
    transport.poll(0.05)
    membership.tick()
    if membership.joined:
        joined_at = joined_at or time.monotonic()
        if time.monotonic() > joined_at + life:
            os._exit(7)
membership.leave()
transport.close()
