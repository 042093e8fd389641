"""Brings adapters from files to the device: reads on a thread of its own, hands over between passes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import structlog
from pie_wire.errors import PieError, to_error

from pie_engine.adapters.requests import AdapterRequests
from pie_engine.passes.device import AdapterHost, LoadedAdapter

log = structlog.get_logger("pie.engine")


class AdapterLoader:
    """Owns the file being read, if any."""

    def __init__(
        self, requests: AdapterRequests, host: AdapterHost, read: Callable[[str, int], Future[LoadedAdapter]]
    ) -> None:
        """`read` begins `host.read_adapter` with its arguments on another thread."""
        self._requests = requests
        self._host = host
        self._read = read
        self._reading: Future[LoadedAdapter] | None = None

    def turn(self) -> None:
        """Go on; call at step borders."""
        for slot in self._requests.take_dropped():
            self._host.drop_adapter(slot)
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            self._hand_over(reading)
        if self._reading is None and (load := self._requests.next_load()) is not None:
            folder, most = load
            log.info("reading an adapter", folder=folder)
            self._reading = self._read(folder, most)

    def _hand_over(self, reading: Future[LoadedAdapter]) -> None:
        failure = reading.exception()
        if failure is not None:
            if not isinstance(failure, PieError):
                log.error("an adapter could not be read", exc_info=failure)
            self._requests.failed(to_error(failure))
            return
        adapter = reading.result()
        slot = self._requests.loaded(adapter.facts)
        if slot is not None:
            self._host.keep_adapter(slot, adapter)
