"""A started service leaves the collector what comes after its start."""

from __future__ import annotations

import subprocess
import sys

_SERVICE = """
import gc, weakref
from pie_wire import garbage

class Node:
    pass

kept, lost = Node(), Node()
lost.me, seen = lost, weakref.ref(lost)
del lost
garbage.settle()
later = Node()
later.me, after = later, weakref.ref(later)
tracked = any(each is kept for each in gc.get_objects())
del later
gc.collect()
print(seen(), tracked, gc.get_freeze_count() > 1000, after())
"""


def test_what_is_there_is_not_looked_at_again_and_what_comes_later_is():
    done = subprocess.run([sys.executable, "-c", _SERVICE], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["None", "False", "True", "None"]
