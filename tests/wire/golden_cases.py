"""Hand-written messages, at least one per verb: the source of docs/protocol/golden.json."""

from __future__ import annotations

from dataclasses import dataclass

from pie_wire.capabilities import Capabilities, Grants
from pie_wire.codec import ERROR, OK, Header
from pie_wire.errors import ErrorInfo
from pie_wire.messages import client, common, engine, gateway, kvstore, link, runner
from pie_wire.messages.base import Done, Message, Push, Request

PID = "0123456789abcdef0123456789abcdef"
CHILD = "fedcba9876543210fedcba9876543210"
SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
SESSION = 4503599627370497
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass(frozen=True)
class Case:
    """A frame before it is encoded."""

    name: str
    verb: bytes
    header: Header
    message: Message | ErrorInfo
    buffers: tuple[bytes, ...] = ()


def _control(message: link.LinkMessage, *, session: int = SESSION, ack: int = 12, name: str = "") -> Case:
    header = Header(session=session, ack=ack) if session else Header()
    return Case(name or message.verb, message.verb.encode(), header, message)


def _numbered(message: Message, *buffers: bytes, name: str = "") -> Case:
    """A push, a request or the `ok` reply with this type."""
    title = name or message.verb
    match message:
        case Request():
            header = Header(session=SESSION, seq=7, ack=12, id=41, ttl=5000, trace=TRACE)
            return Case(title, message.verb.encode(), header, message, buffers)
        case Push():
            return Case(title, message.verb.encode(), Header(session=SESSION, seq=8, ack=12), message, buffers)
        case _:
            header = Header(session=SESSION, seq=13, ack=7, re=41, trace=TRACE)
            return Case(title, OK, header, message, buffers)


def _failed(name: str, error: ErrorInfo) -> Case:
    return Case(name, ERROR, Header(session=SESSION, seq=14, ack=8, re=42), error)


