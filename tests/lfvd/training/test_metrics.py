"""Metrics against scikit-learn, absent classes included."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from lfvd.training import metrics

NAMES = ("neutral", "joy", "anger", "fear", "disgust")
# Which classes occur, and which are predicted.
CASES = {
    "all classes": (range(5), range(5)),
    "a class that is never predicted": (range(5), range(4)),
    "a class that is only predicted": ([0, 1, 3], range(5)),
    "a class that is neither": ([0, 1, 3], [0, 1, 4]),
    "always the same guess": (range(5), [2]),
    "one class": ([3], [3]),
    "always wrong": ([0, 1], [2, 3]),
}


def draw(case: str, count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions [count]; about half of the predictions right where they can be."""
    there, said = (list(classes) for classes in CASES[case])
    random = np.random.default_rng(seed)
    label, guess = random.choice(there, count), random.choice(said, count)
    right = (random.random(count) < 0.5) & np.isin(label, said)
    return label, np.where(right, label, guess)


@pytest.mark.parametrize("case", CASES)
def test_scores_and_confusion_equal_scikit_learn(case: str) -> None:
    label, guess = draw(case)
    found = metrics.scores(label, guess, NAMES)
    every = f1_score(label, guess, labels=range(5), average=None, zero_division=0)
    assert list(found) == ["wf1", "acc", *(f"f1/{name}" for name in NAMES)]
    assert all(type(value) is float for value in found.values())
    expected = [f1_score(label, guess, average="weighted", zero_division=0), accuracy_score(label, guess), *every]
    assert list(found.values()) == pytest.approx(expected, abs=1e-12)
    confusion = metrics.confusion_matrix(label, guess, 5)
    assert confusion.tolist() == confusion_matrix(label, guess, labels=range(5)).tolist()


def test_nothing_scores_0() -> None:
    empty = np.zeros(0, dtype=np.int64)
    assert set(metrics.scores(empty, empty, NAMES).values()) == {0.0}


@pytest.mark.parametrize(
    ("bins", "names", "edges"),
    [
        ((43, 59), ["≤43", "44-59", ">59"], [1, 43, 44, 59, 60, 110]),
        ((5, 13), ["≤5", "6-13", ">13"], [1, 5, 6, 13, 14, 33]),
    ],
)
def test_length_bins_equal_scikit_learn(bins: tuple[int, int], names: list[str], edges: list[int]) -> None:
    """Bins that no dialogue falls into are left out."""
    label, guess = draw("all classes", 300)
    for there in (edges, edges[4:]):
        length = np.random.default_rng(1).choice(there, 300)
        found = metrics.wf1_by_length(label, guess, length, bins=bins, classes=5)
        expected = {}
        for name, pair in zip(names, zip(edges[::2], edges[1::2], strict=True), strict=True):
            if (chosen := np.isin(length, pair)).any():
                expected[name] = f1_score(label[chosen], guess[chosen], average="weighted", zero_division=0)
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == names[2:]
