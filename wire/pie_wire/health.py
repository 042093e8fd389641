"""`python -m pie_wire.health KIND KVSTORE`: exit 0 if this machine's member of that kind is up; for health checks.

It asks kvstore, over the wire, for the members. A service renews its lease from its own main loop, so "up" means a
loop that turns, not just a process or an open port. A container is a machine of its own here: the process table
(`Identity.host`) tells its member from those of other containers, whatever they are named.
"""

from __future__ import annotations

import sys
import time

import click

from pie_wire.errors import PieError, Unavailable
from pie_wire.hub import Answer, Hub
from pie_wire.membership import KVSTORE
from pie_wire.messages.common import MemberInfo
from pie_wire.messages.kvstore import ListMembers, MemberList
from pie_wire.process import host_id, identity
from pie_wire.transport import TICK, Transport

PATIENCE = 4.0
"""Seconds kvstore has to answer."""


def members(endpoint: str, patience: float = PATIENCE) -> list[MemberInfo]:
    """All members, asked of the kvstore that listens at `endpoint`. Raises PieError when it does not answer."""
    hub = Hub(identity("probe", "health"), time.monotonic)
    answers: list[Answer[MemberList]] = []
    transport = Transport(hub)
    try:
        transport.dial(KVSTORE, endpoint)
        hub.request(KVSTORE, ListMembers(), answers.append, timeout=patience)
        deadline = time.monotonic() + patience + 1.0
        while not answers and time.monotonic() < deadline:
            transport.poll(TICK)
    finally:
        transport.close()
    if not answers:
        raise Unavailable(f"no answer from kvstore at {endpoint}")
    return answers[0].value().members


def check(kind: str, among: list[MemberInfo], host: str) -> MemberInfo:
    """The member of a kind that runs on a host. Raises Unavailable with its state unless it is up."""
    here = [m for m in among if m.kind == kind and m.host == host]
    for member in here:
        if member.state == "up":
            return member
    state = here[0].state if here else "not a member"
    raise Unavailable(f"the {kind} here is {state}")


@click.command()
@click.argument("kind", type=click.Choice(["gateway", "engine", "runner", "kvstore"]))
@click.argument("kvstore")
def main(kind: str, kvstore: str) -> None:
    """Exit 0 if the member of KIND on this machine is up, according to the KVSTORE endpoint."""
    try:
        member = check(kind, members(kvstore), host_id())
    except PieError as exc:
        raise click.ClickException(exc.message) from exc
    click.echo(f"{member.kind} {member.name} is up, epoch {member.epoch}")


if __name__ == "__main__":
    sys.exit(main())
