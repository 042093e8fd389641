"""Print what some of the project's extras need, one requirement a line, without the project itself.

An image installs these before it sees any source, so that a change of source does not download anything again:
`python services/requirements.py runner > requirements.txt`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def requirements(project: Mapping[str, Any], extras: Sequence[str]) -> list[str]:
    """The base dependencies and those of `extras`, of a pyproject's `[project]` table.

    Raises:
        KeyError: there is no such extra. ValueError: it refers to other extras, which are not followed.
    """
    base: list[str] = project["dependencies"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    found = dict.fromkeys(base)
    for extra in extras:
        found |= dict.fromkeys(optional[extra])
    nested = [line for line in found if line.startswith(f"{project['name']}[")]
    if nested:
        raise ValueError(f"{nested[0]} refers to other extras: name those instead")
    return list(found)


if __name__ == "__main__":
    pyproject = Path(__file__).resolve().parent.parent / "pyproject.toml"
    sys.stdout.write("\n".join(requirements(tomllib.loads(pyproject.read_text())["project"], sys.argv[1:])) + "\n")
