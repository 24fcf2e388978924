"""Figures of a search show the study's own numbers, by literal computations from its files."""

import json
import math

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from tests.helpers import invented
from tune.analysis.importance import Importance, finished_search
from tune.report import search_figures
from tune.report.compute_time import ComputeTime, compute_time
from tune.report.search_figures import BLUE, GREY, ending
from tune.search.asha import Rungs
from tune.search.confirmation import ranking
from tune.study.study import OBJECTIVE


@pytest.fixture(scope="module")
def epochs(whole) -> dict[int, list[dict]]:
    """Literally what epochs.jsonl has of the search, by trial."""
    found: dict[int, list[dict]] = {}
    for line in (whole.folder / "epochs.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["stage"] == "search":
            found.setdefault(record["trial"], []).append(record)
    return found


@pytest.fixture(scope="module")
def scores(whole, epochs) -> dict[int, float]:
    """Percent that each trial reached, without failed ones."""
    failed = {t.number for t in whole.trials if t.state == TrialState.FAIL}
    assert failed
    return {n: 100 * records[-1][OBJECTIVE] for n, records in epochs.items() if n not in failed}


def test_history_has_the_studys_own_numbers(whole, scores):
    """Failed trials are left out, and shift nobody's number."""
    each, best = search_figures.history(finished_search(whole)).data[:2]
    points = {n: y for n, y in zip(each.x, each.y, strict=True) if not math.isnan(y)}
    assert points == pytest.approx(scores)
    line = dict(zip(best.x, best.y, strict=True))
    assert [line[n] for n in points] == pytest.approx(list(np.maximum.accumulate(list(scores.values()))))


def test_learning_curves(whole, epochs):
    """Every epoch of every trial is there once, under how the trial ended; the rungs are where ASHA has them."""
    figure = search_figures.learning_curves(whole)
    shown = {}
    for trace in figure.data:
        for number, epoch, value in zip(trace.customdata, trace.x, trace.y, strict=True):
            if not math.isnan(epoch):
                shown[int(number), int(epoch)] = (trace.name, value)
    expected = {(n, r["epoch"]): 100 * r[OBJECTIVE] for n, records in epochs.items() for r in records}
    assert shown.keys() == expected.keys()
    ends = {t.number: ending(t) for t in whole.trials}
    counts = {name: sum(end == name for end in ends.values()) for name in ends.values()}
    assert {"finished", "failed", "stopped by hand", "stopped at rung 2"} <= counts.keys()
    for (number, _), (name, _) in shown.items():
        assert name == f"{ends[number]} ({counts[ends[number]]})"
    assert [shown[key][1] for key in expected] == pytest.approx(list(expected.values()), rel=1e-6)
    assert [line.x0 for line in figure.layout.shapes] == sorted(Rungs(whole.plan.scheduler).values) == [2, 6, 18]
    colours = [trace.line.color for trace in figure.data]
    assert len(set(colours)) == len(colours)


def test_a_gap_lies_between_two_curves(whole):
    for trace in search_figures.learning_curves(whole).data:
        inside = [a == b for a, b in zip(trace.customdata, trace.customdata[1:], strict=False)]
        joined = [not math.isnan(a) and not math.isnan(b) for a, b in zip(trace.x, trace.x[1:], strict=False)]
        assert all(same for same, together in zip(inside, joined, strict=True) if together)


@pytest.mark.parametrize(
    ("state", "attributes", "expected"),
    [
        (TrialState.COMPLETE, {}, "finished"),
        (TrialState.PRUNED, {"stopped": "rung 9: 0.4 below 0.5"}, "stopped at rung 9"),
        (TrialState.PRUNED, {"stopped": "pruned by hand"}, "stopped by hand"),
        (TrialState.FAIL, {"failure": "NonFiniteLoss"}, "failed"),
        (TrialState.RUNNING, {}, "unfinished"),
    ],
)
def test_endings(state, attributes, expected):
    value = 0.5 if state == TrialState.COMPLETE else None
    assert ending(create_trial(state=state, value=value, user_attrs=attributes)) == expected


def test_importance_bars():
    found = [Importance(key="b", share=0.75, chance=0.3), Importance(key="a", share=0.25, chance=0.4)]
    bars, chance = search_figures.importance_bars(found).data
    assert (list(bars.y), list(bars.x), list(bars.marker.color)) == (["a", "b"], [25.0, 75.0], [GREY, BLUE])
    assert (list(chance.y), list(chance.x)) == (["a", "b"], [40.0, 30.0])
    assert search_figures.importance_bars([]) is None


def test_slices(whole, scores):
    """A point a trial, the searched range as axis, and winner and baseline on their values."""
    order = ranking(whole)
    roles = {"winner": order[0], "baseline": next(each for each in order if each.trial == 0)}
    drawn = search_figures.slices(whole, finished_search(whole), list(whole.plan.space), roles)
    assert list(drawn) == list(whole.plan.space)
    for key, figure in drawn.items():
        points, winner, baseline = figure.data
        text = repr if key == "model.heads" else float
        expected = sorted((text(whole.trials[n].params[key]), score) for n, score in scores.items())
        shown = sorted(zip(points.x, points.y, strict=True))
        assert [x for x, _ in shown] == [x for x, _ in expected]
        assert [y for _, y in shown] == pytest.approx([y for _, y in expected])
        for mark, number in ((winner, order[0].trial), (baseline, 0)):
            value = text(whole.trials[number].params[key])
            assert (mark.x[0], mark.y[0]) == (value, pytest.approx(scores[number]))
        assert baseline.marker.symbol == "diamond-open"
    lr, heads = drawn["optim.lr"].layout.xaxis, drawn["model.heads"].layout.xaxis
    assert lr.type == "log"
    assert lr.range[0] < -5 < -2 < lr.range[1]
    assert list(heads.ticktext) == list(heads.tickvals) == ["1", "2", "4", "8"]


def test_slices_of_words(tmp_path):
    """Choices that are words or truth values stand on one axis with the marked trial, without quotes."""
    space = {"model.fusion": {"choices": ["variational", "add"]}, "model.attention": {"choices": [True, False]}}
    study = invented.begin(
        tmp_path / "words",
        space={**space, "optim.lr": {"low": 1e-4, "high": 1e-2}},
        trials=8,
        confirm={"folds": 0, "finalists": 1, "seeds": [0], "race": False},
    )
    invented.search(study, by_hand=None, failing=())
    invented.confirm(study)
    drawn = search_figures.slices(study, finished_search(study), list(space), {"baseline": ranking(study)[-1]})
    for key, figure in drawn.items():
        points, mark = figure.data
        assert set(points.x) == set(figure.layout.xaxis.tickvals) == set(figure.layout.xaxis.categoryarray)
        assert mark.x[0] in points.x
        assert list(figure.layout.xaxis.ticktext) == [str(choice) for choice in space[key]["choices"]]


def test_parallel_coordinates(whole, scores):
    figure = search_figures.parallel(finished_search(whole))
    shown = sorted(float(line.customdata[0][1]) for line in figure.data)
    assert shown == pytest.approx(sorted(scores.values()), abs=0.1)  # Optuna writes three digits
    assert [name.replace("<br>", "") for name in figure.layout.xaxis.ticktext][1:] == sorted(whole.plan.space)


def test_expected_best_by_hours():
    """k trials cost k times the mean; a band stands on each side of the line."""
    compute = ComputeTime(unit="GPU-hours", trials=3, search=9.0, confirmation=9.0)
    low, high, mean = search_figures.expected({"a": ([40.0, 50.0, 60.0], compute)}, by_hours=True).data
    assert list(mean.x) == pytest.approx([3.0, 6.0, 9.0])
    draws = [np.array(np.meshgrid(*[[40, 50, 60]] * k)).reshape(k, -1) for k in (1, 2, 3)]
    assert list(mean.y) == pytest.approx([draw.max(0).mean() for draw in draws])
    assert all(a <= m <= b for a, m, b in zip(low.y, mean.y, high.y, strict=True))
    assert list(search_figures.expected({"a": ([40.0, 50.0, 60.0], compute)}).data[2].x) == [1, 2, 3]


def test_hours_of_different_kinds_are_not_called_gpu_hours():
    gpu, cpu = (ComputeTime(unit=unit, trials=1, search=1.0, confirmation=0.0) for unit in ("GPU-hours", "core-hours"))
    title = search_figures.expected({"a": ([1.0], gpu), "b": ([2.0], cpu)}, by_hours=True).layout.xaxis.title.text
    assert title == "hours of a GPU or of a core of search"


def test_compute_time(tmp_path):
    study = invented.begin(tmp_path / "cores", resources={"cpu": 2})
    study.log_epoch("search", 0, 1, {"epoch": 1, "seconds": 1800.0})
    study.log_epoch("search", 0, 1, {"epoch": 2, "seconds": 3600.0})
    study.log_epoch("confirm", 0, 1, {"epoch": 1, "seconds": 900.0})
    assert compute_time(study) == ComputeTime(unit="core-hours", trials=1, search=3.0, confirmation=0.5)
    gpus = invented.begin(tmp_path / "gpus", resources={"cpu": 2, "gpu": 0.25})
    gpus.log_epoch("search", 4, 1, {"epoch": 1, "seconds": 7200.0, "gpu": 0.25})
    assert compute_time(gpus) == ComputeTime(unit="GPU-hours", trials=1, search=0.5, confirmation=0.0)


def test_too_little_to_draw(tmp_path):
    study = invented.begin(tmp_path / "young")
    assert search_figures.learning_curves(study) is None
    invented.search(study, epochs=3)
    assert [trace.name for trace in search_figures.learning_curves(study).data] == ["unfinished (1)"]
