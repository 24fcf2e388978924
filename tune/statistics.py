"""Statistics of few runs: intervals, paired tests, power, variance over seeds, and the expected best of a search.

`among`: number of candidates from which the first was chosen by these same numbers; p is multiplied by it and the interval
widened (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy.special import nctdtr, stdtr, stdtrit  # scipy.stats takes half a second to import

from lfvd.data import UNLABELLED

MOST_FLIPS = 20
"""Pairs up to which all 2^n sign flips are tried."""

FEWEST_DEGREES = 4
"""Degrees of freedom below which seed effects are not estimated."""

CHUNK = 1000
"""Draws of the bootstrap that are counted at once."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its confidence interval; `low` and `high` are nan for a single value."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Result of `paired` for a − b over n pairs."""

    n: int
    mean: float
    low: float
    high: float
    p: float
    """Two-sided, of the paired t test."""
    exact: float
    """Two-sided, over all sign flips; nan beyond 20 pairs. At least 2^(1 − n): five pairs cannot show less than 0.0625."""


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """Result of `dialogue_bootstrap` for a − b."""

    mean: float
    """Without resampling."""
    low: float
    high: float
    p: float
    """Two-sided: twice the share of draws on the other side of zero."""


def mean_interval(values: Sequence[float] | np.ndarray, *, overlap: float = 0.0, level: float = 0.95) -> Interval:
    """Mean of runs with its t interval; overlap: as in `paired`, 0 for independent runs."""
    sample = np.asarray(values, float)
    mean, n = float(sample.mean()), len(sample)
    error = float(sample.std(ddof=1)) * math.sqrt(1 / n + overlap) if n > 1 else math.nan
    half = -float(stdtrit(n - 1, (1 - level) / 2)) * error
    return Interval(mean=mean, low=mean - half, high=mean + half)


def paired(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    among: int = 1,
    overlap: float = 0.0,
    level: float = 0.95,
) -> Difference:
    """a − b of two configs over the same seeds or folds in the same order [n]; ValueError with fewer than two pairs.

    overlap: over folds the size of one by that of the others, for the corrected resampled t test of Nadeau and Bengio (2003,
    "Inference for the Generalization Error"); the exact test, which needs independent pairs, is left out then.
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    n = len(difference)
    if n < 2:
        raise ValueError(f"a paired difference needs at least 2 runs of each, not {n}")
    interval = mean_interval(difference, overlap=overlap, level=1 - (1 - level) / among)
    error = float(difference.std(ddof=1)) * math.sqrt(1 / n + overlap)
    p = 2 * float(stdtr(n - 1, -abs(interval.mean) / error)) if error else float(interval.mean == 0)
    return Difference(
        n=n,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        p=min(1.0, among * p),
        exact=min(1.0, among * _sign_flips(difference)) if n <= MOST_FLIPS and not overlap else math.nan,
    )


def _sign_flips(difference: np.ndarray) -> float:
    """Share of the 2^n sign flips of difference [n] whose sum is as far from zero as its own (Fisher's randomisation)."""
    sums = difference[:1]  # the first sign stays: the other half is a mirror image
    for each in difference[1:]:
        sums = np.concatenate([sums + each, sums - each])
    rounding = 1e-12 * float(np.abs(difference).sum())
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - rounding))


