"""One session's numbers, window and repair."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from pie_wire import channel
from pie_wire.channel import Channel
from pie_wire.codec import Buffer, Header, parse
from pie_wire.errors import Overloaded, PeerLost


def queue(sender: Channel, count: int = 1, size: int = 0) -> None:
    for _ in range(count):
        sender.queue(b"v", Header(), b"\x80", [bytes(size)] if size else [])


def numbers(frames: Iterable[list[Buffer]]) -> list[int]:
    return [parse(parts).header.seq for parts in frames]


def test_frames_are_numbered_from_one():
    sender = Channel(7)
    queue(sender, 3)

    assert numbers(sender.flush()) == [1, 2, 3]
    assert sender.sent == 3
    assert not sender.idle


def test_acknowledged_frames_are_forgotten():
    sender = Channel(7)
    queue(sender, 3)
    list(sender.flush())

    sender.on_ack(2)

    assert numbers(sender.resend(3)) == [3]
    sender.on_ack(3)
    assert sender.idle
    assert sender.sent == 3


def test_the_window_holds_frames_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "WINDOW_FRAMES", 2)
    sender = Channel(7)
    queue(sender, 5)

    assert numbers(sender.flush()) == [1, 2]
    assert numbers(sender.flush()) == []
    sender.on_ack(1)
    assert numbers(sender.flush()) == [3]


def test_a_frame_larger_than_the_window_passes_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "WINDOW_BYTES", 100)
    sender = Channel(7)
    queue(sender, 2, size=1000)

    assert numbers(sender.flush()) == [1]
    sender.on_ack(1)
    assert numbers(sender.flush()) == [2]


def test_a_full_backlog_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "BACKLOG_BYTES", 1000)
    sender = Channel(7)
    queue(sender, 1, size=800)

    with pytest.raises(Overloaded, match="does not acknowledge"):
        queue(sender, 1, size=800)


def test_only_the_next_number_is_taken():
    receiver = Channel(7)

    assert [receiver.accept(seq, 1) for seq in (1, 1, 3, 2, 2, 3)] == [True, False, False, True, False, True]
    assert receiver.received == 3


def test_a_gap_is_reported_once_in_a_while():
    receiver = Channel(7)
    receiver.accept(1, 1)

    assert receiver.gap_to_report(1, 10.0) is None
    assert receiver.gap_to_report(4, 10.0) == 2
    assert receiver.gap_to_report(5, 10.1) is None
    assert receiver.gap_to_report(5, 10.3) == 2
    receiver.accept(2, 1)
    assert receiver.gap_to_report(5, 10.3) == 3


def test_acknowledgement_falls_due(monkeypatch: pytest.MonkeyPatch):
    receiver = Channel(7)
    for seq in range(1, channel.ACK_EVERY_FRAMES):
        receiver.accept(seq, 1)
    assert receiver.owes_ack
    assert not receiver.ack_is_due

    receiver.accept(channel.ACK_EVERY_FRAMES, 1)
    assert receiver.ack_is_due
    assert receiver.mark_acked() == channel.ACK_EVERY_FRAMES
    assert not receiver.ack_is_due
    assert not receiver.owes_ack
    receiver.accept(channel.ACK_EVERY_FRAMES + 1, channel.ACK_EVERY_BYTES)
    assert receiver.ack_is_due


def test_stale_repairs_are_ignored_but_not_for_ever():
    sender = Channel(7)
    queue(sender, 3)
    list(sender.flush())
    sender.on_ack(2)

    for _ in range(channel.STALE_REPAIRS):
        assert numbers(sender.resend(1)) == []
    with pytest.raises(PeerLost, match="cannot be repaired"):
        list(sender.resend(1))
    sender.on_ack(3)
    assert numbers(sender.resend(1)) == []


def test_bogus_acknowledgements_forget_only_what_was_sent():
    sender = Channel(7)
    queue(sender, 2)
    list(sender.flush())
    sender.on_ack(2**63)

    queue(sender)
    assert numbers(sender.flush()) == [3]
