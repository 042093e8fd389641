"""`/healthz` and `/v1/models`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from pie_gateway.core import GatewayCore
from pie_gateway.reports import models_of


class HealthRoutes:
    def __init__(self, core: GatewayCore) -> None:
        self._core = core

    async def healthz(self, request: Request) -> JSONResponse:
        """200 when a launch would be carried out now, else 503; `reasons` says what is missing."""
        reasons = self.reasons()
        status = {"ready": not reasons, "reasons": reasons, "processes": self._core.table.live_count}
        return JSONResponse(status, 503 if reasons else 200)

    def reasons(self) -> list[str]:
        members = self._core.membership
        reasons: list[str] = []
        if not self._core.store.is_up:
            reasons.append("kvstore does not answer")
        elif not members.joined:
            reasons.append("not yet a member" + (f": {members.error.message}" if members.error else ""))
        if not len(self._core.runners):
            reasons.append("no runner has announced itself")
        if not models_of(members.members):
            reasons.append("no engine has joined")
        return reasons

    async def models(self, request: Request) -> JSONResponse:
        data = [
            {"id": m.name, "object": "model", "created": 0, "owned_by": "pie", "max_model_len": m.max_context}
            for m in models_of(self._core.membership.members)
        ]
        return JSONResponse({"object": "list", "data": data})