GATEWAY = link.Identity("gateway", "gateway-1", 3, "9f86d081884c7d65", 4242, "boot-a:pid:[4026531836]")
CLIENT = link.Identity("client", "pie-run", 0, "0f1e2d3c4b5a6978", 4343, "boot-a:pid:[4026531836]")
REF = common.ProgramRef("text-completion", "0.1.0", "python", SHA)
MANIFEST = '[package]\nname = "text-completion"\nversion = "0.1.0"\n'
PROGRAM = common.Program(REF, MANIFEST, 1234, 1764000000.5)
ASKS = '[capabilities]\nhttp = ["api.example.com"]\n'
GRANTS = Grants(["*.example.com:8443"], ["scratch", "data"], ["calculator"], True)
ACCOUNT = common.Account(b"\x00\x01\xfe\xff", 2.0, 512)
FACTS = common.ModelFacts("smollm2", 49152, 8192, 16, [2], "bfloat16", "transformers", "cpu")
MEMBER = common.MemberInfo(
    "engine",
    "engine-1",
    5,
    "ipc:///run/pie/engine-1.sock",
    4444,
    "boot-a:pid:[4026531836]",
    "00112233445566ff",
    {"model": "smollm2", "vocab": 49152},
    {"load": 0.25},
    "stuck",
)
PROCESS = common.ProcessInfo(
    PID,
    "text-completion@0.1.0",
    "failed",
    "acme",
    "ada",
    "runner-1",
    1764000001.0,
    1764000002.5,
    9,
    9,
    ErrorInfo("process_lost", "runner runner-1 has died", retryable=True, scope="process"),
    CHILD,
    True,
)
POOL = common.PoolStats(1024, 1000, 4, 20, 16)
ROW = common.PageRow(17, "runner-1", 4, PID, "acme", 3, 32, "a1b2c3d4e5f60718293a4b5c6d7e8f90", 320, 20, 1764000003.0)
SNAPSHOT = kvstore.Snapshot("after-intro", "smollm2", [1, 2, 49151], 1764000004.0, "engine-1")
EVENTS = [
    common.Event(1, "started"),
    common.Event(2, "message", "Paris, mein Schatz: \u00e9\u4e16\U0001f967"),
    common.Event(3, "binary", data=b"\x00\x80\xff"),
    common.Event(4, "gap", "12"),
    common.Event(5, "file", '{"name":"notes.txt","size":5,"offset":2}', b"llo"),
    common.Event(6, "error", error=ErrorInfo("trapped", "wasm trap: unreachable", scope="process")),
    common.Event(7, "progress", "compiling chat@1.2.0"),
]
SAMPLER = engine.SamplerSpec(0.75, 0.95, 40)
MASKED = engine.SamplerSpec(mask=b"\x07\x00\x00\x80", min_tokens=4)
RICH = engine.SamplerSpec(
    0.75, 0.95, 40, 0.05, 0.875, 1.25, 0.5, -0.25, [7, 9], [2.5, -9.5], [3, 40, 49109], min_tokens=4
)
OPS: list[engine.Op] = [
    engine.Create(17, PID, "acme", ACCOUNT),
    engine.Fork(18, 17, 1, 32, PID),
    engine.Append(17, 1, [1, 2, 49151]),
    engine.Truncate(17, 1, 2),
    engine.DropTokens(17, 1, 4, 36),
    engine.Reserve(17, 1, 3),
    engine.Commit(17, 1, 2),
    engine.Release(17, 1, 1),
    engine.Pin(17, 1, "briefing", 600.0),
    engine.Unpin(ACCOUNT, "briefing"),
    engine.Prefetch(PID, "acme", ACCOUNT, [1, 2, 49151]),
    engine.Export(17, 1),
    engine.Export(17, 1, True),
    engine.Export(17, 1, True, 12),
    engine.Import(19, PID, "acme", ACCOUNT, 0, 2),
    engine.Flush(17, 1),
    engine.OpenRun(17, 1, 5, SAMPLER, 18446744073709551615, [2, 0], 64, 32),
    engine.Consume(17, 5, 16),
    engine.OpenRun(17, 1, 6, SAMPLER, 7, [], 64, 32, engine.Speculation(3, 12, True), [engine.Output(0, "top", top=5)]),
    engine.OpenRun(17, 1, 7, SAMPLER, 7, [], 64, 32, grammar=engine.Grammar("json-schema", '{"type": "integer"}')),
    engine.PauseRun(17, 5),
    engine.ResumeRun(17, 5),
    engine.CloseRun(17, 5, 20),
    engine.Forward(17, 1, [4], [engine.Output(0, "token", SAMPLER, 99), engine.Output(0, "top", top=5)]),
    engine.SetAdapters(17, 1, [engine.AdapterUse("legal", 0.75), engine.AdapterUse("tone@0f1e2d3c4b5a6978")]),
    engine.Forward(17, 1, [4, 5], [], [9, 12], engine.Mask("runs", runs=[[0, 4, 3, 2], []])),
    engine.Forward(17, 1, [4, 5], [], [], engine.Mask("tree", parents=[-1, -1])),
    engine.Forward(17, 1, [4], [], [], engine.Mask("window", 256, 4)),
    engine.Forward(
        17,
        1,
        [4, 5],
        [
            engine.Output(0, "token", RICH, 99, start=2, stop=[0, 2]),
            engine.Output(1, "token", MASKED),
            engine.Output(1, "logits"),
            engine.Output(1, "logprobs", ids=[7, 8]),
            engine.Output(1, "entropy"),
            engine.Output(1, "hidden"),
        ],
    ),
    engine.Idle(17, True),
    engine.Bid(17, 2.5),
    engine.Suspend(17, 1),
    engine.Verify(17, 1, [4, 5, 6], [-1, 0, -1], engine.Output(0, "token", SAMPLER, 99)),
    engine.Drop(17),
]
ADAPTER = engine.AdapterInfo("legal", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "superseded", 3, 4_866_048, 16, 210)

