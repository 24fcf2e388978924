"""What the benchmarks recorded holds together: exact counts are counted again, replays choose as they should."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"
RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def benchmark(monkeypatch):
    """A module of tests/benchmarks, by name."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return lambda name: __import__(name)


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads((RESULTS / "benchmarks.json").read_text())


@pytest.mark.parametrize("shape", ["16x60x4x300", "32x24x2x300"])
def test_operations_are_those_of_today(benchmark, recorded, shape):
    """The width does not matter to their number."""
    dag = benchmark("dag")
    b, n, layers, _ = dag.SHAPES[shape]
    counted = dag.count(b, n, layers, width=4, device="cpu")
    assert recorded["dag"][shape]["launches"] == counted
    assert recorded["dag"][shape]["launch_ratio"] == round(counted["literal"] / counted["ours"], 1)


def test_every_goal_was_measured(benchmark, recorded):
    bench = benchmark("bench")
    found = dict(bench.leaves(recorded))
    assert bench.GOALS.keys() <= found.keys()
    for part in bench.PARTS:
        assert {"commit", "versions", "machine"} <= recorded[part]["measured"].keys()


def test_recorded_curves_are_whole(benchmark):
    curves = benchmark("curves")
    for repetition in curves.REPETITIONS:
        random = curves.group(f"random {repetition}")
        assert [run["number"] for run in random] == list(range(curves.CONFIGS))
        assert {len(run["wf1"]) for run in random} == {curves.EPOCHS}
        orders = sorted(order for run in curves.group(f"search {repetition}") for order in run["order"])
        assert orders == list(range(len(orders)))
        searched = curves.group(f"search {repetition}")
        assert searched
        for name in (f"random {repetition} best", f"search {repetition} trial {curves.incumbent(searched)['number']}"):
            assert [run["number"] for run in curves.group(name)] == list(curves.SEEDS)


def test_replay_of_asha_by_hand(benchmark):
    """Two slots, rungs at 1 and 2 epochs, half go on: the third curve is stopped at its first epoch."""
    efficiency = benchmark("efficiency")
    scheduler = efficiency.SchedulerPlan(kind="asha", grace_epochs=1, reduction=2, max_epochs=3)
    curves = [np.array([0.5, 0.6, 0.7]), np.array([0.6, 0.6, 0.6]), np.array([0.1, 0.9, 0.9])]
    assert efficiency.asha(curves, scheduler, np.maximum.accumulate, 99) == (3 + 3 + 1, 0)
    assert efficiency.asha(curves, scheduler, np.maximum.accumulate, 2) == (2, 1)
    whole = efficiency.SchedulerPlan(kind="none", max_epochs=3)
    assert efficiency.asha(curves, whole, np.maximum.accumulate, 99) == (9, 2)


def test_values_that_rungs_may_see(benchmark):
    values = benchmark("efficiency").VALUES
    wf1 = np.array([0.3, 0.9, 0.3, 0.6])
    assert values["best so far"](wf1) == pytest.approx([0.3, 0.9, 0.9, 0.9])
    assert values["last"](wf1) == pytest.approx(wf1)
    assert values["best mean of three"](wf1) == pytest.approx([0.3, 0.6, 0.6, 0.6])
