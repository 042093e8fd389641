"""Files through the whole stack, and through the death of what carries them."""

from __future__ import annotations

import threading
import time

import pytest
from e2e_stack import Stack
from pie_wire.errors import PieError

SHOUT = b"""
from inferlet import session

async def main(count: int = 1):
    for _ in range(count):
        file = await session.receive_file()
        session.send_file(file.name + ".upper", file.content.upper())
    return count
"""


def test_both_ways(scripted: Stack):
    big = bytes(range(256)) * 48_000
    with scripted.client() as client:
        process = client.launch(f"sha256:{client.upload(SHOUT)}", {"count": 3})
        for name, data in (("empty", b""), ("\u4e16 a.txt", b"hello"), ("big", big)):
            process.send_file(name, data)
        files = {event.text: event.data for event in process.events() if event.kind == "file"}

    assert files == {"empty.upper": b"", "\u4e16 a.txt.upper": b"HELLO", "big.upper": big.upper()}


def test_one_that_is_too_large(scripted: Stack):
    with scripted.client() as client:
        process = client.launch(f"sha256:{client.upload(SHOUT)}", {})
        with pytest.raises(PieError, match="file_bytes"):
            process.send_file("big", bytes((64 << 20) + 1))
        process.terminate()


@pytest.mark.slow
def test_the_gateway_dies_on_the_way(scripted: Stack):
    big = bytes(range(256)) * 96_000
    with scripted.client() as client:
        process = client.launch(f"sha256:{client.upload(SHOUT)}", {})
        sending = threading.Thread(target=process.send_file, args=("big", big))
        sending.start()
        time.sleep(0.2)
        killed = scripted.kill("gateway")
        sending.join(60)
        files = [event for event in process.events() if event.kind == "file"]

    assert [(event.text, event.data == big.upper()) for event in files] == [("big.upper", True)]
    scripted.wait_restarted(killed)
