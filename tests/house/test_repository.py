"""What a clone must not carry: paths of one machine, foreign hosts, junk, or links that lead nowhere."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".wit", ".sh", ".txt", ".ts", ".rs", ".json", "", ".cfg", ".Dockerfile"}


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def texts(paths: list[Path]) -> list[tuple[Path, str]]:
    here = Path(__file__)
    return [(path, path.read_text(encoding="utf-8")) for path in paths if path.suffix in TEXT and path != here]


def test_no_path_of_one_machine_is_named(root: Path, tracked: list[Path]):
    foreign = re.compile(r"(?<![\w.~$}])/(?:work|root|opt|home/(?!pie\b|user\b|app\b)\w+)/\S*")
    found = [f"{path.relative_to(root)}: {hit}" for path, text in texts(tracked) for hit in foreign.findall(text)]
    assert found == []


def literals(path: Path, text: str) -> str:
    """What a file does rather than says: without comments, and of Python the strings that are no docstrings."""
    if path.suffix != ".py":
        return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", "//")))
    tree = ast.parse(text)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in said)
    return "\n".join(node.value for node in strings if isinstance(node.value, str))


TORCH_INDEX = {(name, "download.pytorch.org") for name in ("compose.yaml", "Dockerfile", "make_venv")}
"""Where torch's CPU builds are published: what is installed without it brings several gigabytes of CUDA."""


def test_code_reaches_for_no_host_but_this_one(root: Path, tracked: list[Path]):
    """Documents may link; code talks to this machine, to what the user names, or to a library's own default."""
    url = re.compile(r"\b(?:https?|tcp|redis)://\[?([A-Za-z][\w-]*(?:\.[\w-]+)+)")
    found = [
        f"{path.relative_to(root)}: {host}"
        for path, text in texts(tracked)
        if path.suffix != ".md" and path.name != "LICENSE"
        for host in url.findall(literals(path, text))
        if not host.endswith((".example", ".invalid", ".test", "example.com", "json-schema.org"))
        if (path.name, host) not in TORCH_INDEX
    ]
    assert found == []


def test_links_between_documents_lead_somewhere(root: Path, tracked: list[Path]):
    broken: list[str] = []
    for path, text in texts([path for path in tracked if path.suffix == ".md"]):
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file = target.partition("#")[0]
            if file and "://" not in file and not file.startswith("mailto:") and not (path.parent / file).exists():
                broken.append(f"{path.relative_to(root)} -> {target}")
    assert broken == []


def test_documents_name_commands_that_exist(root: Path, tracked: list[Path]):
    from pie_cli.main import ENTRIES

    unknown = [
        f"{path.relative_to(root)}: pie {verb}"
        for path, text in texts([path for path in tracked if path.suffix == ".md"])
        for verb in re.findall(r"(?:^|`)pie ([a-z]+)\b", text, re.MULTILINE)
        if verb not in ENTRIES
    ]
    assert unknown == []


def test_nothing_big_or_built_is_tracked(root: Path, tracked: list[Path]):
    built = {".wasm", ".cwasm", ".so", ".o", ".pyc", ".whl", ".gguf", ".safetensors"}
    assert [path for path in tracked if path.suffix in built] == []
    assert [path for path in tracked if path.stat().st_size > 1 << 20] == []


def test_scripts_can_be_run(root: Path):
    for name in (".ci/run", "scripts/make_venv", "scripts/run_once"):
        assert (root / name).stat().st_mode & 0o111, f"{name} is not executable"
        subprocess.run(["bash", "-n", name], cwd=root, check=True)


def test_the_makefile_explains_every_target(root: Path):
    text = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.MULTILINE))
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=root, capture_output=True, text=True, check=True
    )
    assert targets == set(re.findall(r"^  make ([a-z0-9-]+)", shown.stdout, re.MULTILINE))
    assert {"run", "test", "test-all", "e2e-compose", "lint", "venv", "clean"} <= targets
