"""However much a step has for a runner, every message of it can be sent."""

from __future__ import annotations

import numpy as np
from pie_engine.contexts.checks import MAX_IDS, MAX_OUTPUTS, MAX_VECTOR_OUTPUTS
from pie_engine.links.outbox import Outbox
from pie_engine.passes.device import TopK, Vector
from pie_wire.codec import MAX_BUFFERS, check_buffers, encode_body
from pie_wire.errors import MAX_MESSAGE_CHARS, DeviceError


def test_nothing_new_is_no_message():
    outbox = Outbox()

    assert len(outbox.take(3)) == 1
    assert outbox.take(3) == []


def test_the_largest_distributions_of_many_passes_are_spread_over_messages():
    outbox = Outbox()
    top = TopK(tuple(range(1 << 31, (1 << 31) + MAX_IDS)), (1.0 / 3,) * MAX_IDS)

    for op in (1, 2, 3):
        outbox.forwarded(op, [top] * MAX_OUTPUTS)
    messages = outbox.take(3)

    assert [done.op for step, _ in messages for done in step.outputs] == [1, 2, 3]
    assert [step.acked for step, _ in messages] == [0, 0, 0, 3]
    for step, _ in messages:
        encode_body(step)


def test_raw_logits_of_many_passes_stay_within_the_buffers_of_a_frame():
    outbox = Outbox()
    passes = MAX_BUFFERS // MAX_VECTOR_OUTPUTS + 1

    for op in range(passes):
        outbox.forwarded(op, [Vector("logits", np.full(4, op, dtype="<f4"))] * MAX_VECTOR_OUTPUTS)
    messages = outbox.take(passes)

    seen: list[int] = []
    for step, buffers in messages:
        check_buffers(buffers)
        for done in step.outputs:
            values = {float(np.frombuffer(buffers[slot.buffer], dtype="<f4")[0]) for slot in done.slots}
            assert values == {float(done.op)}
            seen.append(done.op)
    assert seen == list(range(passes))


def test_long_failures_of_many_operations_are_spread_over_messages():
    outbox = Outbox()
    error = DeviceError("x" * MAX_MESSAGE_CHARS).info()

    for op in range(1, 401):
        outbox.fail(op, 1, op, error)
    messages = outbox.take(400)

    assert [failure.op for step, _ in messages for failure in step.failed] == list(range(1, 401))
    for step, _ in messages:
        encode_body(step)
