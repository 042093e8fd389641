"""The seam between the engine's bookkeeping and whatever computes: batches in, results out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pie_wire.errors import BadRequest, DeviceError, PieError

from pie_engine.passes.batch import Batch
from pie_engine.passes.outputs import PagesProbe


@dataclass(frozen=True, slots=True)
class TopK:
    """Answer to a `TopKProbe`, most likely first."""

    ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Answer to a `LogProbsProbe`, in the order of its ids."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Entropy:
    """Answer to an `EntropyProbe`."""

    nats: float


@dataclass(frozen=True, eq=False, slots=True)
class Vector:
    """Answer to a `LogitsProbe` (`[vocab]`) or a `HiddenProbe` (`[hidden size]`)."""

    kind: Literal["logits", "hidden"]
    values: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Pages:
    """Answer to a `PagesProbe`: its pages one after the other."""

    data: bytes


Result: TypeAlias = int | TopK | LogProbs | Entropy | Vector | Pages | PieError
"""Answer to one output: a token for a sampler, what a probe asks, or why this row alone has failed. After a
`DeviceError` the KV of the row's context is not to be trusted; other errors concern the request only."""


Draw: TypeAlias = int | PieError
"""Answer to a sampler."""


def not_numbers() -> DeviceError:
    """The answer to whatever asks a row whose logits are no numbers."""
    return DeviceError("the model gave logits that are not numbers")


def nothing_left() -> BadRequest:
    """The answer to a sampler whose mask, bias and stop ids leave no token."""
    return BadRequest("nothing can be drawn: mask, bias and forbidden stop ids leave no token with a finite logit")


class PageHost(Protocol):
    """Whatever keeps the pages."""

    @property
    def slot_bytes(self) -> int: ...

    def read_pages(self, pages: Sequence[int]) -> NDArray[np.uint8]: ...

    def write_pages(self, pages: Sequence[int], blocks: NDArray[np.uint8]) -> None: ...


def load_pages(host: PageHost, batch: Batch) -> None:
    """Write what the batch brings in as bytes."""
    for load in batch.loads:
        for pages, blocks in load.parts():
            host.write_pages(pages, blocks)


def read_probed(host: PageHost, probe: PagesProbe, page_size: int) -> Pages:
    """What a `PagesProbe` asks for."""
    blocks = host.read_pages(probe.pages)
    if len(blocks):
        # What other slots of the last page held is not the context's.
        blocks[-1].reshape(-1, page_size, host.slot_bytes)[:, probe.filled :] = 0
    return Pages(blocks.tobytes())


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What the engine's books need of an adapter. `digest`: 16 bytes over its configuration and tensors; `size`: bytes
    it takes; `rank`: the largest of its `modules` layers."""

    digest: bytes
    size: int
    rank: int
    modules: int


class LoadedAdapter(Protocol):
    """An adapter that has been read; what else it is, only its device knows."""

    @property
    def facts(self) -> AdapterFacts: ...


class AdapterHost(Protocol):
    """A device that can compute with adapters."""

    def read_adapter(self, folder: str, most: int) -> LoadedAdapter:
        """Read and check an adapter of at most `most` bytes; called on any thread, also during a pass. Raises
        PieError."""
        ...

    def keep_adapter(self, slot: int, adapter: LoadedAdapter) -> None:
        """From now on batches may name it by `slot`. Called between passes."""
        ...

    def drop_adapter(self, slot: int) -> None:
        """No batch will name `slot` again. Called between passes."""
        ...


class Device(AdapterHost, Protocol):
    """Runs one pass at a time. Any exception means that the whole pass failed and no request in it has a result."""

    def execute(self, batch: Batch) -> list[Result]:
        """Results of the batch's outputs, in order. Its moves come first, and may be all there is."""
        ...
