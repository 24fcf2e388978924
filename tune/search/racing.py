"""The race: which finalists go on, which are dropped, which runs are pending.

A function of the results alone: a restart decides the same. All candidates run one more unit (a fold, or a seed), then those are
dropped that are clearly behind the leader. The baseline runs all units, and so does at least one candidate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tune.statistics import chance_of, pooled_deviation

RACE_LEVEL = 0.1
"""Level of the tests that drop a finalist, spent in equal parts over the rounds that can drop one. Of 8 equal finalists 24 % of
races drop one, the best by 0.5 points is dropped in 0.9 % (`tests/benchmarks/racing.py`)."""

FIRST_DECISION = 2
"""Units that all have run before anyone is dropped: one tells nothing of how much units matter."""

Scores = Mapping[tuple[int, int], float]
"""Score of a trial by a unit."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A finalist that was dropped, and why."""

    trial: int
    units: int
    """That it had run."""
    leader: int
    behind: float
    """Mean difference to the leader over those units, as the scores are (0..1)."""

    def reason(self, unit: str) -> str:
        """`dropped after 2 folds: 1.84 points behind trial 7`, in percent points."""
        return f"dropped after {self.units} {unit}s: {100 * self.behind:.2f} points behind trial {self.leader}"


@dataclass(frozen=True, kw_only=True)
class Race:
    """How a race stands."""

    alive: tuple[int, ...]
    """Candidates, best first by the mean over the units of `rounds`, and the baseline at its place."""
    dropped: tuple[Drop, ...]
    """In the order of dropping; within a round, the worst first."""
    rounds: int
    """Units that all of the alive have run, and that are decided on."""
    pending_runs: tuple[tuple[int, int], ...]
    """(trial, unit) to run now, at the same time if there is room; empty when the race is over."""


def run_race(
    scores: Scores,
    finalists: Sequence[int],
    *,
    units: Sequence[int],
    baseline: int,
    racing: bool = True,
    out: Collection[int] = (),
) -> Race:
    """How the race of the finalists stands by these scores.

    finalists: in the order that decides where means are equal. out: those with a failed run, which take no part any more.
    racing: otherwise all run all of `units`.
    """
    entered = [trial for trial in finalists if trial != baseline]
    alive, dropped, rounds = [trial for trial in entered if trial not in out], list[Drop](), 0
    others = [baseline] if baseline in finalists and baseline not in out and (alive or not entered) else []

    def due() -> Sequence[int]:
        """Units to run now: all where nothing is left to decide, else the next."""
        return units[rounds:] if not racing or len(alive) == 1 else units[rounds : rounds + 1]

    while alive and due() and all((trial, units[rounds]) in scores for trial in alive):
        rounds += 1
        if racing and FIRST_DECISION <= rounds < len(units):
            ran = dict.fromkeys(entered, rounds) | {drop.trial: drop.units for drop in dropped}
            evidence = {k: {u: scores[k, u] for u in units[:n] if (k, u) in scores} for k, n in ran.items()}
            level = RACE_LEVEL / (len(units) - FIRST_DECISION)
            dropped += _behind(_ranking(scores, alive, units[:rounds]), rounds, evidence, level)
            alive = [trial for trial in alive if trial not in {drop.trial for drop in dropped}]
    wanted = [*((trial, unit) for trial in others for unit in units), *((t, u) for u in due() for t in alive)]
    known = [trial for trial in others if all((trial, unit) in scores for unit in units[:rounds])]
    return Race(
        alive=tuple(_ranking(scores, [t for t in finalists if t in (*alive, *known)], units[:rounds])),
        dropped=tuple(dropped),
        rounds=rounds,
        pending_runs=tuple(dict.fromkeys(run for run in wanted if run not in scores)),
    )


def _ranking(scores: Scores, trials: Sequence[int], units: Sequence[int]) -> dict[int, float]:
    """Trial → mean over these units, the best first; equal ones stay in their order."""
    mean = {trial: math.fsum(scores[trial, unit] for unit in units) / max(1, len(units)) for trial in trials}
    return dict(sorted(mean.items(), key=lambda item: item[1], reverse=True))


def _behind(
    ranking: Mapping[int, float], rounds: int, evidence: Mapping[int, Mapping[int, float]], level: float
) -> list[Drop]:
    """Those of a ranking by so many units that are clearly behind its leader, the worst first.

    evidence: trial → unit → score, which tells how much units matter; nobody is dropped as long as it does not.
    """
    deviation, degrees = pooled_deviation(evidence)
    if not degrees:
        return []
    leader, *others = ranking
    gaps = [ranking[leader] - ranking[trial] for trial in others]
    error = deviation * math.sqrt(2 / rounds)  # of a difference of means
    chances = chance_of(gaps, [error] * len(gaps), degrees)
    return [
        Drop(trial=trial, units=rounds, leader=leader, behind=gap)
        for trial, gap, chance in zip(others, gaps, chances, strict=True)
        if chance < level
    ][::-1]
