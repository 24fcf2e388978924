"""What a race saves and what it costs, by simulated searches: `python tests/benchmarks/racing.py [--finalists 8]`.

Regret: how much worse, in points of W-F1, the chosen configuration truly is than the best of all trials. Three ways to choose:
the best trial as it is, all finalists on all seeds, the race (at several levels of its test). All choose from the same numbers.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np

from tune.search import racing
from tune.search.racing import Race, run_race

BASELINE = 0
"""The first trial, as in a search."""

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Of the race's test."""

FINALISTS, SPREADS = (2, 3, 4, 6, 8, 12), (0.25, 0.75, 1.5, 3.0, 6.0)
"""What else a search may look like."""


@dataclass(frozen=True, kw_only=True)
class World:
    """How searches come out: points of W-F1. Figures of results/README.md and LOG.md, MELD's text."""

    trials: int = 40
    finalists: int = 8
    """Beside the baseline."""
    seeds: int = 5
    spread: float = 1.5
    """Trials lie Gamma(2, spread) below what could be reached: the median 2.5 below, the best of 40 about 0.4."""
    baseline: float = 4.5
    """Of the baseline below that: the preset 49.2, by hand 53.9."""
    noise: tuple[float, float] = (0.33, 0.55)
    """Deviation of a configuration's runs, anywhere between: 0.33 by hand, 0.46 a search's winner, 0.55 the preset."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search, ready to be confirmed."""

    quality: np.ndarray
    """True mean of each trial's runs [trials]."""
    found: np.ndarray
    """Score of each trial's only run [trials]."""
    finalists: list[int]
    scores: dict[tuple[int, int], float]
    """Of every finalist by every seed."""


def draw(world: World, rng: np.random.Generator) -> Search:
    """A search, and all runs that its confirmation could ask for."""
    quality = -rng.gamma(2.0, world.spread, world.trials)
    quality[BASELINE] = -world.baseline
    noise = rng.uniform(*world.noise, world.trials)
    runs = quality + noise * rng.standard_normal((1 + world.seeds, world.trials))
    best = [int(k) for k in np.argsort(-runs[0]) if k != BASELINE][: world.finalists]
    finalists = [*best, BASELINE]
    scores = {(k, s): float(runs[1 + s, k]) / 100 for k in finalists for s in range(world.seeds)}
    return Search(quality=quality, found=runs[0], finalists=finalists, scores=scores)


def draw_many(world: World, count: int, seed: int) -> list[Search]:
    """Searches that the seed alone decides."""
    rng = np.random.default_rng(seed)
    return [draw(world, rng) for _ in range(count)]


def confirmed(world: World, search: Search, *, racing: bool) -> Race:
    """The end of a confirmation: it looks only at what it would have run by then."""
    seeds = range(world.seeds)
    return run_race(search.scores, search.finalists, units=seeds, baseline=BASELINE, racing=racing)


