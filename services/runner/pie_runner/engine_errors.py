"""Errors of the engine as programs get them."""

from __future__ import annotations

from pie_wire.errors import BadField, BadRequest, ErrorInfo, PieError, from_info


def engine_error(info: ErrorInfo) -> PieError:
    """What is a bad field on the wire is a bad request of the program's."""
    error = from_info(info)
    return BadRequest(error.message, cause=error.cause) if type(error) is BadField else error
