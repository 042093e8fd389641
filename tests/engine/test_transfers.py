"""Contexts as bytes: what comes back is what left, and nothing else is taken in."""

from __future__ import annotations

import itertools
import tracemalloc

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from pie_engine.contexts import export_format
from pie_engine.contexts.export_format import PART_BYTES, Header, pack, unpack
from pie_wire.errors import BadField, BadRequest, HashMismatch, PieError, TooLarge
from pie_wire.messages import engine as wire
from pie_wire.messages.common import Account
from pie_wire.messages.engine import MAX_EXPORT_HEADER, Mask, Output

TOKENS = [(7 * i) % 97 for i in range(40)]


def export(bench, context, generation=0):
    number = bench.send(wire.Export(context, generation))
    bench.settle()
    assert number not in bench.runner.failed, bench.runner.failed[number]
    return bench.runner.exports[number]


def bring_in(bench, buffers, account=None, extra=()):
    """The id of an imported context, and the number of the operation."""
    bench.contexts += 1
    op = wire.Import(bench.contexts, "p", "local", account or Account(), len(extra), len(buffers))
    return bench.contexts, bench.send(op, buffers=[*extra, *buffers])


def ask(bench, context, tokens=(), generation=0):
    number = bench.send(wire.Forward(context, generation, list(tokens), [Output(max(0, len(tokens) - 1))]))
    bench.settle()
    assert number not in bench.runner.failed, bench.runner.failed[number]
    return bench.runner.outputs[number][0].token


@pytest.mark.parametrize("length", [0, 1, 2, 4, 5, 8, 9, 30])
def test_a_context_comes_back_without_being_computed(benches, length):
    here, there = benches(), benches()
    buffers = export(here, here.create(TOKENS[:length]))
    context, _ = bring_in(there, buffers, extra=(b"something else",))
    there.settle()
    rows = there.device.rows
    expected = ask(here, here.create(TOKENS[:length]), [1, 2])
    assert ask(there, context, [1, 2]) == expected
    assert there.device.rows - rows == (3 if length else 2)
    there.send(wire.Drop(context))
    there.settle()
    assert there.owned() == 0


def test_an_export_that_waits_has_what_the_program_had_when_it_asked(benches):
    here, there = benches(), benches()
    context = here.create(TOKENS[:5])
    run = here.open_run(context, 12)
    here.settle()
    known = len(TOKENS[:5])
    here.send(wire.Export(context, 0, length=known))
    number = here.send(wire.Export(context, 0, length=known))
    here.send(wire.Consume(context, run, 4))
    here.settle()

    brought, _ = bring_in(there, here.runner.exports[number])
    there.settle()

    assert ask(there, brought) == ask(there, there.create(TOKENS[:5]))


def test_an_export_of_more_than_there_is_is_refused(benches):
    here = benches()
    number = here.send(wire.Export(here.create(TOKENS[:5]), 0, length=6))
    here.settle()

    assert here.runner.failed[number].code == "bad_field"


def test_what_could_not_be_imported_is_not_exported(benches, monkeypatch):
    monkeypatch.setattr(export_format, "SMALL_HEADER", 100)
    monkeypatch.setattr(export_format, "MAX_EXPORT_HEADER", 250)
    here = benches()
    small, large = here.create(TOKENS[:5]), here.create(TOKENS * 5)
    numbers = [here.send(wire.Export(large, 0, bare)) for bare in (False, True)]
    here.settle()

    assert export(here, small)
    for number in numbers:
        assert here.runner.failed[number].code in ("too_large", "skipped")
    assert "can be exported or saved" in here.runner.failed[numbers[0]].message
    assert ask(here, large, [1], generation=1) is not None


@pytest.mark.parametrize(("stretches", "fits"), [(100, True), (1500, False)])
def test_headers_are_weighed_as_they_will_be_read(stretches, fits):
    masks = [(slot, every_second(stretches)) for slot in range(3000, 4000)]
    header = msgspec.structs.replace(HEADER, tokens=[1] * 4000, kv=0, masks=masks, checksum=b"")
    size = len(pack(header, b"")[0])

    assert (size <= MAX_EXPORT_HEADER) == fits
    if fits:
        export_format.check_header(header)
    else:
        with pytest.raises(TooLarge, match=str(size)):
            export_format.check_header(header)


def test_an_impure_context_comes_back_as_it_was(benches):
    here, there = benches(), benches()
    context = here.create(TOKENS[:10])
    here.send(wire.Forward(context, 0, TOKENS[10:14], [], [20, 21, 30, 31], Mask("window", 6, 1)))
    here.send(wire.DropTokens(context, 0, 3, 9), wire.Append(context, 0, TOKENS[14:25]))
    here.send(wire.DropTokens(context, 0, 1, 18), wire.Append(context, 0, [9]))
    buffers = export(here, context)
    copy, _ = bring_in(there, buffers)
    assert ask(there, copy, [1, 2]) == ask(here, context, [1, 2])
    assert ask(there, copy, [3]) == ask(here, context, [3])
    assert there.owned() == here.owned()
    there.send(wire.Truncate(copy, 0, 1))
    assert ask(there, copy) == ask(here, here.create(TOKENS[:1]))


