"""Supervises a real kvstore and fake services in PIE_HOME; argument: a JSON object of {service: {variable: value}}."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from pie_cli import child
from pie_cli.paths import StackPaths
from pie_cli.plan import ServicePlan, plan_stack
from pie_cli.supervisor import Supervisor
from pie_cli.up_display import UpDisplay
from pie_wire.errors import PieError
from rich.console import Console

FAKE = Path(__file__).with_name("fake_service.py")


@dataclass(frozen=True)
class FakePlan(ServicePlan):
    behaviour: tuple[tuple[str, str], ...] = ()

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(FAKE), self.kind, self.name]

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **dict(self.behaviour)}


def main() -> None:
    behaviours = json.loads(sys.argv[1])
    child.PAUSES, child.LOOP_DEATHS = (0.05, 0.1), 3
    paths = StackPaths.default()
    paths.make()
    real = plan_stack(paths, model="fake", model_folder="/", runners=1, http_port=0)
    services = tuple(
        plan
        if plan.kind == "kvstore"
        else FakePlan(plan.kind, plan.name, plan.settings, tuple(behaviours.get(plan.name, {}).items()))
        for plan in real.services
    )
    plan = replace(real, services=services)
    display = UpDisplay(Console(stderr=True), hint="-")
    try:
        Supervisor(plan, paths, display, lambda endpoint: ["fake-program"]).run()
    except PieError as exc:
        sys.stderr.write(f"{exc.message}\n")
        sys.exit(1)


main()