def smallest_difference(
    deviation: float, n: int, *, among: int = 1, overlap: float = 0.0, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest true difference of two configs that `paired` over n seeds or folds finds significant with this power.

    deviation: of either config's runs, independent of the other's, so √2 times it for a difference. inf where n < 2.
    """
    if n < 2:
        return math.inf
    most = 1.0
    while _power(most, n, alpha / among) < power:
        most *= 2
    shift = optimize.brentq(lambda size: _power(size, n, alpha / among) - power, 0.0, most, xtol=1e-12)
    return float(shift) * math.sqrt(1 / n + overlap) * math.sqrt(2) * deviation


def _power(shift: float, n: int, alpha: float) -> float:
    """Power of a two-sided one-sample t test of n values (noncentral t); shift: the true mean in standard errors."""
    critical = -stdtrit(n - 1, alpha / 2)
    # A significant difference of the wrong sign: below 1e-8 beyond a shift of 5, where scipy begins to give up (nan).
    wrong = nctdtr(n - 1, shift, -critical) if shift < 5 else 0.0
    return float(1 - nctdtr(n - 1, shift, critical) + wrong)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979), in the given order."""
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def chance_of(gaps: Sequence[float], errors: Sequence[float], degrees: int) -> list[float]:
    """One-sided p of each gap with its standard error (0: nothing is by chance), Holm-adjusted for their number."""
    pairs = zip(gaps, errors, strict=True)
    return holm([float(stdtr(degrees, -gap / error)) if error else float(gap <= 0) for gap, error in pairs])


def pooled_deviation(scores: Mapping[int, Mapping[int, float]]) -> tuple[float, int]:
    """Standard deviation of one run, and its degrees of freedom, from finalist → seed → score; pairs may be missing.

    Residual of finalist + seed effects by least squares; of finalist effects only where that leaves fewer than four degrees:
    what a seed does to all then counts as noise, which is the careful side. (nan, 0) where nothing is repeated.
    """
    runs = sorted((trial, seed, score) for trial, row in scores.items() for seed, score in row.items())
    if not runs:
        return math.nan, 0
    trial, seed, score = np.array(runs, float).T
    own = np.equal.outer(trial, np.unique(trial)).astype(float)  # [run, finalist]
    both = np.hstack([own, np.equal.outer(seed, np.unique(seed))])
    degrees, squares = _residual(both, score)
    if degrees < FEWEST_DEGREES:
        degrees, squares = _residual(own, score)
    return (math.sqrt(squares / degrees), degrees) if degrees else (math.nan, 0)


def _residual(design: np.ndarray, y: np.ndarray) -> tuple[int, float]:
    """Degrees of freedom and sum of squares of a least-squares fit's residual."""
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ solution
    return len(y) - int(rank), float(rest @ rest)


def expected_best(values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best of k = 1 … n trials drawn from n values with replacement: expected [n], and a band of a deviation [n] each side.

    From the empirical distribution, without sampling; the band stays within the values seen (Dodge et al. 2019, "Show Your
    Work", eq. 6 to 8).
    """
    ordered = np.sort(np.asarray(values, float))
    below = np.arange(len(ordered) + 1) / len(ordered)
    chance, mean, spread = np.ones_like(below), np.empty_like(ordered), np.empty_like(ordered)
    for k in range(len(ordered)):
        chance *= below  # P(best of k + 1 is among the lowest i)
        weight = np.diff(chance)
        mean[k] = weight @ ordered
        spread[k] = math.sqrt(weight @ (ordered - mean[k]) ** 2)
    return mean, np.maximum(mean - spread, ordered[0]), np.minimum(mean + spread, ordered[-1])


def dialogue_bootstrap(
    label: np.ndarray,
    dialogue: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    *,
    classes: int,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Resampled:
    """a − b in W-F1, each the mean over its seeds, with whole dialogues resampled (percentile bootstrap).

    label, dialogue [N]; predictions a, b [seeds of its own, N]; unlabelled utterances are left out. A draw is the same for both
    and for all seeds, so what is hard for both does not count as noise.
    Raises ValueError for a single dialogue.
    """
    from scipy.stats import bootstrap

    known = label != UNLABELLED
    place = np.unique(dialogue[known], return_inverse=True)[1]
    support, tallies = _tallies(label[known], place, np.concatenate([a, b])[:, known], classes)
    dialogues = len(support)

    def difference(picks: np.ndarray, axis: int) -> np.ndarray:
        """picks: dialogues [draws, d], or the data themselves [d]."""
        times = np.stack([np.bincount(pick, minlength=dialogues) for pick in np.atleast_2d(picks)])
        found = _difference(times, support, tallies, len(a))
        return found if picks.ndim > 1 else found[0]

    found = bootstrap(
        [np.arange(dialogues)],
        difference,
        n_resamples=draws,
        batch=CHUNK,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    drawn = found.bootstrap_distribution
    other_side = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Resampled(
        mean=float(difference(np.arange(dialogues), 0)),
        low=float(found.confidence_interval.low),
        high=float(found.confidence_interval.high),
        p=min(1.0, 2 * (other_side + 1) / (draws + 1)),
    )


def _tallies(
    label: np.ndarray, place: np.ndarray, predictions: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """By dialogue: utterances of each class [d, c]; hits and guesses of each class by each run [d, runs, 2, c]."""
    size = (int(place.max()) + 1, classes)

    def count(label: np.ndarray, place: np.ndarray) -> np.ndarray:
        return np.bincount(place * classes + label, minlength=size[0] * classes).reshape(size)

    runs = [[count(label[row == label], place[row == label]), count(row, place)] for row in predictions]
    return count(label, place), np.array(runs).transpose(2, 0, 1, 3)


def _difference(times: np.ndarray, support: np.ndarray, tallies: np.ndarray, first: int) -> np.ndarray:
    """Mean W-F1 of the first runs − that of the others [draws]; times: of each dialogue [draws, d]."""
    weights = times.astype(float)  # for BLAS; counts stay exact
    support = weights @ support  # [draws, c]
    hits, guesses = np.moveaxis(np.tensordot(weights, tallies.astype(float), 1), 2, 0)  # [draws, runs, c]
    total = support[:, None] + guesses
    f1 = np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0)
    wf1 = np.einsum("nrc,nc->nr", f1, support) / support.sum(1, keepdims=True)
    return np.asarray(wf1[:, :first].mean(1) - wf1[:, first:].mean(1))


def mean_std(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sample standard deviation (0 for one row) of each key."""
    table = {k: np.array([row[k] for row in rows]) for k in rows[0]}
    spread = {k: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for k, v in table.items()}
    return {k: float(v.mean()) for k, v in table.items()}, spread
