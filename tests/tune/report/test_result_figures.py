"""Figures of the confirmation and the test, by literal computations from predictions and scores."""

import json
import math

import numpy as np
import plotly.graph_objects as go
import pytest

from lfvd.training.metrics import confusion_matrix, weighted_f1
from tune.report import result_figures
from tune.report.page import _figure_json
from tune.search.confirmation import ranking
from tune.study.predictions import Predictions

T = 12.706
"""97.5 % of the t distribution with one degree of freedom."""


def simple(**changes) -> Predictions:
    """Two seeds, six utterances of dialogues of 2 and 4, one of them unlabelled."""
    values = {
        "seeds": np.array([0, 1]),
        "classes": np.array(["calm", "<b>", "sad"]),
        "modalities": np.array(["l", "a", "v"]),
        "length_bins": np.array([2, 9]),
        "label": np.array([0, 1, 0, -1, 1, 1]),
        "dialogue": np.array([0, 0, 1, 1, 1, 1]),
        "length": np.array([2, 2, 4, 4, 4, 4]),
        "prediction": np.array([[0, 1, 0, 2, 1, 0], [0, 0, 0, 2, 0, 0]]),
        "weight": np.stack([np.ones((2, 6)), np.arange(12).reshape(2, 6) / 20 + 0.5, np.full((2, 6), 0.5)], -1),
    }
    return Predictions(**{**values, **changes})


def test_wf1_by_length():
    figure = result_figures.wf1_by_dialogue_length({"winner": simple()})
    [trace] = figure.data
    label, prediction = simple().label, simple().prediction
    for bin_number, chosen in enumerate([[0, 1], [2, 4, 5]]):
        each = [100 * weighted_f1(confusion_matrix(label[chosen], row[chosen], 3)) for row in prediction]
        assert trace.y[bin_number] == pytest.approx(np.mean(each))
        assert trace.error_y.array[bin_number] == pytest.approx(T * np.std(each, ddof=1) / math.sqrt(2), rel=1e-4)
    assert list(figure.layout.xaxis.ticktext) == ["≤2", "3-9"]
    assert result_figures.wf1_by_dialogue_length({"winner": simple(length_bins=np.array([], int))}) is None


def test_fusion_weights():
    """By true class, over all seeds, unlabelled utterances and the anchor left out."""
    figure = result_figures.fusion_weights(simple())
    audio, visual = figure.data
    assert (audio.name, visual.name) == ("audio (wᵃ)", "visual (wᵛ)")
    weight = simple().weight[:, :, 1]
    assert list(audio.y) == pytest.approx([weight[:, [0, 2]].mean(), weight[:, [1, 4, 5]].mean()])
    assert list(visual.y) == [0.5, 0.5]
    assert audio.y[0] - audio.error_y.arrayminus[0] == pytest.approx(np.quantile(weight[:, [0, 2]], 0.1))
    assert list(figure.layout.xaxis.ticktext) == ["calm", "&lt;b&gt;"], "a class without utterances has no weights"
    assert result_figures.fusion_weights(simple(weight=np.ones((2, 6, 3)))) is None


def test_f1_by_class():
    rows = {
        "winner": [{"f1/a": 0.5, "f1/b": 0.2}, {"f1/a": 0.7, "f1/b": 0.2}],
        "baseline": [{"f1/a": 0.1, "f1/b": 0.0}],
    }
    winner, baseline, paper = result_figures.f1_by_class(rows, ["a", "b"], {"b": 33.0, "a": None}, split="test").data
    assert list(winner.x) == pytest.approx([20.0, 60.0]), "the first class on top"
    assert list(winner.error_x.array) == pytest.approx([0, T * 10], rel=1e-4)
    assert list(baseline.x) == pytest.approx([0.0, 10.0])
    assert list(baseline.error_x.array) == [0.0, 0.0], "one seed has no interval"
    assert (list(paper.x), list(paper.y)) == ([33.0], [0])


def test_finalists_by_run(whole):
    order = ranking(whole)
    rows = {result_figures.name_of(each.trial, order[0].trial): (whole, each) for each in order}
    figure = result_figures.by_run(rows)
    points, means, search = figure.data
    runs = {(run["trial"], run["seed"]): 100 * run["val/wf1"] for run in whole.confirmed()}
    assert sorted(points.x) == pytest.approx(sorted(runs.values()))
    for name, (_, each) in rows.items():
        place = list(means.y).index(name)
        assert means.x[place] == pytest.approx(np.mean([runs[each.trial, seed] for seed in each.units]))
        trial = whole.trials[each.trial]
        assert search.x[list(search.y).index(name)] == pytest.approx(100 * max(trial.intermediate_values.values()))
    low, high = figure.layout.xaxis.range
    assert [each for each in order if len(each.units) < 5], "else nothing runs out of the frame"
    assert low < min(*points.x, *search.x) < max(*points.x, *search.x) < high < low + 20


def test_texts():
    assert [result_figures.name_of(n, 3) for n in (3, 0, 5)] == ["trial 3 (winner)", "trial 0 (baseline)", "trial 5"]
    assert result_figures.name_of(0, 0) == "trial 0 (winner, baseline)"
    assert [result_figures.mean_text(x) for x in ([], [0.5], [0.5, 0.52])] == ["–", "50.00", "51.00 ± 12.71"]


def test_figure_data_survive():
    found = json.loads(str(_figure_json(go.Figure(data=[go.Bar(x=["</script>&"], y=[1.5])]))))
    assert (found["data"][0]["x"], found["data"][0]["y"]) == (["</script>&"], [1.5])
    assert "template" not in found["layout"], "page.js has its own, for light and dark"
