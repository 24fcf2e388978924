"""The race: against a literal one, whatever order results come in, and by simulated searches."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.benchmarks import racing as simulated
from tune.search import racing
from tune.search.racing import Drop, run_race
from tune.statistics import pooled_deviation

SEEDS = (10, 11, 12, 13, 14)


def draw(finalists, seed, *, gap=0.01, noise=0.005):
    """Scores of all finalists by all seeds; the later a finalist, the worse by about gap."""
    rng = np.random.default_rng(seed)
    quality = {k: 0.5 - gap * place * rng.random() for place, k in enumerate(finalists)}
    return {(k, s): quality[k] + noise * float(rng.standard_normal()) for k in finalists for s in SEEDS}


def drive(scores, finalists, rng, **settings_):
    """Run what is wanted, some of it at a time, and ask again → the end, and the runs it took."""
    done: dict[tuple[int, int], float] = {}
    while (now := run_race(done, finalists, **settings_)).pending_runs:
        assert len(set(now.pending_runs)) == len(now.pending_runs), "nothing twice"
        assert not done.keys() & set(now.pending_runs), "nothing again"
        assert not {drop.trial for drop in now.dropped} & {trial for trial, _ in now.pending_runs}, "nobody dropped"
        for i in rng.permutation(len(now.pending_runs))[: rng.integers(1, len(now.pending_runs) + 1)]:
            done[now.pending_runs[i]] = scores[now.pending_runs[i]]
        order = rng.permutation(len(done))
        done = {list(done)[i]: list(done.values())[i] for i in order}
    return now, done


def literal_holm(p, alpha):
    """Step down from the smallest until one fails (Holm 1979) → the places of the rejected."""
    rejected = []
    for left, place in zip(range(len(p), 0, -1), np.argsort(p), strict=True):
        if p[place] >= alpha / left:
            break
        rejected.append(place)
    return rejected


def literal_race(scores, finalists, baseline):
    """Round after round → (trial, rounds, leader) of each drop, and those left, best first."""
    entered = [k for k in finalists if k != baseline]
    alive, ran, drops = list(entered), dict.fromkeys(entered, 0), []
    for r in range(1, 6):
        if len(alive) == 1:
            break
        for k in alive:
            ran[k] = r
        if r in (1, 5):
            continue
        deviation, degrees = pooled_deviation({k: {s: scores[k, s] for s in SEEDS[: ran[k]]} for k in entered})
        mean = {k: np.mean([scores[k, s] for s in SEEDS[:r]]) for k in alive}
        leader = max(alive, key=lambda k: mean[k])
        others = [k for k in alive if k != leader]
        lead = [np.mean([scores[leader, s] - scores[k, s] for s in SEEDS[:r]]) for k in others]
        p = stats.t.sf(np.array(lead) / (deviation * math.sqrt(2 / r)), degrees)
        gone = [(others[i], r, leader) for i in literal_holm(p, racing.RACE_LEVEL / 3)]
        drops += sorted(gone, key=lambda drop: mean[drop[0]])
        alive = [k for k in alive if k not in [drop[0] for drop in gone]]
    left = [*alive, baseline]
    return drops, sorted(left, key=lambda k: -np.mean([scores[k, s] for s in SEEDS]))


@pytest.mark.parametrize("seed", range(40))
def test_the_race_is_the_literal_one(seed):
    finalists = [7, 3, 9, 0, 4][: 2 + seed % 4]
    baseline = finalists[seed % len(finalists)]
    scores = draw(finalists, seed, gap=0.01 + 0.02 * (seed % 3))
    found = run_race(scores, finalists, units=SEEDS, baseline=baseline)
    drops, left = literal_race(scores, finalists, baseline)
    assert [(d.trial, d.units, d.leader) for d in found.dropped] == drops
    assert list(found.alive) == left


def test_the_literal_races_differ():
    """What the comparison above is worth: drops in each round that can, and races of one candidate and of more."""
    ends = [literal_race(draw([7, 3, 9, 0, 4], s, gap=0.03), [7, 3, 9, 0, 4], 0) for s in range(40)]
    assert {r for drops, _ in ends for _, r, _ in drops} == {2, 3, 4}
    assert {len(left) for _, left in ends} >= {2, 3, 4}


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), finalists=st.integers(1, 6), planned=st.integers(1, 5))
def test_the_order_of_results_does_not_matter(seed, finalists, planned):
    """Any order, any interruption: the end is that of a table that was full at once, with all the runs it speaks of."""
    rng = np.random.default_rng(seed)
    numbers = [int(k) for k in rng.permutation(20)[:finalists]]
    baseline, seeds = numbers[-1], SEEDS[:planned]
    scores = draw(numbers, seed, gap=0.02 * rng.random())
    end, done = drive(scores, numbers, rng, units=seeds, baseline=baseline)
    assert end == run_race(scores, numbers, units=seeds, baseline=baseline)
    assert end == run_race(done, numbers, units=seeds, baseline=baseline)
    ran = {drop.trial: set(seeds[: drop.units]) for drop in end.dropped} | {k: set(seeds) for k in end.alive}
    assert {k: {s for t, s in done if t == k} for k in numbers} == ran, "the baseline and a candidate run all"
    assert baseline in end.alive
    assert len(end.alive) > 1 or finalists == 1
    assert sorted([*end.alive, *(drop.trial for drop in end.dropped)]) == sorted(numbers)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_other_numbers_the_same_race(seed):
    rng, numbers = np.random.default_rng(seed), [3, 0, 8, 5]
    scores = draw(numbers, seed)
    other = dict(zip(numbers, [int(k) for k in rng.permutation(9)[:4]], strict=True))
    found = run_race(scores, numbers, units=SEEDS, baseline=0)
    shuffled = [other[numbers[i]] for i in rng.permutation(4)]
    renamed = run_race(
        {(other[k], s): score for (k, s), score in scores.items()},
        shuffled,
        units=SEEDS,
        baseline=other[0],
    )
    assert renamed.alive == tuple(other[k] for k in found.alive)
    assert [(d.trial, d.units, d.leader) for d in renamed.dropped] == [
        (other[d.trial], d.units, other[d.leader]) for d in found.dropped
    ]


def steady(levels, seeds=SEEDS, wobble=0.001):
    """Scores that go up and down a little by turns, each finalist about its level."""
    return {(k, s): level + wobble * (-1) ** (i + k // 3) for k, level in levels.items() for i, s in enumerate(seeds)}


def only(scores, **seeds_of):
    """Some finalists' first runs: t7=2 are the first two of trial 7."""
    order = SEEDS
    return {(k, s): v for (k, s), v in scores.items() if s in order[: seeds_of.get(f"t{k}", 0)]}


