"""Each line is OK or the fix."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from pie_cli import doctor
from pie_cli.main import pie


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIE_HOME", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("PIE_KVSTORE_REDIS_URL", raising=False)


def test_every_problem_has_a_fix():
    findings = json.loads(CliRunner().invoke(pie, ["doctor", "--json"]).output)

    assert len(findings) == len(doctor.CHECKS)
    assert all(f["fix"] for f in findings if f["level"] != "ok")


def test_something_bad_is_the_exit_status(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: doctor.Finding("x", "bad", "broken", "mend it"),))

    result = CliRunner().invoke(pie, ["doctor"])

    assert result.exit_code == 1
    assert "mend it" in result.output


def test_missing_model_and_package():
    assert "pie model pull" in doctor.check_model().fix
    assert doctor._package("no-such-package", "engine").fix == "pip install 'pie-mq[engine]'"
    assert "exactly 0" in doctor._package("click", "runner", exactly="0").found


def test_a_taken_port(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("PIE_GATEWAY_HTTP_PORT", str(taken.getsockname()[1]))

        assert "--http-port" in doctor.check_port().fix


def test_a_redis_url_that_is_down(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    assert doctor.check_redis().level == "bad"


@pytest.mark.parametrize(("answer", "level"), [(b"+PONG\r\n", "ok"), (b"-NOAUTH x\r\n", "ok"), (b"HTTP/1.1", "bad")])
def test_a_redis_url_that_answers(monkeypatch: pytest.MonkeyPatch, answer: bytes, level: str):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        found = doctor.check_redis()
        thread.join()

    assert found.level == level
