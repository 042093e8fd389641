"""What was acknowledged is still there after the worst: store and gateway killed at the same moment."""

from __future__ import annotations

import os
import signal

from e2e_stack import Killed, Stack, eventually
from pie_wire.errors import PieError
from pie_zmq import Client

MANIFEST = '[package]\nname = "kept"\nversion = "1.2.3"\n'
SOURCE = b"async def main(): return 'kept'\n"
COUNT = 5


def launch_when_back(client: Client, program: str) -> object:
    """A launch is repeated while it is refused as retryable, as a client should."""

    def attempt() -> object:
        try:
            return client.launch(program).result(20)
        except PieError as exc:
            refusal = exc
        assert refusal.retryable, refusal
        return None

    return eventually(f"{program} runs", attempt, 20.0)


def test_programs_and_event_logs(scripted: Stack):
    with scripted.client() as client:
        client.install(SOURCE, MANIFEST, replace=True)
        ended = client.launch("text-completion", {"prompt": "1", "max_tokens": COUNT, "temperature": 0})
        events = list(ended.events())
        redis = scripted.redis()
        store, gateway = scripted.kill("kvstore"), scripted.kill("gateway")
        os.kill(redis, signal.SIGKILL)

        assert launch_when_back(client, "kept@1.2.3") == "kept"
        assert "kept" in {program.ref.name for program in client.programs()}
        assert list(client.attach(ended.pid).events()) == events
    scripted.wait_restarted(store)
    scripted.wait_restarted(gateway)
    scripted.check_quiet()


def test_an_upload_goes_on_when_the_store_dies(scripted: Stack):
    source = b"# " + b"x" * 3_000_000 + b"\nasync def main(): return 'whole'\n"
    killed: list[Killed] = []

    def kill_once(received: int, size: int) -> None:
        if not killed and received > size // 2:
            killed.append(scripted.kill("kvstore"))

    with scripted.client() as client:
        digest = client.upload(source, progress=kill_once)
        assert launch_when_back(client, f"sha256:{digest}") == "whole"
    scripted.wait_restarted(killed[0])
    scripted.check_quiet()


SNAPSHOTS = """
from inferlet import Context, Model


async def main(stage: str) -> dict:
    if stage == "save":
        ctx = Context().append(range(65, 125))
        await ctx.drop_tokens(4, 40)
        ctx.save("with-holes")
    else:
        ctx = getattr(Context, stage)(Model.load(), "with-holes")
        if ctx is None:
            return {"gone": True}
    data = await ctx.export()
    return {"tokens": ctx.tokens, "bytes": len(data)}
"""


def test_a_snapshot_that_is_more_than_tokens(scripted: Stack):
    with scripted.client() as client:
        program = f"sha256:{client.upload(SNAPSHOTS.encode())}"

        def run(stage: str) -> object:
            return client.launch(program, {"stage": stage}).result(30)

        saved = run("save")
        redis = scripted.redis()
        store, engine = scripted.kill("kvstore"), scripted.kill("engine-0")
        os.kill(redis, signal.SIGKILL)
        scripted.wait_restarted(store)
        scripted.wait_restarted(engine)

        assert run("open") == saved
        assert run("take") == saved
        assert run("take") == {"gone": True}
    scripted.check_quiet()