def runs_of(world: World, ended: Race) -> int:
    """Runs that a confirmation took."""
    return world.seeds * len(ended.alive) + sum(drop.units for drop in ended.dropped)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a way to choose came to in each search [searches]."""

    regret: np.ndarray
    runs: np.ndarray
    best: np.ndarray
    """Whether the best finalist was chosen."""


def outcome(searches: list[Search], chosen: list[int], runs: list[int]) -> Outcome:
    """Judge choices by the truth."""
    pairs = list(zip(searches, chosen, strict=True))
    return Outcome(
        regret=np.array([s.quality.max() - s.quality[k] for s, k in pairs]),
        runs=np.array(runs),
        best=np.array([s.quality[k] == s.quality[s.finalists].max() for s, k in pairs]),
    )


def by_confirmation(world: World, searches: list[Search], *, racing: bool) -> Outcome:
    """Choose by the race, or by all seeds."""
    ends = [confirmed(world, search, racing=racing) for search in searches]
    return outcome(
        searches, [next(k for k in end.alive if k != BASELINE) for end in ends], [runs_of(world, end) for end in ends]
    )


def by_best_trial(searches: list[Search]) -> Outcome:
    """Choose by the search alone."""
    return outcome(searches, [int(np.argmax(search.found)) for search in searches], [0] * len(searches))


def at_level(alpha: float, world: World, searches: list[Search]) -> Outcome:
    """The race as it would be with another level of its test."""
    shipped, racing.RACE_LEVEL = racing.RACE_LEVEL, alpha
    try:
        return by_confirmation(world, searches, racing=True)
    finally:
        racing.RACE_LEVEL = shipped


def with_error(values: np.ndarray) -> str:
    """Mean ± standard error."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def print_ways(world: World, searches: list[Search]) -> None:
    """A row for each way to choose, and for each level of the race's test."""
    grid = by_confirmation(world, searches, racing=False)
    ways = {"the best trial": by_best_trial(searches), "all seeds": grid}
    ways |= {f"race, level {alpha}": at_level(alpha, world, searches) for alpha in LEVELS}
    print("| | regret | beyond all seeds | runs | share | best finalist chosen |\n|---|---|---|---|---|---|")
    for name, way in ways.items():
        more, share = with_error(way.regret - grid.regret), way.runs.sum() / grid.runs.sum()
        cells = [name, with_error(way.regret), more, f"{way.runs.mean():.1f}", f"{share:.0%}", f"{way.best.mean():.0%}"]
        print(f"| {' | '.join(cells)} |")


def print_worlds(count: int, seed: int) -> None:
    """A row for each number of finalists, a column for each spread of the trials: regret beyond all seeds', share of runs."""
    print(f"| finalists | {' | '.join(f'spread {spread}' for spread in SPREADS)} |\n|---|{'---|' * len(SPREADS)}")
    for finalists in FINALISTS:
        cells = []
        for spread in SPREADS:
            world = replace(World(), finalists=finalists, spread=spread)
            searches = draw_many(world, count, seed)
            grid, raced = (by_confirmation(world, searches, racing=racing) for racing in (False, True))
            cells.append(f"{with_error(raced.regret - grid.regret)}, {raced.runs.sum() / grid.runs.sum():.0%}")
        print(f"| {finalists} | {' | '.join(cells)} |")


def errors(level: float, count: int, seed: int) -> tuple[float, float]:
    """Share of races that drop one of eight equals, and that drop the one of eight that is better by 0.5 points."""
    shipped, racing.RACE_LEVEL = racing.RACE_LEVEL, level
    rng, lost = np.random.default_rng(seed), [0, 0]
    try:
        for lead in (0, 1):
            for _ in range(count):
                runs = 0.5 * rng.standard_normal((9, 5)) + 0.5 * lead * (np.arange(9) == 1)[:, None]
                scores = {(k, u): runs[k, u] / 100 for k in range(9) for u in range(5)}
                race = run_race(scores, range(9), units=range(5), baseline=BASELINE)
                lost[lead] += any(drop.trial == 1 or not lead for drop in race.dropped)
    finally:
        racing.RACE_LEVEL = shipped
    return lost[0] / count, lost[1] / count


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finalists", type=int, default=World.finalists)
    asked = parser.parse_args()
    world = World(finalists=asked.finalists)
    print(f"{asked.searches} searches of {world}\n")
    print_ways(world, draw_many(world, asked.searches, asked.seed))
    print("\n| level | of 8 equal finalists one is dropped | the best by 0.5 points is dropped |\n|---|---|---|")
    for level in LEVELS:
        equal, best = errors(level, asked.searches, asked.seed)
        print(f"| {level} | {equal:.1%} | {best:.1%} |")
    print(f"\nThe race at level {racing.RACE_LEVEL}: regret beyond all seeds', share of their runs\n")
    print_worlds(asked.searches, asked.seed)


if __name__ == "__main__":
    main()