def test_what_is_wanted_as_a_race_goes_on():
    scores = steady({7: 0.5301, 3: 0.53, 9: 0.40, 0: 0.50})
    ask = {"finalists": [7, 3, 9, 0], "units": SEEDS, "baseline": 0}
    every = tuple((0, s) for s in SEEDS)
    start = run_race({}, **ask)
    assert (start.pending_runs, start.alive) == ((*every, (7, 10), (3, 10), (9, 10)), (7, 3, 9, 0))
    half = run_race(only(scores, t0=5, t7=1, t3=1), **ask)
    assert (half.pending_runs, half.rounds) == (((9, 10),), 0)
    first = run_race(only(scores, t0=5, t7=1, t3=1, t9=1), **ask)
    assert (first.dropped, first.rounds) == ((), 1), "nobody after one run"
    second = run_race(only(scores, t0=5, t7=2, t3=2, t9=2), **ask)
    assert [(d.trial, d.units) for d in second.dropped] == [(9, 2)]
    assert second.pending_runs == ((7, 12), (3, 12))
    end = run_race(scores, **ask)
    assert (end.pending_runs, end.rounds, end.alive) == ((), 5, (7, 3, 0))


def test_the_last_candidate_wants_all_its_units_at_once_and_the_baseline_drops_nobody():
    scores = steady({7: 0.60, 3: 0.50, 0: 0.90})
    found = run_race(only(scores, t0=5, t7=2, t3=2), [7, 3, 0], units=SEEDS, baseline=0)
    assert found.pending_runs == tuple((7, s) for s in SEEDS[2:])
    assert [(d.trial, d.leader) for d in found.dropped] == [(3, 7)]
    assert run_race(scores, [7, 3, 0], units=SEEDS, baseline=0).alive == (0, 7)


