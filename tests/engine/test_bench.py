"""`pie bench engine` measures the engine it says it measures, and nothing when it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from pie_bench import engine as bench_engine
from pie_bench.engine import EngineReport
from pie_engine.bench import attending, figures, rival
from pie_engine.bench.baseline import Gemms, Shapes
from pie_engine.bench.cases import CASES, Case, measure
from pie_engine.bench.driven import drive
from pie_engine.bench.stand import stand
from pie_engine.bench.traffic import Decodes, Tokens
from pie_engine.config import EngineConfig
from pie_wire.errors import BadField, InternalError, NotFound

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 128,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of a tiny random Llama."""
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bench(folder):
    with stand(EngineConfig(model=str(folder), kv_memory="4MiB", step_ms=60_000.0)) as made:
        yield made


@pytest.mark.parametrize(
    "case",
    [
        Case("one", 1.0, 1.0, decodes=1, context=40),
        Case("shared", 1.0, 1.0, decodes=3, context=60, shared=32),
        Case("prompt", 1.0, 1.0, prompt=50),
        Case("mixed", 1.0, 1.0, decodes=3, context=40, prompt=50),
    ],
    ids=lambda case: case.name,
)
def test_a_case_has_the_rows_it_says(bench, folder, case):
    figures = measure(case, bench, folder, 2).as_json()
    assert figures["rows"] == case.decodes + case.prompt
    assert figures["ratio"] == pytest.approx(figures["ms_per_step"] / figures["gemm_ms"], rel=0.02)
    assert len(figures["step_samples"]) == len(figures["gemm_samples"])
    assert figures["peak_rss_mb"] > 50
    assert ("over_apart" in figures) == case.is_mixed
    assert 0 < figures["core_ms"] < figures["ms_per_step"]
    bench.core.check_integrity()


def test_a_pass_of_other_rows_is_no_measurement(bench):
    decodes = Decodes(bench, Tokens(128, "two"), 2, 20, steps=4)
    decodes.open(window=1)
    decodes.step()
    bench.step()
    with pytest.raises(InternalError, match="0 rows instead of 2"):
        Decodes.expect(bench.step(), 2)
    decodes.close()


def test_figures_beside_the_table(bench, monkeypatch):
    monkeypatch.setattr(figures, "_CONTEXT", 48)
    monkeypatch.setattr(figures, "_REQUESTS", 5)
    made = {figure.name: figure for figure in figures.prefix_figures(bench, 1)}
    real = bench.execute
    made |= {figure.name: figure for figure in figures.core_figures(bench, 1)}
    bench.execute = real
    monkeypatch.setattr(figures, "_VOCABULARIES", ((100, 1.0),))
    for group in (figures.sampler_figures, figures.swap_figures):
        made |= {figure.name: figure for figure in group(bench, 1)}
    made |= {figure.name: figure for figure in figures.adapter_figures(bench, 1)}
    monkeypatch.setattr(attending, "_LOADS", attending._LOADS[:1])
    made |= {figure.name: figure for figure in figures.attention_figures(bench, 1)}
    assert "attention-b16-c256" in made
    assert {"decode-b16-lora-0", "lora-1-over-none", "lora-4-over-none"} <= made.keys()
    assert {
        "schedule-b64",
        "fork-1024",
        "cancel-run",
        "prefix-hit-over-decode",
        "sampler-b64-v100",
        "swap-64-pages-out",
    } <= made.keys()
    assert all(figure.value > 0 for figure in made.values())
    bench.core.check_integrity()


def test_transformers_beside_the_engine(bench, folder, monkeypatch):
    monkeypatch.setattr(rival, "_BATCHES", (2,))
    monkeypatch.setattr(rival, "_NEW", 3)
    (made,) = rival.compare(bench, folder, 1)
    assert made.name == "generate-b2"
    assert made.ratio == pytest.approx(made.transformers_ms / made.engine_ms, rel=0.02)


def test_the_baseline_has_all_linears_of_the_model(folder):
    shapes = Shapes.read(folder)
    assert shapes.linears == [(128, 64), (64, 64), (192, 64), (64, 96)]
    threads = torch.get_num_threads()
    gemms = Gemms(shapes, rows=3, outputs=2)
    assert len(gemms.milliseconds(2)) == 2
    assert gemms.threads >= 1
    assert torch.get_num_threads() == threads


def test_the_cases_are_those_of_the_table():
    assert [case.name for case in CASES] == [
        "decode-b1-c256",
        "decode-b16-c256",
        "decode-b64-c256",
        "decode-b16-c1024",
        "decode-b64-c1024",
        "decode-b32-shared1024",
        "prefill-512",
        "prefill-2048",
        "mixed-b16-prefill-512",
    ]


def report() -> EngineReport:
    case = {
        "name": "decode",
        "ms_per_step": 2.0,
        "gemm_ms": 1.0,
        "ratio": 2.0,
        "paired_ratio": 2.1,
        "tokens_per_s": 500.0,
        "peak_rss_mb": 80.0,
        "must": 1.5,
        "wanted": 1.2,
    }
    mixed = case | {"name": "mixed", "apart_ms": 1.9, "over_apart": 1.05}
    figure = {"name": "fork", "value": 52.5, "unit": "us", "must": 100.0}
    rival = {"name": "generate-b1", "engine_ms": 100.0, "transformers_ms": 250.0, "ratio": 2.5}
    return EngineReport([case, mixed], [figure], [rival], {"model": "tiny"})


def test_a_report_is_one_json_object(capsys, tmp_path):
    report().show(as_json=True, output=tmp_path / "kept.json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "kept.json").read_text())
    assert {"name", "ms_per_step", "gemm_ms", "ratio", "tokens_per_s", "peak_rss_mb"} <= printed["cases"][0].keys()
    assert {"machine", "versions", "setup", "taken_at"} <= printed.keys()


def test_a_report_is_a_table_for_people(capsys):
    report().show(as_json=False, output=None)
    shown = capsys.readouterr().out
    assert "1.50/1.20" in shown
    assert "over its halves" in shown
    assert "52.5 us  (at most 100)" in shown
    assert "2.50 times as fast" in shown


def test_what_cannot_be_measured_is_refused(monkeypatch, folder):
    with pytest.raises(NotFound, match="pie model pull"):
        bench_engine.model_folder("no-such-model")
    monkeypatch.setattr(bench_engine, "known_names", lambda: {"cases": ["one"], "groups": ["core"]})
    with pytest.raises(BadField, match="choose from one, core"):
        bench_engine.measure(str(folder), ["three"], rounds=1, threads=0, rival=False, progress=str)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InternalError, match="case one failed"):
        bench_engine.measure(str(folder), ["one"], rounds=1, threads=0, rival=False, progress=str)


@pytest.mark.parametrize("lockstep", [False, True])
def test_generations_are_driven_without_the_services(bench, lockstep):
    asked = json.dumps({"streams": 3, "prompt": 5, "tokens": 4, "lockstep": lockstep})

    (answer,) = drive(bench, [asked])

    figures = json.loads(answer)
    assert figures["ms_per_token"] > 0
    assert figures["engine_us_per_token"] > 0
    assert bench.step().rows == 0


def test_a_stream_of_one_token_has_no_pace(bench):
    with pytest.raises(BadField, match="two tokens"):
        next(drive(bench, [json.dumps({"streams": 1, "prompt": 5, "tokens": 1, "lockstep": False})]))