def test_a_run_goes_on_while_its_context_is_exported(benches):
    here, there = benches(), benches()
    context = here.create(TOKENS[:6])
    run = here.open_run(context, 30, window=10)
    here.settle()
    here.send(wire.Consume(context, run, 4))
    buffers = export(here, context)
    here.send(wire.Consume(context, run, 30))
    here.settle()
    copy, _ = bring_in(there, buffers)
    again = there.open_run(copy, 20)
    there.settle()
    assert there.runner.tokens[again] == here.runner.tokens[run][4:24]


def test_imports_wait_for_room_and_take_it_from_the_idle(benches):
    here, there = benches(), benches(pages=12)
    buffers = export(here, here.create(TOKENS[:30]))
    idle = there.create([5] * 40)
    there.send(wire.Flush(idle, 0))
    there.settle()
    context, _ = bring_in(there, buffers)
    there.settle()
    rows = there.device.rows
    ask(there, context)
    assert there.device.rows - rows == 1
    assert there.core.stats()["evictions"] == 1


def test_imported_pages_are_found_by_imports_of_the_same_data_only(benches):
    """A program could have made them up: whoever only has the tokens must not be given them."""
    here, there = benches(), benches()
    buffers = export(here, here.create(TOKENS[:30]))
    bring_in(there, buffers)
    there.settle()
    rows = there.device.rows
    there.send(wire.Flush(there.create(TOKENS[:30]), 0))
    there.settle()
    assert there.device.rows - rows == 29


def test_slots_beyond_the_context_are_not_exported(benches):
    """Their page may have been another account's before."""
    bench = benches(pages=4)
    secret = bench.create([77] * 16, Account(salt=b"x"))
    bench.send(wire.Flush(secret, 0))
    bench.settle()
    bench.send(wire.Drop(secret))
    buffers = export(bench, bench.create(TOKENS[:7]))
    assert (77).to_bytes(4, "little") not in b"".join(buffers[1:])


def test_a_failed_pass_fails_transfers_and_leaks_nothing(benches):
    here, there = benches(), benches()
    context = here.create(TOKENS[:9])
    buffers = export(here, context)
    here.failing = RuntimeError("device")
    number = here.send(wire.Export(context, 0))
    here.settle()
    assert here.runner.failed[number].code == "device_error"
    there.failing = RuntimeError("device")
    copy, number = bring_in(there, buffers)
    later = there.send(wire.Append(copy, 0, [1]))
    there.settle()
    assert [there.runner.failed[n].code for n in (number, later)] == ["device_error", "device_error"]
    assert there.owned() == 0


def test_a_context_dropped_while_it_waits_to_come_in(benches):
    here, there = benches(), benches()
    buffers = export(here, here.create(TOKENS[:9]))
    copy, _ = bring_in(there, buffers)
    there.send(wire.Drop(copy))
    there.settle()
    assert there.owned() == 0
    assert there.runner.acked == there.runner.next_op - 1


@pytest.mark.parametrize(("buffer", "count"), [(0, 0), (-1, 1), (1, 2), (5, 1), (0, 3)])
def test_buffers_that_are_not_there(benches, buffer, count):
    here, there = benches(), benches()
    buffers = export(here, here.create(TOKENS[:9]))
    number = there.send(wire.Import(1, "p", "local", Account(), buffer, count), buffers=buffers)
    there.settle()
    assert there.runner.failed[number].code == "bad_field"


def test_an_id_in_use_and_a_context_too_large(benches):
    here, there = benches(), benches(pages=8)
    buffers = export(here, here.create(TOKENS[:9]))
    used = there.create([1])
    number = there.send(wire.Import(used, "p", "local", Account(), 0, len(buffers)), buffers=buffers)
    large, refused = bring_in(there, export(here, here.create(TOKENS[:40])))
    there.settle()
    assert there.runner.failed[number].code == "conflict"
    assert there.runner.failed[refused].code == "out_of_memory"
    assert ask(there, used) == ask(here, here.create([1]))
    there.send(wire.Drop(large))
    there.settle()
    assert there.core.stats()["contexts"] == 1


# -- the format


HEADER = Header("pie-kv", 1, "model", 4, 32, [1, 2, 3, 4, 5, 6], 5)


def reading(buffers, dtype="", **other):
    return unpack(buffers, **{"fingerprint": "model", "page_size": 4, "page_bytes": 32, "dtype": dtype} | other)


def forged(**changes):
    return pack(msgspec.structs.replace(HEADER, **changes), bytes(64))


def test_large_contexts_have_several_parts():
    pages = 3 * PART_BYTES // 1024
    header = msgspec.structs.replace(HEADER, page_bytes=1024, tokens=[1] * pages * 4, kv=pages * 4)
    buffers = pack(header, bytes(range(256)) * (pages * 4))
    assert [len(part) for part in buffers[1:]] == [PART_BYTES] * 3
    assert reading(buffers, page_bytes=1024).kv == header.kv


