"""Figures of a study: that they show the study's own numbers, by literal computations from its files."""

import json
import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from lfvd.training.metrics import confusion_matrix, weighted_f1
from tests.helpers import invented
from tune.analysis.importance import Importance
from tune.report import figures, result_figures
from tune.report.compute_time import Hours, hours_of
from tune.report.figures import BLUE, GREY, ending
from tune.search.asha import Rungs
from tune.search.trials import ranked
from tune.study.predictions import Predictions
from tune.study.study import OBJECTIVE, Study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """A whole study. Not to be changed."""
    return invented.whole(tmp_path_factory.mktemp("figures") / "demo")


@pytest.fixture(scope="module")
def young(tmp_path_factory) -> Study:
    """A study in its first trial."""
    study = invented.begin(tmp_path_factory.mktemp("figures") / "young")
    invented.search(study, epochs=3)
    return study


def epochs_of(study: Study) -> dict[int, list[dict]]:
    """Literally what epochs.jsonl says of the search, by trial."""
    found: dict[int, list[dict]] = {}
    for line in (study.folder / "epochs.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["stage"] == "search":
            found.setdefault(record["trial"], []).append(record)
    return found


def test_history_is_by_the_studys_own_numbers(study):
    """Failed trials are left out, and shift nobody's number."""
    best, each = figures.history(study).data
    failed = {t.number for t in study.trials if t.state == TrialState.FAIL}
    assert failed
    assert list(each.x) == [n for n in range(40) if n not in failed]
    scores = {n: 100 * records[-1][OBJECTIVE] for n, records in epochs_of(study).items()}
    assert list(each.y) == pytest.approx([scores[n] for n in each.x], rel=1e-12)
    line = dict(zip(best.x, best.y, strict=True))
    assert [line[n] for n in each.x] == pytest.approx(np.maximum.accumulate([scores[n] for n in each.x]), rel=1e-12)


def test_learning_curves(study):
    """Every epoch of every trial is there once, under how the trial ended; the rungs are where ASHA has them."""
    figure = figures.learning_curves(study)
    shown = {}
    for trace in figure.data:
        for number, epoch, value in zip(trace.customdata, trace.x, trace.y, strict=True):
            if not math.isnan(epoch):
                shown[int(number), int(epoch)] = (trace.name, value)
    expected = {(n, r["epoch"]): 100 * r[OBJECTIVE] for n, records in epochs_of(study).items() for r in records}
    assert shown.keys() == expected.keys()
    ends = {t.number: ending(t) for t in study.trials}
    counts = {name: sum(end == name for end in ends.values()) for name in ends.values()}
    assert {"finished", "failed", "stopped by hand", "stopped at rung 2"} <= counts.keys()
    for (number, _), (name, _) in shown.items():
        assert name == f"{ends[number]} ({counts[ends[number]]})"
    assert [shown[key][1] for key in expected] == pytest.approx(list(expected.values()), rel=1e-6)
    assert [line.x0 for line in figure.layout.shapes] == sorted(Rungs(study.plan.scheduler).values) == [2, 6, 18]
    colours = [trace.line.color for trace in figure.data]
    assert len(set(colours)) == len(colours)


def test_a_gap_lies_between_two_curves(study):
    for trace in figures.learning_curves(study).data:
        inside = [a == b for a, b in zip(trace.customdata, trace.customdata[1:], strict=False)]
        joined = [not math.isnan(a) and not math.isnan(b) for a, b in zip(trace.x, trace.x[1:], strict=False)]
        assert all(same for same, together in zip(inside, joined, strict=True) if together)


def test_endings():
    def told(state, **attributes):
        value = 0.5 if state == TrialState.COMPLETE else None
        return ending(create_trial(state=state, value=value, user_attrs=attributes))

    assert told(TrialState.COMPLETE) == "finished"
    assert told(TrialState.PRUNED, stopped="rung 9: 0.4 below 0.5") == "stopped at rung 9"
    assert told(TrialState.PRUNED, stopped="pruned by hand") == "stopped by hand"
    assert told(TrialState.FAIL, failure="NonFiniteLoss") == "failed"
    assert told(TrialState.RUNNING) == "unfinished"


def test_importance_bars():
    found = [Importance(key="b", share=0.75, chance=0.3), Importance(key="a", share=0.25, chance=0.4)]
    bars, chance = figures.importance_bars(found).data
    assert (list(bars.y), list(bars.x), list(bars.marker.color)) == (["a", "b"], [25.0, 75.0], [GREY, BLUE])
    assert (list(chance.y), list(chance.x)) == (["a", "b"], [40.0, 30.0])
    assert figures.importance_bars([]) is None


def test_slices(study):
    """A point a trial, with the range that was searched as axis, and the marked trials on their values."""
    drawn = figures.slices(study, list(study.plan.space), {"winner": 22, "baseline": 0})
    assert list(drawn) == list(study.plan.space)
    trials = {t.number: t for t in ranked(study)}
    scores = {n: 100 * max(t.intermediate_values.values()) for n, t in trials.items()}
    for key, figure in drawn.items():
        points, winner, baseline = figure.data
        texts = str if key == "model.heads" else float
        wanted = sorted((texts(t.params[key]), scores[n]) for n, t in trials.items())
        shown = sorted(zip(points.x, points.y, strict=True))
        assert [x for x, _ in shown] == [x for x, _ in wanted]
        assert [y for _, y in shown] == pytest.approx([y for _, y in wanted], rel=1e-12)
        assert (winner.x[0], winner.y[0]) == (texts(trials[22].params[key]), pytest.approx(scores[22]))
        assert (baseline.x[0], baseline.marker.symbol) == (texts(trials[0].params[key]), "diamond-open")
    lr, heads = drawn["optim.lr"].layout.xaxis, drawn["model.heads"].layout.xaxis
    assert lr.type == "log"
    assert lr.range[0] < -5 < -2 < lr.range[1]
    assert list(lr.ticktext) == ["1e-05", "0.0001", "0.001", "0.01"]
    assert list(heads.categoryarray) == ["1", "2", "4", "8"]


def test_slices_of_words(tmp_path):
    """Choices that are words or truth values stand on one axis with the marked trial, without quotes."""
    space = {"model.fusion": {"choices": ["variational", "add"]}, "model.attention": {"choices": [True, False]}}
    study = invented.begin(tmp_path / "words", space={**space, "optim.lr": {"low": 1e-4, "high": 1e-2}}, trials=8)
    invented.search(study, by_hand=None)
    drawn = figures.slices(study, list(space), {"baseline": 0})
    for key, figure in drawn.items():
        points, baseline = figure.data
        assert (
            set(points.x) == {str(choice) for choice in space[key]["choices"]} == set(figure.layout.xaxis.categoryarray)
        )
        assert baseline.x[0] in points.x


def test_parallel_shows_the_best_and_them_on_top(study, monkeypatch):
    monkeypatch.setattr(figures, "MOST_LINES", 7)
    figure = figures.parallel(study)
    scores = sorted((100 * max(t.intermediate_values.values()) for t in ranked(study)), reverse=True)[:7]
    assert len(figure.data) == 7
    shown = [float(line.customdata[0][1]) for line in figure.data]
    assert shown == pytest.approx(scores[::-1], abs=0.1)  # Optuna writes three digits
    assert [name.replace("<br>", "") for name in figure.layout.xaxis.ticktext][1:] == sorted(study.plan.space)
    at = [(text.x, text.y) for text in figure.layout.annotations]
    assert all(abs(a[1] - b[1]) > 0.05 for i, a in enumerate(at) for b in at[:i] if a[0] == b[0])


def test_expected_best_by_hours():
    """k trials cost k times the mean; a band stands on each side of the line."""
    hours = Hours(unit="GPU-hours", trials={0: 1.0, 1: 2.0, 2: 6.0}, confirmation=9.0)
    low, high, mean = figures.expected({"a": ([40.0, 50.0, 60.0], hours)}, by_hours=True).data
    assert list(mean.x) == pytest.approx([3.0, 6.0, 9.0])
    best = [
        np.mean([max(draw) for draw in np.array(np.meshgrid(*[[40, 50, 60]] * k)).reshape(k, -1).T]) for k in (1, 2, 3)
    ]
    assert list(mean.y) == pytest.approx(best, rel=1e-12)
    assert all(a <= m <= b for a, m, b in zip(low.y, mean.y, high.y, strict=True))
    by_trials = figures.expected({"a": ([40.0, 50.0, 60.0], hours)}, by_hours=False)
    assert list(by_trials.data[2].x) == [1, 2, 3]


def test_hours_of_different_kinds_are_not_called_gpu_hours():
    gpu, cpu = (Hours(unit=unit, trials={0: 1.0}, confirmation=0.0) for unit in ("GPU-hours", "core-hours"))
    title = figures.expected({"a": ([1.0], gpu), "b": ([2.0], cpu)}, by_hours=True).layout.xaxis.title.text
    assert title == "hours of a GPU or of a core of search"


def test_hours(tmp_path):
    study = invented.begin(tmp_path / "cores", resources={"cpu": 2})
    study.append_epoch("search", 0, 1, {"epoch": 1, "seconds": 1800.0})
    study.append_epoch("search", 0, 1, {"epoch": 2, "seconds": 3600.0})
    study.append_epoch("confirm", 0, 1, {"epoch": 1, "seconds": 900.0})
    assert hours_of(study) == Hours(unit="core-hours", trials={0: 3.0}, confirmation=0.5)
    gpus = invented.begin(tmp_path / "gpus", resources={"cpu": 2, "gpu": 0.25})
    gpus.append_epoch("search", 4, 1, {"epoch": 1, "seconds": 7200.0, "gpu": 0.25})
    assert hours_of(gpus) == Hours(unit="GPU-hours", trials={4: 0.5}, confirmation=0.0)


def test_too_little_to_draw(young, tmp_path):
    """One trial, or trials that are all alike, make no plot of Optuna's."""
    assert figures.history(young) is figures.parallel(young) is None
    assert figures.slices(young, ["optim.lr"], {}) == {}
    assert [trace.name for trace in figures.learning_curves(young).data] == ["unfinished (1)"]
    assert figures.learning_curves(invented.begin(tmp_path / "empty")) is None


def test_optunas_warnings_stay_with_its_developers(study, recwarn):
    figures.parallel(study)
    figures.slices(study, ["optim.lr"], {})
    figures.history(study)
    assert not [w for w in recwarn if issubclass(w.category, optuna.exceptions.ExperimentalWarning)]


def simple() -> Predictions:
    """Two seeds, six utterances of dialogues of 2 and 4, one of them unlabelled."""
    return Predictions(
        seeds=np.array([0, 1]),
        classes=np.array(["calm", "<b>", "sad"]),
        modalities=np.array(["l", "a", "v"]),
        length_bins=np.array([2, 9]),
        label=np.array([0, 1, 0, -1, 1, 1]),
        dialogue=np.array([0, 0, 1, 1, 1, 1]),
        length=np.array([2, 2, 4, 4, 4, 4]),
        prediction=np.array([[0, 1, 0, 2, 1, 0], [0, 0, 0, 2, 0, 0]]),
        weight=np.stack([np.ones((2, 6)), np.arange(12).reshape(2, 6) / 20 + 0.5, np.full((2, 6), 0.5)], -1),
    )


def test_wf1_by_length():
    figure = result_figures.wf1_by_dialogue_length({"winner": simple()})
    [trace] = figure.data
    label, prediction = simple().label, simple().prediction
    for bin_number, chosen in enumerate([[0, 1], [2, 4, 5]]):
        each = [100 * weighted_f1(confusion_matrix(label[chosen], row[chosen], 3)) for row in prediction]
        assert trace.y[bin_number] == pytest.approx(np.mean(each))
        half = 12.706 * np.std(each, ddof=1) / math.sqrt(2)  # t of one degree of freedom
        assert trace.error_y.array[bin_number] == pytest.approx(half, rel=1e-4)
    assert list(figure.layout.xaxis.ticktext) == ["≤2", "3-9"]
    bare = Predictions(**{**vars(simple()), "length_bins": np.array([], int)})
    assert result_figures.wf1_by_dialogue_length({"winner": bare}) is None


def test_fusion_weights():
    """By true class, over all seeds, unlabelled utterances and the anchor left out."""
    figure = result_figures.fusion_weights(simple())
    audio, visual = figure.data
    assert (audio.name, visual.name) == ("audio (wᵃ)", "visual (wᵛ)")
    weight = simple().weight[:, :, 1]
    assert list(audio.y) == pytest.approx([weight[:, [0, 2]].mean(), weight[:, [1, 4, 5]].mean()])
    assert list(visual.y) == [0.5, 0.5]
    low = np.quantile(weight[:, [0, 2]], 0.1)
    assert audio.y[0] - audio.error_y.arrayminus[0] == pytest.approx(low)
    assert list(figure.layout.xaxis.ticktext) == ["calm", "&lt;b&gt;"], "a class without utterances has no weights"
    alone = Predictions(**{**vars(simple()), "weight": np.ones((2, 6, 3))})
    assert result_figures.fusion_weights(alone) is None


def test_f1_by_class():
    rows = {
        "winner": [{"f1/a": 0.5, "f1/b": 0.2}, {"f1/a": 0.7, "f1/b": 0.2}],
        "baseline": [{"f1/a": 0.1, "f1/b": 0.0}],
    }
    winner, baseline, paper = result_figures.f1_by_class(rows, ["a", "b"], {"b": 33.0}, split="test").data
    assert list(winner.x) == pytest.approx([20.0, 60.0]), "the first class on top"
    assert winner.error_x.array[0] == pytest.approx(0)
    assert winner.error_x.array[1] == pytest.approx(12.706 * 10 * math.sqrt(2) / math.sqrt(2), rel=1e-4)
    assert list(baseline.x) == pytest.approx([0.0, 10.0])
    assert list(baseline.error_x.array) == [0.0, 0.0], "one seed has no interval"
    assert (list(paper.x), list(paper.y)) == ([33.0], [0])


def test_finalists_by_seed(study):
    from tune.search.confirmation import ranking

    order = ranking(study)
    rows = {result_figures.name_of(each.trial, order[0].trial): (study, each) for each in order}
    points, means, search = result_figures.by_seed(rows).data
    runs = {(run["trial"], run["seed"]): 100 * run["val/wf1"] for run in study.confirmed()}
    assert sorted(points.x) == pytest.approx(sorted(runs.values()))
    for name, (_, each) in rows.items():
        place = list(means.y).index(name)
        assert means.x[place] == pytest.approx(np.mean([runs[each.trial, seed] for seed in each.seeds]))
        trial = study.trials[each.trial]
        assert search.x[list(search.y).index(name)] == pytest.approx(100 * max(trial.intermediate_values.values()))
    low, high = result_figures.by_seed(rows).layout.xaxis.range
    dropped = [each for each in order if len(each.seeds) < 5]
    assert dropped, "else nothing runs out of the frame"
    assert low < min(*points.x, *search.x) < max(*points.x, *search.x) < high < low + 10
    assert next(iter(rows)) == f"trial {order[0].trial} (winner)"
    assert "trial 0 (baseline)" in rows
    assert result_figures.name_of(0, 0) == "trial 0 (winner, baseline)"
