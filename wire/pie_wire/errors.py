"""The error tree: every failure a caller can meet, with a stable code, and whether trying again can help."""

from __future__ import annotations

from typing import ClassVar

import msgspec

MAX_MESSAGE_CHARS = 65_536
"""A traceback may be long; an error must always fit its frame."""


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels. `scope` says what it concerns: request, context, process, link or service."""

    code: str
    message: str
    retryable: bool = False
    scope: str = "request"
    cause: str = ""
    """Code of the error that this one follows from, if any: of `skipped` the root error, of `program_error` what the
    program says, of `peer_lost` why the link ended."""


class PieError(Exception):
    """Base of all typed errors. `message` is one sentence that says what happened and what to do."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    scope: ClassVar[str] = "request"

    def __init__(self, message: str, *, cause: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause

    def info(self) -> ErrorInfo:
        """The form that travels."""
        return ErrorInfo(self.code, self.message[:MAX_MESSAGE_CHARS], self.retryable, self.scope, self.cause)


class InternalError(PieError):
    """A defect in a service: the request failed, the service lives on, the log has the traceback."""

    code = "internal"


class RemoteError(PieError):
    """An error from a newer peer whose code this version does not know; all its fields are kept."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, cause=info.cause)
        self._info = info

    def info(self) -> ErrorInfo:
        return self._info


class ProtocolError(PieError):
    """The peer broke the protocol."""

    code = "protocol"
    scope = "link"


class BadFrame(ProtocolError):
    """Bytes that are not a Pie frame."""

    code = "bad_frame"


class VersionMismatch(ProtocolError):
    """The two sides speak different major versions."""

    code = "version_mismatch"


class StaleEpoch(ProtocolError):
    """The sender is an older incarnation of a member that has been replaced."""

    code = "stale_epoch"


class BadRequest(PieError):
    """The request cannot be carried out as written."""

    code = "bad_request"


class UnknownVerb(BadRequest):
    """The receiver does not know this message."""

    code = "unknown_verb"


class BadField(BadRequest):
    """A field is missing, of the wrong type or out of range."""

    code = "bad_field"


class TooLarge(BadRequest):
    """Input, message or prompt beyond a limit, which the message names."""

    code = "too_large"


class NotFound(PieError):
    """What the request names does not exist."""

    code = "not_found"


class Gone(NotFound):
    """It existed and has been deleted or has expired."""

    code = "gone"


class Conflict(PieError):
    """The name or id is already taken by something else."""

    code = "conflict"


class Forbidden(PieError):
    """Not allowed: the message names what would have to ask for it, or to grant it."""

    code = "forbidden"


class QuotaExceeded(PieError):
    """What is kept for a user or a program has reached its limit, which the message names."""

    code = "quota_exceeded"


class HashMismatch(BadRequest):
    """The bytes received do not have the digest that was announced."""

    code = "hash_mismatch"


class Unsupported(PieError):
    """A valid request for something this deployment does not offer."""

    code = "unsupported"


class Unavailable(PieError):
    """A service this request needs is not there now."""

    code = "unavailable"
    retryable = True


class Overloaded(Unavailable):
    """A bounded queue is full."""

    code = "overloaded"


class DeadlineExceeded(Unavailable):
    """No answer within the request's deadline."""

    code = "deadline_exceeded"


class PeerLost(Unavailable):
    """The peer died, or its link could not be repaired, before it answered."""

    code = "peer_lost"
    scope = "link"


class StoreUnavailable(Unavailable):
    """The key-value store does not answer."""

    code = "store_unavailable"
    scope = "service"


class EngineLost(Unavailable):
    """The engine died: contexts there are gone; new ones can be made when it is back."""

    code = "engine_lost"
    scope = "context"


class ProcessLost(Unavailable):
    """The runner died with the process; its inferlet was not run again."""

    code = "process_lost"
    scope = "process"


class Skipped(PieError):
    """Not executed, because an earlier operation on the same context failed (`cause` names it)."""

    code = "skipped"
    scope = "context"


class OutOfMemory(PieError):
    """KV pages: the operation is larger than the pool or the account's cap, or every tier is full."""

    code = "out_of_memory"
    scope = "context"


class DeviceError(PieError):
    """The forward pass failed on the device; the context is as it was before."""

    code = "device_error"
    scope = "context"


class Cancelled(PieError):
    """The caller took the request back."""

    code = "cancelled"


class Closed(PieError):
    """What the call is about has been closed, or its answer was already taken."""

    code = "closed"


class ProgramError(PieError):
    """The inferlet itself failed: its error or traceback is the message."""

    code = "program_error"
    scope = "process"


class Trapped(ProgramError):
    """The inferlet's WebAssembly trapped."""

    code = "trapped"


class LimitExceeded(ProgramError):
    """The inferlet passed a limit, which the message names."""

    code = "limit_exceeded"


class Terminated(PieError):
    """The process was ended by its owner or operator."""

    code = "terminated"
    scope = "process"


class BadProgram(BadRequest):
    """The upload is no program this system can run: the message says what is wrong with it."""

    code = "bad_program"


def _tree(root: type[PieError]) -> dict[str, type[PieError]]:
    known = {root.code: root}
    for sub in root.__subclasses__():
        if sub is not RemoteError:
            known |= _tree(sub)
    return known


_BY_CODE = _tree(PieError) | {"internal": InternalError}


def codes() -> frozenset[str]:
    """Every code this version can send."""
    return frozenset(_BY_CODE)


def from_info(info: ErrorInfo) -> PieError:
    """Rebuild a typed error; an unknown code becomes RemoteError with the same fields."""
    known = _BY_CODE.get(info.code)
    if known is None or known.retryable != info.retryable:
        return RemoteError(info)
    return known(info.message, cause=info.cause)


def to_error(exc: BaseException) -> PieError:
    """The typed error for any exception; an untyped one is a defect and becomes InternalError."""
    return exc if isinstance(exc, PieError) else InternalError(f"{type(exc).__name__}: {exc}")