@given(st.data())
def test_damage_is_noticed(data):
    buffers = [bytearray(part) for part in pack(HEADER, bytes(range(64)))]
    part = data.draw(st.sampled_from(buffers))
    at = data.draw(st.integers(0, len(part) - 1))
    part[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PieError):
        reading([bytes(part) for part in buffers])


@given(st.sets(st.integers(0, 64)), st.sampled_from(["", "bfloat16", "float32"]))
def test_pages_cut_elsewhere_are_refused(cuts, dtype):
    header, data = pack(HEADER, bytes(64))
    borders = [0, *sorted(cuts), 64]
    parts = [data[low:high] for low, high in itertools.pairwise(borders)]
    if all(len(part) in (32, 64) for part in parts):
        assert reading([header, *parts], dtype).pages == 2
    else:
        with pytest.raises(BadField, match="whole pages"):
            reading([header, *parts], dtype)


@pytest.mark.parametrize("cut", [1, 2])
def test_an_import_cut_inside_a_page_fails_alone(benches, cut):
    here, there = benches(), benches()
    header, data = export(here, here.create(TOKENS[:9]))
    _, number = bring_in(there, [header, data[:cut], data[cut:]])
    assert ask(there, there.create(TOKENS[:5]), [1]) == ask(here, here.create(TOKENS[:5]), [1])
    assert there.runner.failed[number].code == "bad_field"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_export(noise):
    with pytest.raises(BadField):
        reading([noise])


@pytest.mark.parametrize(
    "other", [{"fingerprint": "another"}, {"page_size": 8}, {"page_bytes": 64}, {"fingerprint": "", "page_size": 4}]
)
def test_data_of_another_model_is_refused(other):
    with pytest.raises(BadRequest, match=r"belongs to another model|pages of"):
        reading(pack(HEADER, bytes(64)), **other)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"magic": "other"},
        {"kv": 4},
        {"kv": 7},
        {"kv": 6, "tokens": [1] * 9},
        {"shifts": [(6, 1)]},
        {"shifts": [(2, 1), (2, 2)]},
        {"masks": [(2, [(0, 4)])]},
        {"masks": [(2, [])]},
        {"masks": [(2, [(1, 1)])]},
        {"masks": [(2, [(0, 2), (1, 3)])]},
        {"masks": [(-1, [(0, 1)])]},
        {"views": [(5, [(0, 4)])]},
        {"views": [(3, [(0, 4)])]},
        {"views": [(3, [(0, 2)]), (5, [(3, 5)])]},
        {"masks": [(5, [(0, 2)])], "views": [(4, [(0, 2)])]},
    ],
)
def test_headers_that_no_engine_writes(changes):
    with pytest.raises(BadField):
        reading(forged(**changes))


def every_second(count):
    """Stretches of one slot each."""
    return [(slot, slot + 1) for slot in range(1, 2 * count, 2)]


def test_many_dropped_stretches_are_refused():
    tokens = [1] * 1000
    with pytest.raises(TooLarge, match="256"):
        reading(forged(tokens=tokens, kv=1000, views=[(900, every_second(257))]))


def test_rows_are_checked_without_making_them():
    """2 million stretches, if they were."""
    tokens = [1] * 8192
    views = [(slot, every_second(256)) for slot in (600, 700)]
    masks = [(slot, [(1, 2), (3, 4)]) for slot in range(601, 8000)]
    header = msgspec.structs.replace(HEADER, tokens=tokens, kv=8192, views=views)
    good, bad = (pack(h, bytes(2048 * 32)) for h in (header, msgspec.structs.replace(header, masks=masks[-1:])))
    tracemalloc.start()
    try:
        assert reading(good).kv == 8192
        with pytest.raises(BadField, match="sees nothing"):
            reading(bad)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_size_that_differs():
    buffers = pack(HEADER, bytes(64))
    with pytest.raises(HashMismatch):
        reading([*buffers, bytes(32)])
    with pytest.raises(HashMismatch):
        reading(buffers[:1])


@pytest.mark.parametrize(
    ("dtype", "value"), [("bfloat16", b"\x80\x7f"), ("float32", b"\0\0\xc0\x7f"), ("float16", b"\0\xfc")]
)
def test_pages_without_numbers_are_refused(dtype, value):
    with pytest.raises(BadField, match="numbers"):
        reading(pack(HEADER, bytes(64 - len(value)) + value), dtype)
    assert reading(pack(HEADER, bytes(64)), dtype).pages == 2


def test_data_of_another_tokenizer_is_refused(benches):
    here, there = benches(), benches()
    buffers = export(here, here.create(TOKENS[:9]))
    header = msgspec.msgpack.decode(buffers[0], type=Header)
    name, _, _ = header.fingerprint.partition(":")
    assert name == "model"
    other = pack(msgspec.structs.replace(header, fingerprint=f"{name}:0"), b"".join(buffers[1:]))
    _, number = bring_in(there, other)
    there.settle()
    assert there.runner.failed[number].code == "bad_request"


@pytest.mark.parametrize("noise", [b"\x91" * 100_000, b"\x81\xa1x" * 50_000, b"\x81\xa5magic\xa1\xff"])
def test_headers_made_to_break_the_reader(noise):
    with pytest.raises(BadField):
        reading([noise])
