"""The programs that come with Pie, installed whenever a stack comes up."""

from __future__ import annotations

from importlib.resources import as_file, files

from pie_zmq import Client

INSTALL_TIMEOUT = 30.0


def install_builtins(endpoint: str) -> list[str]:
    """Install every folder of `pie_inferlets` that has a manifest; the same bytes again change nothing.

    A built-in whose bytes differ from those installed under its version comes from another build of Pie, so that
    it replaces them. Raises PieError.
    """
    names: list[str] = []
    with as_file(files("pie_inferlets")) as root, Client(endpoint, timeout=INSTALL_TIMEOUT) as client:
        for manifest in sorted(root.glob("*/Pie.toml")):
            client.install(manifest.parent, replace=True)
            names.append(manifest.parent.name)
    return names
