"""The container files, as far as they can be judged without a container engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SERVICES = ("gateway", "engine", "runner", "kvstore")
ENDING = ("model", "programs")
"""Containers that do one thing and end."""


def compose(root: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """docker-compose on the repository's file, with nothing of the user's own settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIE_", "COMPOSE_"))}
    command = [program, "--env-file", os.devnull, "-f", str(root / "compose.yaml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean | environment)


@pytest.fixture(scope="module")
def program(require_tool: Callable[[str], str]) -> str:
    return require_tool("docker-compose")


@pytest.fixture(scope="module")
def stack(root: Path, program: str) -> dict[str, Any]:
    """The whole file with all its defaults, as compose reads it."""
    done = compose(root, program, "--profile", "*", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def dockerfile(root: Path, service: str) -> str:
    return (root / "services" / service / "Dockerfile").read_text()


@pytest.mark.parametrize("profile", [(), ("--profile", "gpu")], ids=["plain", "gpu"])
def test_compose_accepts_the_file(root: Path, program: str, profile: tuple[str, ...]):
    done = compose(root, program, *profile, "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_judges_at_all(root: Path, program: str, tmp_path: Path):
    broken = tmp_path / "compose.yaml"
    broken.write_text((root / "compose.yaml").read_text().replace("healthcheck:", "healthchecks:"))
    done = subprocess.run([program, "-f", str(broken), "config", "-q"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0


def test_the_profile_alone_brings_the_gpu(root: Path, program: str):
    plain = compose(root, program, "config", "--services").stdout.split()
    assert sorted(plain) == ["engine", "gateway", "kvstore", "model", "programs", "redis", "runner"]
    with_gpu = compose(root, program, "--profile", "gpu", "config", "--services").stdout.split()
    assert set(with_gpu) - set(plain) == {"engine-gpu"}


def test_only_the_gateway_is_published_and_only_here(stack: dict[str, Any]):
    published = {name: service.get("ports", []) for name, service in stack["services"].items()}
    assert {name for name, ports in published.items() if ports} == {"gateway"}
    assert {port["host_ip"] for port in published["gateway"]} == {"127.0.0.1"}
    assert {(port["target"], port["published"]) for port in published["gateway"]} == {(7070, "7070"), (8080, "8080")}


def test_what_need_not_reach_the_world_cannot(stack: dict[str, Any]):
    assert stack["networks"]["inside"]["internal"] is True
    outside = {name for name, service in stack["services"].items() if "outside" in service["networks"]}
    assert outside == {"gateway", "model"}


def test_every_container_is_bounded_and_without_privileges(stack: dict[str, Any]):
    for name, service in stack["services"].items():
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["stop_grace_period"], name
        assert service["init"] is True, name
        assert "container_name" not in service, f"{name} could not be scaled"


def test_what_runs_is_watched_and_comes_back(stack: dict[str, Any]):
    awaited = {
        needed
        for service in stack["services"].values()
        for needed, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert awaited == set(ENDING)
    for name, service in stack["services"].items():
        if name not in ENDING:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_the_model_and_the_memory_are_the_users_choice(root: Path, program: str):
    chosen = {"PIE_MODEL": "hf:Org/Name", "PIE_KV_MEMORY": "3GiB", "PIE_HTTP_PORT": "9000"}
    services = json.loads(compose(root, program, "config", "--format", "json", **chosen).stdout)["services"]
    assert services["model"]["environment"]["PIE_MODEL"] == "hf:Org/Name"
    assert services["engine"]["environment"]["PIE_MODEL"] == "hf:Org/Name"
    assert services["engine"]["environment"]["PIE_ENGINE_KV_MEMORY"] == "3GiB"
    assert "9000" in {port["published"] for port in services["gateway"]["ports"]}


def test_no_build_takes_cuda_unless_asked(stack: dict[str, Any], root: Path):
    pinned = re.search(r"^torch==(\S+)$", (root / "constraints" / "dev.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    for name in ("model", "engine"):
        assert stack["services"][name]["build"]["args"]["TORCH"] == f"torch=={pinned[1]}+cpu"
    assert stack["services"]["engine-gpu"]["build"]["args"]["TORCH"] == f"torch=={pinned[1]}"
    assert f"ARG TORCH=torch=={pinned[1]}+cpu" in dockerfile(root, "engine")


def test_settings_are_ones_the_services_know(stack: dict[str, Any]):
    """A misspelt variable would be ignored without a word."""
    import dataclasses
    from importlib import import_module

    for kind in SERVICES:
        module = import_module(f"pie_{kind}.config")
        fields = {
            f"PIE_{kind}_{field.name}".upper()
            for config in vars(module).values()
            if dataclasses.is_dataclass(config)
            for field in dataclasses.fields(config)
        }
        for service in stack["services"].values():
            used = {name for name in service.get("environment", {}) if name.startswith(f"PIE_{kind.upper()}_")}
            assert used <= fields, kind


@pytest.mark.parametrize("service", SERVICES)
def test_images_build_with_the_classic_builder_and_run_as_nobody_special(root: Path, service: str):
    text = dockerfile(root, service)
    assert not re.search(r"^#\s*syntax=|--mount|--link|--chmod|<<", text, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE)[-1] == "python:3.11-slim"
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER pie$", last, re.MULTILINE)
    assert not re.search(r"^USER root", last, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_the_context_holds_what_an_image_copies(root: Path, service: str):
    """The list of what goes to the builder names every package; nothing else of the checkout does."""
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {package.partition("/")[0] for package in wheel["packages"]} <= kept
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(root, service), re.MULTILINE):
        for source in sources.split():
            assert source == "." or source.partition("/")[0] in kept
            assert (root / source).exists()


def test_requirements_of_an_extra_are_printed_without_the_project(root: Path):
    script = root / "services" / "requirements.py"

    def run(*extras: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, script, *extras], capture_output=True, text=True, timeout=30)

    kvstore = run("kvstore").stdout.split("\n")
    assert any(line.startswith("redis") for line in kvstore)
    assert any(line.startswith("pyzmq") for line in kvstore)
    assert not any(line.startswith(("torch", "pie-mq")) for line in kvstore)
    assert "refers to other extras" in run("all").stderr
