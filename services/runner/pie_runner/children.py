"""Programs that programs launch. The gateway runs them like any process and ends them with their parent; here is the
parent's side: what it launched, and the answers.

launch --> gw.launch-child ... run.child-ended --> get
           ^ again on every new link, until the end has been told
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from pie_wire.errors import Cancelled, DeadlineExceeded, PeerLost, PieError, TooLarge, from_info
from pie_wire.hub import Answer, Hub, Incoming, Peer
from pie_wire.messages.common import MAX_INPUT_BYTES
from pie_wire.messages.gateway import DetachChild, EndChild, LaunchChild, Launched
from pie_wire.messages.runner import ChildEnded

from pie_runner.waitables import Waitable
from pie_runner.wasm.hostcall import Err, Ok

if TYPE_CHECKING:
    from pie_runner.process import Process

LAUNCH_TIMEOUT = 60.0
"""Longer than all that the gateway does before it answers: resolving, queueing, starting."""


class Child(Waitable):
    """The WIT's `child`. Lives on in the table of its family when the program drops the handle."""

    def __init__(self, process: Process, family: Children, launch: LaunchChild) -> None:
        super().__init__(process.waitables)
        self.parent = process
        self.pid = launch.pid
        self.launch = launch
        self.detached = launch.detached
        self.confirmed = False
        """The gateway has taken the launch."""
        self.ended = False
        """Its end is known, or of no interest any more."""
        self._family = family
        self._answer: Ok | Err | None = None
        self._open = True
        self._held = 0

    @property
    def ready(self) -> bool:
        return self._answer is not None

    def get(self) -> Ok | Err | None:
        return self._answer

    def finish(self, answer: Ok | Err, size: int = 0) -> None:
        """Its answer, of about `size` bytes; later ones are ignored."""
        if self._answer is None:
            self._answer = answer
            if self._open:
                self._held = size
                self.parent.usage.results += size
            self.notify()

    def close(self) -> None:
        """The program dropped its handle: it goes on, and nobody hears of its end."""
        super().close()
        self._open = False
        self.parent.usage.results -= self._held
        self._held = 0

    def cancel(self) -> None:
        """End it. Repeats are harmless."""
        if not self.ready:
            self.finish(Err(Cancelled(f"process {self.pid} was cancelled by the program that launched it").info()))
            self._family.cancel(self)

    def detach(self) -> None:
        """It lives on when its parent ends."""
        if not self.detached and not self.ended:
            self.detached = True
            self._family.detach(self)


class Children:
    """The children of all processes of this runner whose end is not known yet.

    `peer` gives the gateway once it knows this runner's processes, None before that and while it is away.
    """

    def __init__(self, hub: Hub, peer: Callable[[], Peer | None], new_pid: Callable[[], str]) -> None:
        self._hub = hub
        self._peer = peer
        self._new_pid = new_pid
        self._children: dict[str, Child] = {}
        hub.on(ChildEnded, self._ended)

    def __len__(self) -> int:
        return len(self._children)

    def launch(self, process: Process, program: str, given: str, near: str, *, detached: bool) -> Child:
        """Launch; whatever goes wrong from here on is the child's answer.

        Raises:
            LimitExceeded: the process has as many as it may. TooLarge: the input.
        """
        process.usage.check_children(len(process.children))
        if len(given) > MAX_INPUT_BYTES or len(given.encode()) > MAX_INPUT_BYTES:
            raise TooLarge(f"the input of a child exceeds {MAX_INPUT_BYTES} bytes: send large data as messages")
        message = LaunchChild(process.pid, self._new_pid(), program, given, near, detached)
        child = Child(process, self, message)
        process.children[child.pid] = child
        self._children[child.pid] = child
        self._send(child)
        return child

    def cancel(self, child: Child) -> None:
        """Tell the gateway; told again on a new link until the end is known."""
        peer = self._peer()
        if peer is not None:
            self._hub.send(peer, EndChild(child.parent.pid, child.pid))

    def detach(self, child: Child) -> None:
        peer = self._peer()
        if peer is not None:
            self._hub.send(peer, DetachChild(child.parent.pid, child.pid))

    def parent_ended(self, process: Process) -> None:
        """Nobody waits for them any more. Detached ones that the gateway has not taken yet are still to be launched."""
        for child in list(process.children.values()):
            if child.confirmed or child.ready or not child.detached:
                self._forget(child)

    def recovered(self) -> None:
        """The gateway knows this runner's processes again. Comes before any event of theirs is sent again, so that what
        a program launched before it ended is launched."""
        for child in list(self._children.values()):
            if child.ready:
                self.cancel(child)
            else:
                self._send(child)

    def _send(self, child: Child) -> None:
        peer = self._peer()
        if peer is None:
            return
        launch = child.launch
        message = LaunchChild(launch.parent, launch.pid, launch.program, launch.input, launch.near, child.detached)
        try:
            self._hub.request(
                peer,
                message,
                lambda answer: self._launched(child, answer),
                timeout=LAUNCH_TIMEOUT,
                scope=child.parent.scope,
            )
        except PieError as exc:
            self._fail(child, exc)

    def _launched(self, child: Child, answer: Answer[Launched]) -> None:
        if child.ended:
            return
        if answer.error is None:
            child.confirmed = True
            if child.parent.state == "ended":
                self._forget(child)
        elif not isinstance(answer.error, PeerLost):  # lost: sent again on the next link
            if isinstance(answer.error, DeadlineExceeded):
                self.cancel(child)  # given up here, it must not run there
            self._fail(child, answer.error)

    def _ended(self, incoming: Incoming[ChildEnded]) -> None:
        message = incoming.message
        child = self._children.get(message.pid)
        if child is None or child.parent.pid != message.parent:
            return
        if message.error is None:
            child.finish(Ok(message.result), len(message.result))
        else:
            child.finish(Err(from_info(message.error).info()), len(message.error.message))
        self._forget(child)

    def _fail(self, child: Child, error: PieError) -> None:
        child.finish(Err(error.info()))
        self._forget(child)

    def _forget(self, child: Child) -> None:
        child.ended = True
        child.launch = msgspec.structs.replace(child.launch, input="")  # may be large, and is not sent again
        self._children.pop(child.pid, None)
        child.parent.children.pop(child.pid, None)
