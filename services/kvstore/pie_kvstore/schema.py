"""What lies in Redis: every key, its type and its lifetime. Nothing else may name a key.

| key (after the prefix) | type | holds | ends |
|---|---|---|---|
| `schema` | string | version of this table; another one is refused | never |
| `boots` | counter | starts of kvstore: the high half of the `Members` version | never |
| `epochs` | counter | the last epoch given to any member | never |
| `members` | hash kind/name -> MemberInfo | who holds, or lately lost, a lease | on leave, death, 10 min after loss |
| `artifact:SHA256` | string | all bytes, digest checked | a day after its last use; never while a program names it |
| `upload:SHA256` | string | the bytes received so far | an hour after the last chunk |
| `programs` | hash name@version -> Program | the registry | never |
| `processes` | hash pid -> ProcessInfo | the process index | ten minutes after the process's end |
| `processes:ending` | sorted set pid by Unix time | when ended rows are to be removed | with the row |
| `pools` | hash engine -> PoolHead | epoch and page counts of each engine | when the engine's epoch dies |
| `pages:ENGINE` | hash runner/epoch/context -> PageRow | who holds which pages | when the engine's epoch dies |
| `snapshots:TENANT/USER` | hash name -> Snapshot | named contexts as lineage | on delete or take |
| `archives:TENANT/USER` | hash SHA256 -> Archive | exports that snapshots need, with their sizes | with the last name |
| `artifact:TENANT/USER:SHA256`, `upload:...` | string | the bytes of those | with its row; unnamed as above |
| `messages` | counter | the last number given to a queued message | never |
| `topics:TENANT/USER` | hash topic -> bytes | topics with messages in their queues | with the last message |
| `topic:TENANT/USER/TOPIC:queue` | hash number -> QueuedRow | all its messages | acknowledged or purged |
| `topic:TENANT/USER/TOPIC:waiting` | sorted set of numbers | messages that nobody has | taken or purged |
| `topic:TENANT/USER/TOPIC:dead` | sorted set of numbers | messages that were taken five times | purged |
| `taken` | hash number -> TakenRow | who has which message | acknowledged, given up, or with its runner's epoch |
| `pushed:KEY` | string | that this push was stored | two minutes later |

Values are JSON, so that `redis-cli` and other languages can read them. Only commands of Redis 7.0 are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import msgspec
from pie_wire.messages.common import PoolStats

SCHEMA_VERSION = 1

UPLOAD_SECONDS = 3600
ARTIFACT_SECONDS = 86_400
"""How long an artifact that no program names outlives its last use."""
ENDED_SECONDS = 600
"""How long an ended process is listed."""
PUSH_KEY_SECONDS = 120
"""How long a push that is repeated is recognised."""
LOST_SECONDS = 600
"""How long a member that lost its lease is listed as lost, and may come back with its epoch."""


class PoolHead(msgspec.Struct, frozen=True):
    """Whose rows `pages:ENGINE` holds."""

    epoch: int
    pool: PoolStats


class QueuedRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of a topic."""

    text: str
    pushed_at: float
    deliveries: int = 0


class TakenRow(msgspec.Struct, frozen=True):
    """Who has a message: the pull of a process of a runner's incarnation."""

    tenant: str
    user: str
    topic: str
    runner: str
    epoch: int
    pid: str
    number: int


class TopicName(Protocol):
    """What names a topic's keys."""

    @property
    def tenant(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Keys:
    """The names of all keys under one prefix."""

    prefix: str = "pie"

    def _key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    @property
    def schema(self) -> str:
        return self._key("schema")

    @property
    def boots(self) -> str:
        return self._key("boots")

    @property
    def epochs(self) -> str:
        return self._key("epochs")

    @property
    def members(self) -> str:
        return self._key("members")

    @property
    def programs(self) -> str:
        return self._key("programs")

    @property
    def processes(self) -> str:
        return self._key("processes")

    @property
    def ending(self) -> str:
        return self._key("processes", "ending")

    @property
    def pools(self) -> str:
        return self._key("pools")

    def artifact(self, sha256: str, owner: str = "") -> str:
        return self._key("artifact", *filter(None, [owner]), sha256)

    def upload(self, sha256: str, owner: str = "") -> str:
        return self._key("upload", *filter(None, [owner]), sha256)

    def pages(self, engine: str) -> str:
        return self._key("pages", engine)

    def snapshots(self, owner: str) -> str:
        return self._key("snapshots", owner)

    def archives(self, owner: str) -> str:
        return self._key("archives", owner)

    @property
    def messages(self) -> str:
        return self._key("messages")

    @property
    def taken(self) -> str:
        return self._key("taken")

    def topics(self, topic: TopicName) -> str:
        return self._key("topics", owner_key(topic.tenant, topic.user))

    def queue(self, topic: TopicName) -> str:
        return self._topic(topic, "queue")

    def waiting(self, topic: TopicName) -> str:
        return self._topic(topic, "waiting")

    def dead(self, topic: TopicName) -> str:
        return self._topic(topic, "dead")

    def push_key(self, key: str) -> str:
        return self._key("pushed", quote(key, safe="/"))

    def _topic(self, topic: TopicName, what: str) -> str:
        parts = (quote(part, safe="") for part in (topic.tenant, topic.user, topic.name))
        return self._key("topic", "/".join(parts), what)


def owner_key(tenant: str, user: str) -> str:
    """A user, as a part of keys."""
    return f"{quote(tenant, safe='')}/{quote(user, safe='')}"
