"""The ZeroMQ client library of Pie, synchronous (`Client`) and asyncio (`AsyncClient`).

with Client() as pie:
    process = pie.launch("text-completion", {"prompt": "Once upon a time"})
    for event in process.events():
        if event.kind == "message":
            print(event.text, end="", flush=True)
    print(process.result())
"""

from pie_wire.capabilities import Grants
from pie_wire.messages.common import Event, MemberInfo, ModelFacts, ProcessInfo, Program
from pie_wire.messages.gateway import EngineAdapters, PagesReport, StatusReport
from pie_wire.messages.kvstore import DeadMessage, TopicInfo

from pie_zmq import errors
from pie_zmq.async_client import AsyncClient
from pie_zmq.client import Client, Process
from pie_zmq.errors import PieError
from pie_zmq.process import AsyncProcess
from pie_zmq.transport import Carrier, Transport, ZmqTransport

__all__ = [
    "AsyncClient",
    "AsyncProcess",
    "Carrier",
    "Client",
    "DeadMessage",
    "EngineAdapters",
    "Event",
    "Grants",
    "MemberInfo",
    "ModelFacts",
    "PagesReport",
    "PieError",
    "Process",
    "ProcessInfo",
    "Program",
    "StatusReport",
    "TopicInfo",
    "Transport",
    "ZmqTransport",
    "errors",
]
