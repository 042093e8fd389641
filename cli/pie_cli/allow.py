"""`--allow`: capabilities that a user grants to a program for one run."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.capabilities import Grants, checked
from pie_wire.errors import BadField


def parse_allow(words: Sequence[str]) -> Grants:
    """Grants from words like `http=api.example.com`, `fs`, `fs=scratch`, `mcp=calculator`, `children`.

    Raises:
        BadField: a word that is none of these.
    """
    grants = Grants()
    for word in words:
        name, _, value = word.partition("=")
        match name:
            case "http" if value:
                grants |= Grants(http=[value])
            case "fs" | "filesystem" if not value:
                grants |= Grants(filesystem=["scratch", "data"])
            case "fs" | "filesystem" if value == "scratch" or value == "data":
                grants |= Grants(filesystem=[value])
            case "mcp" if value:
                grants |= Grants(mcp=[value])
            case "children" if not value:
                grants |= Grants(children=True)
            case _:
                raise BadField(
                    f"--allow {word}: expected http=HOST[:PORT], fs, fs=scratch, fs=data, mcp=NAME or children"
                )
    return checked(grants)
