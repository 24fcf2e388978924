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
def test_scores_equal_scikit_learn(case: str) -> None:
    label, guess = draw(case)
    found = metrics.scores(label, guess, NAMES)
    every = f1_score(label, guess, labels=range(5), average=None, zero_division=0)
    assert list(found) == ["wf1", "acc", *(f"f1/{name}" for name in NAMES)]
    assert all(type(value) is float for value in found.values())
    assert found["acc"] == pytest.approx(accuracy_score(label, guess), abs=1e-12)
    assert found["wf1"] == pytest.approx(f1_score(label, guess, average="weighted", zero_division=0), abs=1e-12)
    assert [found[f"f1/{name}"] for name in NAMES] == pytest.approx(list(every), abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_confusion_has_the_truth_in_rows(case: str) -> None:
    label, guess = draw(case)
    found = metrics.confusion_matrix(label, guess, 5)
    assert found.tolist() == confusion_matrix(label, guess, labels=range(5)).tolist()


def test_a_small_case_by_hand() -> None:
    """Truth 0 0 0 1 1 2, guess 0 0 1 1 2 2: F1 of 4/5, 1/2, 2/3 with supports 3, 2, 1."""
    found = metrics.scores(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2]), ("a", "b", "c"))
    expected = {"wf1": (3 * 0.8 + 2 * 0.5 + 2 / 3) / 6, "acc": 4 / 6, "f1/a": 0.8, "f1/b": 0.5, "f1/c": 2 / 3}
    assert found == pytest.approx(expected, abs=1e-12)


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
    label, guess = draw("all classes", 300)
    length = np.random.default_rng(1).choice(edges, 300)
    found = metrics.wf1_by_length(label, guess, length, bins=bins, classes=5)
    assert list(found) == names
    own = np.searchsorted(bins, length)
    for k, name in enumerate(names):
        chosen = own == k
        assert set(length[chosen]) == set(edges[2 * k : 2 * k + 2])
        expected = f1_score(label[chosen], guess[chosen], average="weighted", zero_division=0)
        assert found[name] == pytest.approx(expected, abs=1e-12)


def test_empty_length_bins_are_left_out() -> None:
    label, guess = draw("all classes", 10)
    found = metrics.wf1_by_length(label, guess, np.full(10, 20), bins=(5, 13), classes=5)
    assert found == {">13": pytest.approx(f1_score(label, guess, average="weighted", zero_division=0))}
