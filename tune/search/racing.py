"""The race over seeds: which finalists go on, which are dropped, which runs are pending.

A function of the results alone: a restart decides the same. All that are alive run one more seed, then those are dropped that
are significantly worse than the leader. The baseline and the winner run all seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tune.statistics import chance_of, pooled_deviation

RACE_ALPHA = 0.21
"""Level of the test that drops a finalist. Looser than usual: who is dropped by mistake is close to the leader, so that little
is lost, and a stricter test spends the runs on telling equals apart. Loosest that costs less than 0.02 points of W-F1 beside
running all seeds (`tests/benchmarks/racing.py`)."""

Scores = Mapping[tuple[int, int], float]
"""Score of a trial by a seed."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A finalist that was dropped, and why."""

    trial: int
    seeds: int
    """Rounds that it had run."""
    leader: int
    behind: float
    """Mean difference to the leader over those seeds, as the scores are (0..1)."""
    p: float
    """One-sided, adjusted for the number of finalists compared (Holm)."""
    deviation: float
    """Of one run, pooled over all finalists."""

    def reason(self) -> str:
        """`dropped after 2 seeds: 1.84 behind trial 7 (p = 0.003)`, in percent points."""
        seeds = f"{self.seeds} seed" + "s" * (self.seeds > 1)
        p = f"p = {self.p:.3f}" if self.p >= 0.001 else "p < 0.001"
        return f"dropped after {seeds}: {100 * self.behind:.2f} behind trial {self.leader} ({p})"


@dataclass(frozen=True, kw_only=True)
class Race:
    """How a race stands."""

    alive: tuple[int, ...]
    """Best first, by the mean over the seeds of `rounds`."""
    dropped: tuple[Drop, ...]
    """In the order of dropping; within a round, the worst first."""
    rounds: int
    """Seeds that all of the alive have run, and that are decided on."""
    pending_runs: tuple[tuple[int, int], ...]
    """(trial, seed) to run now, at the same time if there is room; empty when the race is over."""


def run_race(
    scores: Scores,
    finalists: Sequence[int],
    *,
    seeds: Sequence[int],
    baseline: int,
    racing: bool = True,
    out: Collection[int] = (),
) -> Race:
    """How the race of the finalists stands by these scores.

    finalists: in the order that decides where means are equal. out: those with a failed run, which take no part any more;
    their scores still tell how much seeds matter. racing: otherwise all run all of `seeds`.
    """
    alive, dropped, rounds = [trial for trial in finalists if trial not in out], list[Drop](), 0
    first = [(baseline, seed) for seed in seeds if baseline in alive]
    # The baseline's own spread is the yardstick of the first rounds: decisions wait for it.
    ready = not racing or all(run in scores for run in first)

    def ahead() -> Sequence[int]:
        """Seeds to run now: all where nothing is left to decide, else the next."""
        return seeds[rounds:] if not racing or len(alive) == 1 else seeds[rounds : rounds + 1]

    while alive and ready and ahead() and all((trial, seeds[rounds]) in scores for trial in alive):
        rounds += 1
        if racing:
            heard = dict.fromkeys(finalists, rounds) | {drop.trial: drop.seeds for drop in dropped}
            if first:
                heard[baseline] = max(heard[baseline], len(seeds))
            evidence = {k: {s: scores[k, s] for s in seeds[:n] if (k, s) in scores} for k, n in heard.items()}
            dropped += _worse(_ranking(scores, alive, seeds[:rounds]), rounds, evidence)
            alive = [trial for trial in alive if trial not in {drop.trial for drop in dropped}]
    due = [*first, *((trial, seed) for seed in ahead() for trial in alive)]
    pending = tuple(dict.fromkeys(run for run in due if run not in scores))
    order = tuple(_ranking(scores, alive, seeds[:rounds]))
    return Race(alive=order, dropped=tuple(dropped), rounds=rounds, pending_runs=pending)


def _ranking(scores: Scores, trials: Sequence[int], seeds: Sequence[int]) -> dict[int, float]:
    """Trial → mean over these seeds, the best first; equal ones stay in their order."""
    mean = {trial: math.fsum(scores[trial, seed] for seed in seeds) / max(1, len(seeds)) for trial in trials}
    return dict(sorted(mean.items(), key=lambda item: item[1], reverse=True))


def _worse(ranking: Mapping[int, float], rounds: int, evidence: Mapping[int, Mapping[int, float]]) -> list[Drop]:
    """Those of a ranking by so many seeds that are significantly worse than its leader, the worst first.

    evidence: trial → seed → score, which tells how much seeds matter; nobody is worse as long as it does not.
    """
    deviation, degrees = pooled_deviation(evidence)
    if not degrees:
        return []
    leader, *others = ranking
    behind = [ranking[leader] - ranking[trial] for trial in others]
    error = deviation * math.sqrt(2 / rounds)  # of a difference of means
    p = chance_of(behind, [error] * len(behind), degrees)
    return [
        Drop(trial=trial, seeds=rounds, leader=leader, behind=gap, p=p, deviation=deviation)
        for trial, gap, p in zip(others, behind, p, strict=True)
        if p < RACE_ALPHA
    ][::-1]