CASES: list[Case] = [
    # The link's own messages
    _control(link.Hello(1, 0, CLIENT, attempt=1), session=0, name="link.hello for a new session"),
    _control(link.Hello(1, 0, CLIENT, SESSION, 12, 2), name="link.hello to resume"),
    _control(link.Ready(1, 0, GATEWAY, SESSION, 0, 500, 15000, 1), ack=0),
    _control(
        link.Refused(
            ErrorInfo("version_mismatch", "peer speaks major version 2, this side 1: upgrade one", scope="link"), 1
        ),
        session=0,
    ),
    _control(link.Rehello(), session=0),
    _control(link.Beat(13, 991)),
    _control(link.Resend(9)),
    _control(link.Bye(ErrorInfo("peer_lost", "gateway gateway-1 is shutting down", retryable=True, scope="link"))),
    # Replies that belong to no one receiver
    _numbered(Done()),
    _failed("error", ErrorInfo("not_found", "no program named nope: see `pie list`")),
    _failed(
        "error with a cause", ErrorInfo("skipped", "an earlier operation failed", False, "context", "out_of_memory")
    ),
    # To the gateway, and its replies
    _numbered(gateway.Launch(PID, "text-completion@0.1.0", '{"prompt": "Hi"}'), name="gw.launch with defaults"),
    _numbered(
        gateway.Launch(
            PID,
            f"sha256:{SHA}",
            "{}",
            "component",
            "a.wasm",
            False,
            "terminate",
            "drop",
            ASKS,
            GRANTS,
            ["calc"],
            "intro",
        ),
        name="gw.launch with everything",
    ),
    _numbered(gateway.Launched(PID, "text-completion@0.1.0", True)),
    _numbered(gateway.Attach(PID, 10)),
    _numbered(gateway.Attached(PROCESS)),
    _numbered(gateway.Detach(PID)),
    _numbered(gateway.AckEvents([PID, CHILD], [9, 2])),
    _numbered(gateway.Signal(PID, "go on"), name="gw.signal with text"),
    _numbered(gateway.Signal(PID, binary=True), b"\x00\x01\x02", name="gw.signal with bytes"),
    _numbered(gateway.SendFile(PID, CHILD, "notes.txt", 5, 2), b"llo"),
    _numbered(gateway.Terminate(PID, "no longer needed")),
    _numbered(gateway.ListProcesses(True)),
    _numbered(gateway.Processes([PROCESS])),
    _numbered(gateway.Upload(SHA, 5, 0), b"hello"),
    _numbered(gateway.UploadState(5, True)),
    _numbered(gateway.Install(SHA, "python", MANIFEST, True)),
    _numbered(gateway.Installed(PROGRAM)),
    _numbered(gateway.ListInstalled()),
    _numbered(gateway.Programs([PROGRAM])),
    _numbered(gateway.Status()),
    _numbered(gateway.StatusReport([MEMBER], [FACTS], "http://127.0.0.1:8080", 3)),
    _numbered(gateway.ListModelAdapters("smollm2")),
    _numbered(gateway.LoadModelAdapter("style", "/adapters/style")),
    _numbered(gateway.UnloadModelAdapter("style@9f86d081", "smollm2")),
    _numbered(
        gateway.AdapterReport(
            [
                gateway.EngineAdapters("engine-0", "smollm2", [engine.AdapterInfo("style", "9f86d081", size=1 << 20)]),
                gateway.EngineAdapters("engine-1", "smollm2", [], error=ErrorInfo("not_found", "no such folder")),
            ]
        )
    ),
    _numbered(gateway.Topics()),
    _numbered(gateway.DeadMessages("jobs")),
    _numbered(gateway.Purge("jobs", True)),
    _numbered(gateway.Pages()),
    _numbered(gateway.PagesReport([kvstore.EnginePages("engine-1", POOL, [ROW])])),
    _numbered(gateway.Announce(2000, [gateway.RunningProcess(PID, 3, 9, True)], ["acme"])),
    _numbered(gateway.Recovered({PID: 8}, {PID: 5})),
    _numbered(gateway.RunnerLoad(12, 2000, 1.5)),
    _numbered(gateway.LaunchChild(PID, CHILD, "worker@1.0.0", '{"n": 1}', "after-intro", True)),
    _numbered(gateway.DetachChild(PID, CHILD)),
    _numbered(gateway.EndChild(PID, CHILD)),
    _numbered(gateway.Events([PID], [6], EVENTS)),
    _numbered(gateway.AskTool(PID, "calc", "tools/call", '{"name": "add", "arguments": {"a": 1}}')),
    _numbered(gateway.ToolAnswered('{"content": []}')),
    _numbered(client.CallTool(PID, "calc", "tools/list", "{}")),
    # To a client
    _numbered(client.ProcessEvents([PID, CHILD], [6, 1], EVENTS)),
    _numbered(client.Replaced(PID)),
    # To a runner
    _numbered(
        runner.Start(
            PID,
            REF,
            '{"prompt": "Hi"}',
            "hello.py",
            ACCOUNT,
            "drop",
            Capabilities(GRANTS, GRANTS, Capabilities(GRANTS)),
        )
    ),
    _numbered(runner.Deliver(PID, "go on"), name="run.deliver with text"),
    _numbered(runner.Deliver(PID, binary=True), b"\xff", name="run.deliver with bytes"),
    _numbered(runner.DeliverFile(PID, CHILD, "notes.txt", 5, 2), b"llo"),
    _numbered(runner.Kill(PID, "terminated by its owner")),
    _numbered(runner.ChildEnded(PID, CHILD, "42"), name="run.child-ended with a result"),
    _numbered(
        runner.ChildEnded(PID, CHILD, error=ErrorInfo("terminated", "it was killed", scope="process")),
        name="run.child-ended with an error",
    ),
    _numbered(runner.QueuedMessage(PID, 4, 17, "one", 2)),
    _numbered(runner.Broadcasted("acme", "ada", "news", "all", 3)),
    _numbered(runner.Credit([PID], [8], [5])),
    _numbered(
        runner.Step(
            acked=10,
            failed=[runner.OpFailure(3, 17, 2, ErrorInfo("out_of_memory", "larger than the pool", scope="context"))],
            flushed=[5],
            runs=[5, 6],
            counts=[2, 1],
            tokens=[11, 12, 13],
            ends=[
                runner.RunEnd(6, "stop", None, 32, 3, 9, 4),
                runner.RunEnd(7, "error", ErrorInfo("device_error", "NaN")),
            ],
            outputs=[
                runner.ForwardDone(
                    9,
                    [
                        runner.Slot("token", 7),
                        runner.Slot("top", ids=[7, 8], probs=[0.5, 0.25]),
                        runner.Slot("logits", buffer=0),
                        runner.Slot("logprobs", values=[-0.5, -9.5]),
                        runner.Slot("entropy", values=[1.25]),
                        runner.Slot("hidden", buffer=0),
                    ],
                )
            ],
            exports=[runner.Exported(9, 0, 2, 0)],
            probes=[runner.RunProbes(6, [runner.Slot("top", ids=[13, 2], probs=[0.5, 0.25])])],
            receipts=[
                runner.Receipt(17, "evicted", "pressure", "swapped", 40, 3),
                runner.Receipt(18, "restored", "suspend", "recomputed", 32, 0, 1.5),
            ],
            pressure=runner.Pressure("high", 1.25, 1.0),
        ),
        b"\x00\x00\x80\x3f\x00\x00\x00\xbf",
        name="run.step with everything",
    ),
    _numbered(runner.Step(10), name="run.step that only acknowledges"),
    # To an engine
    _numbered(engine.Ops(101, OPS)),
    _numbered(engine.GetModel()),
    _numbered(engine.GetStanding([17, 18])),
    _numbered(engine.Standing(runner.Pressure("medium", 0.875, 0.5), [1.5, 0.0], [12.0, -3.0], 0.0125)),
    _numbered(engine.ModelReply(FACTS, ["tokenizer.json"]), b'{"version": "1.0"}'),
    _numbered(engine.LoadAdapter("legal", "/srv/adapters/legal")),
    _numbered(ADAPTER),
    _numbered(engine.UnloadAdapter("legal@0f1e2d3c4b5a6978")),
    _numbered(engine.ListAdapters()),
    _numbered(engine.AdapterList([ADAPTER], 4_866_048, 1 << 30)),
    # To kvstore, and its replies and pushes
    _numbered(kvstore.Join(MEMBER)),
    _numbered(kvstore.Joined(5, 6000)),
    _numbered(kvstore.Renew(5, {"live": 3, "lag_ms": 0.5, "phase": "ready"})),
    _numbered(kvstore.Leave(5)),
    _numbered(kvstore.Members(9, [MEMBER])),
    _numbered(kvstore.ListMembers()),
    _numbered(kvstore.MemberList([MEMBER])),
    _numbered(kvstore.StatArtifact(SHA)),
    _numbered(kvstore.PutArtifact(SHA, 5, 0), b"hello"),
    _numbered(kvstore.ArtifactState(5, True)),
    _numbered(kvstore.GetArtifact(SHA, 0)),
    _numbered(kvstore.ArtifactChunk(5, 0), b"hello"),
    _numbered(kvstore.InstallProgram(REF, MANIFEST, True)),
    _numbered(kvstore.GetProgram("text-completion")),
    _numbered(kvstore.ProgramRow(PROGRAM)),
    _numbered(kvstore.ListPrograms()),
    _numbered(kvstore.ProgramList([PROGRAM])),
    _numbered(kvstore.PutProcesses([PROCESS])),
    _numbered(kvstore.ListProcessRows()),
    _numbered(kvstore.ProcessList([PROCESS])),
    _numbered(kvstore.PutPages("engine-1", 5, [ROW], [("runner-1", 4, 16)], POOL, True)),
    _numbered(kvstore.ListPages()),
    _numbered(kvstore.PageList([kvstore.EnginePages("engine-1", POOL, [ROW])])),
    _numbered(kvstore.PutSnapshot(SNAPSHOT)),
    _numbered(kvstore.GetSnapshot("after-intro", True)),
    _numbered(kvstore.SnapshotRow(SNAPSHOT)),
    _numbered(kvstore.DeleteSnapshot("after-intro")),
    _numbered(kvstore.LocateSnapshot("after-intro")),
    _numbered(kvstore.SnapshotPlace("smollm2", "engine-1")),
    _numbered(kvstore.PushMessage("jobs", "one", f"{PID}/1")),
    _numbered(kvstore.PullMessage("jobs", PID, 4, [16])),
    _numbered(kvstore.SettleMessages(PID, [17], [18], 0, True)),
    _numbered(kvstore.Broadcast("news", "all")),
    _numbered(kvstore.Subscribe("news")),
    _numbered(kvstore.Unsubscribe("news")),
    _numbered(kvstore.ListTopics()),
    _numbered(kvstore.TopicList([kvstore.TopicInfo("jobs", 3, 1, 2, 1234)])),
    _numbered(kvstore.ListDead("jobs")),
    _numbered(kvstore.DeadList([kvstore.DeadMessage(17, "one", 1764000004.0)])),
    _numbered(kvstore.PurgeTopic("jobs", True)),
    _numbered(kvstore.Purged(5)),
    _numbered(kvstore.ListSnapshots()),
    _numbered(kvstore.SnapshotNames(["after-intro"])),
]