def test_without_racing_all_run_all_seeds():
    finalists = [7, 3, 9, 0]
    scores = draw(finalists, 0, gap=0.2)
    ask = {"units": SEEDS, "baseline": 0, "racing": False}
    every = set(itertools.product(finalists, SEEDS))
    start = run_race({}, finalists, **ask)
    assert set(start.pending_runs) == every
    assert start.pending_runs[:5] == tuple((0, s) for s in SEEDS)
    end, done = drive(scores, finalists, np.random.default_rng(0), **ask)
    assert done.keys() == every
    mean = {k: np.mean([scores[k, s] for s in SEEDS]) for k in finalists}
    assert end.alive == tuple(sorted(finalists, key=lambda k: -mean[k]))
    assert (end.dropped, end.rounds) == ((), 5)
    part = {run: score for run, score in scores.items() if run not in {(9, 12), (3, 14)}}
    assert run_race(part, finalists, **ask).pending_runs == ((9, 12), (3, 14))
    assert run_race(part, finalists, **ask).rounds == 2


def test_who_has_failed_wants_nothing():
    scores = draw([7, 3, 9, 0], 6, gap=0.01)
    ask = {"units": SEEDS, "baseline": 0}
    end = run_race(scores, [7, 3, 9, 0], out={9}, **ask)
    assert 9 not in {*end.alive, *(drop.trial for drop in end.dropped)}
    assert {trial for trial, _ in run_race({}, [7, 3, 9, 0], out={9}, **ask).pending_runs} == {7, 3, 0}
    assert {trial for trial, _ in run_race({}, [7, 3, 9, 0], out={0}, **ask).pending_runs} == {7, 3, 9}


def test_the_baseline_runs_for_itself_but_not_where_all_candidates_failed():
    ask = {"units": SEEDS, "baseline": 0}
    assert run_race({}, [0], **ask).pending_runs == tuple((0, s) for s in SEEDS)
    assert run_race({}, [7, 0], out={7}, **ask).pending_runs == ()


def test_scores_without_any_spread():
    """Equal ones stay in the given order; the smallest lead of another decides."""
    levels = {3: 0.5, 7: 0.75, 9: 0.75, 0: 0.25}
    end = run_race(steady(levels, wobble=0.0), [3, 7, 9, 0], units=SEEDS, baseline=0)
    assert (end.alive, [d.trial for d in end.dropped]) == ((7, 9, 0), [3])


def test_reasons():
    drop = Drop(trial=5, units=2, leader=7, behind=0.01844)
    assert drop.reason("fold") == "dropped after 2 folds: 1.84 points behind trial 7"


def test_the_race_costs_nothing_and_saves_runs():
    """1,000 simulated searches: the choice of all units with at most 80 % of the runs; the best trial as it is does far worse."""
    world = simulated.World(finalists=12)
    searches = simulated.draw_many(world, 1000, seed=1)
    grid, raced = (simulated.by_confirmation(world, searches, racing=on) for on in (False, True))
    assert (raced.regret - grid.regret).mean() <= 0.005
    assert raced.runs.sum() <= 0.8 * grid.runs.sum()
    trial = simulated.by_best_trial(searches).regret - raced.regret
    assert trial.mean() > 4 * trial.std() / math.sqrt(len(trial))


def test_how_often_a_race_errs():
    """Of eight equal finalists one falls in about a quarter of the races; the best by half a point in hardly any."""
    equal, best = simulated.errors(racing.RACE_LEVEL, 1000, seed=3)
    assert equal < 0.30
    assert best < 0.02


def test_the_simulation_counts_the_runs_that_a_race_takes():
    """It gives the race all runs at once; a real one has only those it asked for."""
    world = simulated.World()
    for search in simulated.draw_many(world, 20, seed=2):
        end = simulated.confirmed(world, search, racing=True)
        rng = np.random.default_rng(0)
        real, done = drive(search.scores, search.finalists, rng, units=range(5), baseline=simulated.BASELINE)
        assert real == end
        assert len(done) == simulated.runs_of(world, end)
