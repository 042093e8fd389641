"""The programs that come with Pie, installed whenever a stack comes up."""

from __future__ import annotations

import asyncio
from importlib.resources import as_file, files
from pathlib import Path

from pie_zmq import AsyncClient

INSTALL_TIMEOUT = 30.0


def install_builtins(endpoint: str) -> list[str]:
    """Install every folder of `pie_inferlets` that has a manifest; the same bytes again change nothing.

    Bytes that differ from those installed under their version come from another build of Pie, so that they replace
    them. Raises PieError.
    """
    with as_file(files("pie_inferlets")) as root:
        return asyncio.run(_install(endpoint, sorted(path.parent for path in root.glob("*/Pie.toml"))))


async def _install(endpoint: str, folders: list[Path]) -> list[str]:
    client = await AsyncClient.connect(endpoint, timeout=INSTALL_TIMEOUT, connect_timeout=INSTALL_TIMEOUT)
    try:
        return [(await client.install(folder, replace=True)).ref.name for folder in folders]
    finally:
        client.close()
