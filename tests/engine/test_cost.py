"""The cost model learns what steps take, and keeps its promise about chunks."""

from __future__ import annotations

import random

from pie_engine.passes.batch import Load
from pie_engine.schedule.cost import CostModel


def truth(load: Load) -> float:
    return 8.0 + 0.4 * load.rows + 3e-4 * load.slots + 4e-6 * load.area + 0.7 * load.outputs


def trained(noise: float = 0.0) -> CostModel:
    chance = random.Random(2)
    model = CostModel()
    for _ in range(400):
        load = Load()
        for _ in range(chance.randrange(20)):
            load = load.plus(1, chance.randrange(1, 2000), chance.choice([1, 1, 1, 5, 17]))
        if chance.random() < 0.5:
            load = load.plus(chance.randrange(16, 300), chance.randrange(300, 4000), chance.choice([0, 0, 1, 64]))
        model.observe(load, truth(load) * (1 + noise * chance.uniform(-1, 1)))
    return model


def test_estimates_come_close():
    model = trained(noise=0.2)
    for load in (
        Load(1, 256, 0, 1),
        Load(16, 16 * 256, 0, 16),
        Load(16, 16 * 256, 0, 160),
        Load(512, 0, 512 * 512),
        Load(80, 4096, 64 * 2000, 80),
    ):
        assert 0.8 < model.estimate(load) / truth(load) < 1.25


def test_a_chunk_fits_the_time():
    model = trained()
    for first in (0, 500, 4000):
        load = Load(8, 8 * 300, 0)
        rows = model.rows_within(100.0, load, first)
        assert rows > 50
        assert truth(load.plus(rows, first + rows)) < 115
        assert truth(load.plus(rows + 30, first + rows + 30)) > 88


def test_a_chunk_whose_rows_are_asked_fits_the_time_too():
    model = trained()
    rows = model.rows_within(100.0, Load(8, 8 * 300, 0, 8), 500, 0.5)
    assert rows > 30
    assert 85 < truth(Load(8, 8 * 300, 0, 8).plus(rows, 500 + rows, rows // 2)) < 115


def test_no_room_gives_no_rows():
    model = trained()
    assert model.rows_within(100.0, Load(400, 400_000, 0), 0) == 0


def test_one_stalled_step_does_not_ruin_the_estimate():
    model = trained()
    before = model.estimate(Load(1, 256, 0))
    model.observe(Load(1, 256, 0), 10_000.0)
    assert model.estimate(Load(1, 256, 0)) < 5 * before


def test_adapts_when_the_machine_slows_down():
    model = trained()
    for _ in range(300):
        model.observe(Load(16, 4096, 0), 3 * truth(Load(16, 4096, 0)))
    assert model.estimate(Load(16, 4096, 0)) > 2.5 * truth(Load(16, 4096, 0))


def test_steady_load_keeps_the_model_finite():
    model = CostModel()
    for _ in range(20_000):
        model.observe(Load(1, 100, 0), 10.0)
    assert 5 < model.estimate(Load(1, 100, 0)) < 15
    assert model.estimate(Load(1, 100, 0)) == model.estimate(Load(1, 100, 0))
