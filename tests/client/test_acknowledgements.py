"""What clients acknowledge, and in how many messages."""

from __future__ import annotations

import asyncio

from pie_wire.messages.gateway import AckEvents
from pie_zmq.acknowledgements import ACK_WITHIN, Acknowledgements


def test_many_processes_share_a_message():
    async def main() -> None:
        sent: list[AckEvents] = []
        acknowledgements = Acknowledgements(sent.append)

        for seq in (1, 2, 3):
            for pid in ("a", "b"):
                acknowledgements.note(pid, seq, urgent=False)
        await asyncio.sleep(ACK_WITHIN * 2)

        assert sent == [AckEvents(["a", "b"], [3, 3])]

    asyncio.run(main())


def test_urgent_ones_leave_together_and_at_once():
    async def main() -> None:
        sent: list[AckEvents] = []
        acknowledgements = Acknowledgements(sent.append)

        acknowledgements.note("a", 128, urgent=True)
        acknowledgements.note("b", 5, urgent=False)
        acknowledgements.note("c", 128, urgent=True)
        assert not sent
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert sent == [AckEvents(["a", "b", "c"], [128, 5, 128])]

    asyncio.run(main())


def test_nothing_is_left_over():
    async def main() -> None:
        sent: list[AckEvents] = []
        acknowledgements = Acknowledgements(sent.append)

        acknowledgements.note("a", 1, urgent=False)
        acknowledgements.flush()
        acknowledgements.flush()
        await asyncio.sleep(ACK_WITHIN * 1.5)

        assert sent == [AckEvents(["a"], [1])]

    asyncio.run(main())
