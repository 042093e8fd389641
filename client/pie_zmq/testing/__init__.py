"""A Pie in your own process, for tests of programs that use this library. No sockets, no services, no model.

    async def greet(run: FakeRun, input: Any) -> Any:
        await run.send("hello")
        return {"greeted": input["name"]}

    fake = FakePie({"greet": greet})
    client = await AsyncClient.connect(transport=fake)      # or Client(transport=fake)
    process = await client.launch("greet", {"name": "Ada"})

The client speaks the real protocol with it: launches, numbered events, attach, signals, uploads, and the loss of the
gateway (`FakePie.restart`).
"""

from pie_zmq.testing.fake_pie import FakePie
from pie_zmq.testing.fake_run import FakeProgram, FakeRun

__all__ = ["FakePie", "FakeProgram", "FakeRun"]
