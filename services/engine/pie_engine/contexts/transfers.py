"""Contexts that leave the engine as bytes and come in as bytes."""

from __future__ import annotations

from collections.abc import Sequence

from pie_wire.errors import BadField, OutOfMemory, TooLarge
from pie_wire.messages.engine import AdapterUse

from pie_engine.adapters.table import AdapterTable
from pie_engine.contexts.checks import check_head, check_tokens
from pie_engine.contexts.context import Context
from pie_engine.contexts.context_table import ContextTable
from pie_engine.contexts.export_format import MAGIC, MAX_BYTES, VERSION, Header, check_header, pack, unpack
from pie_engine.contexts.layout import check_positions
from pie_engine.limits import Limits
from pie_engine.memory.kv_cache import KvCache
from pie_engine.passes.page_moves import Buffer
from pie_engine.schedule.work import Export, Import


class Transfers:
    """Makes the work of exports and imports, and their data."""

    def __init__(
        self,
        cache: KvCache,
        limits: Limits,
        table: ContextTable,
        adapters: AdapterTable,
        fingerprint: str,
        dtype: str,
    ) -> None:
        """`fingerprint` and `dtype`: of the model's KV."""
        self._cache = cache
        self._limits = limits
        self._table = table
        self._adapters = adapters
        self._fingerprint = fingerprint
        self._dtype = dtype

    def export(self, context: Context, number: int, *, bare: bool, length: int | None = None) -> Export:
        """The work of exporting the first `length` tokens, or all that the program has of the context. `bare`: without
        KV where it can be computed again. Raises TooLarge, and BadField for more tokens than there are."""
        if length is None:
            length = context.guest_length
        else:
            check_head(context, length)
        kv = 0 if bare and not context.impure else max(0, length - 1)
        size = self._cache.pages_for(kv) * self._limits.page_bytes
        if size > MAX_BYTES:
            raise TooLarge(f"a context of {length} tokens takes {size} bytes: at most {MAX_BYTES} can be exported")
        check_header(self._header(context, length, kv))
        return Export(number, context, self._table.arrival(), length, kv, self._cache, size)

    def exported(self, work: Export) -> list[bytes]:
        """The buffers of a finished export."""
        return pack(self._header(work.context, work.length, work.end), work.data or b"")

    def _header(self, context: Context, length: int, kv: int) -> Header:
        """What an export of the first `length` tokens says, without its checksum."""
        lineage = context.lineage.copy()
        lineage.truncate(length)
        spans: list[tuple[int, list[tuple[str, float]]]] = []
        start: int | None = 0
        while start is not None and start < length:
            named = [(f"{v.name}@{v.digest.hex()}", weight) for v, weight in context.adapters.at(start).members]
            if named or spans:
                spans.append((start, named))
            start = context.adapters.border(start)
        return Header(
            magic=MAGIC,
            version=VERSION,
            fingerprint=self._fingerprint,
            page_size=self._limits.page_size,
            page_bytes=self._limits.page_bytes,
            tokens=context.tokens[:length],
            kv=kv,
            shifts=lineage.shifts,
            masks=[(slot, list(row)) for slot, row in lineage.masks.items()],
            views=[(slot, list(row)) for slot, row in lineage.views],
            adapters=spans,
        )

    def imported(self, context: Context, number: int, buffers: Sequence[Buffer]) -> Import:
        """Make the new context what the data says; the work brings in its pages. Raises a typed error."""
        header = unpack(
            buffers,
            fingerprint=self._fingerprint,
            page_size=self._limits.page_size,
            page_bytes=self._limits.page_bytes,
            dtype=self._dtype,
        )
        check_tokens(header.tokens, self._limits)
        context.lineage = header.lineage
        check_positions(context.lineage.positions(0, len(header.tokens)), self._limits)
        if len(header.tokens) > self._limits.max_context:
            raise TooLarge(f"{len(header.tokens)} tokens exceed the model's context of {self._limits.max_context}")
        most = context.use.most_pages(self._limits)
        if self._cache.pages_for(len(header.tokens)) - len(header.holes) > most:
            raise OutOfMemory(f"{header.pages} pages exceed the {most} that a context of this account can have")
        for start, named in header.adapters:
            if not 0 <= start < len(header.tokens):
                raise BadField(f"adapters from token {start} on, of {len(header.tokens)}")
            adapters = self._adapters.set_of([AdapterUse(name, weight) for name, weight in named])
            context.adapters.begin(start, adapters)
        context.tokens = list(header.tokens)
        context.origin = header.checksum if header.kv else b""
        return Import(number, context, self._table.arrival(), header.kv, header.holes, buffers[1:], header.pages)
