"""Lets the tests here import the scripts beside them (golden frames, tables), which also run on their own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
