"""The race over seeds: against a literal one, whatever order results come in, and by simulated searches."""

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
    """Round after round, as search.md tells it → (trial, rounds, leader, σ) of each drop, and those left, best first."""
    alive, ran, drops = list(finalists), dict.fromkeys(finalists, 0), []
    order = SEEDS
    for r in range(1, len(order) + 1):
        if len(alive) == 1:
            break
        for k in alive:
            ran[k] = r
        used = {k: {s: scores[k, s] for s in order[: max(ran[k], 5 if k == baseline else 0)]} for k in finalists}
        mean = {k: np.mean([scores[k, s] for s in order[:r]]) for k in alive}
        leader = max(alive, key=lambda k: mean[k])
        others = [k for k in alive if k != leader]
        deviation, degrees = pooled_deviation(used)
        lead = [np.mean([scores[leader, s] - scores[k, s] for s in order[:r]]) for k in others]
        p = stats.t.sf(np.array(lead) / (deviation * math.sqrt(2 / r)), degrees)
        gone = [(others[i], r, leader, deviation) for i in literal_holm(p, racing.RACE_ALPHA)]
        drops += sorted(gone, key=lambda drop: mean[drop[0]])
        alive = [k for k in alive if k not in [drop[0] for drop in gone]]
    seeds = SEEDS if len(alive) == 1 and r <= 5 else order[: max(ran[k] for k in alive)]
    return drops, sorted(alive, key=lambda k: -np.mean([scores[k, s] for s in seeds]))


@pytest.mark.parametrize("seed", range(40))
def test_the_race_is_the_literal_one(seed):
    finalists = [7, 3, 9, 0, 4][: 2 + seed % 4]
    baseline = finalists[seed % len(finalists)]
    scores = draw(finalists, seed, gap=0.01 + 0.01 * (seed % 3))
    found = run_race(scores, finalists, seeds=SEEDS, baseline=baseline)
    drops, left = literal_race(scores, finalists, baseline)
    assert [(d.trial, d.seeds, d.leader, d.deviation) for d in found.dropped] == drops
    assert list(found.alive) == left


def test_the_literal_races_differ():
    """What the comparison above is worth: races of one round and of all, with drops and ties."""
    ends = [literal_race(draw([7, 3, 9, 0, 4], seed), [7, 3, 9, 0, 4], 0) for seed in range(40)]
    assert {r for drops, _ in ends for _, r, *_ in drops} >= {1, 2, 3, 4, 5}
    assert {len(left) for _, left in ends} >= {1, 2, 3}


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), finalists=st.integers(1, 6), planned=st.integers(1, 5))
def test_the_order_of_results_does_not_matter(seed, finalists, planned):
    """Any order, any interruption: the end is that of a table that was full at once, with all the runs it speaks of."""
    rng = np.random.default_rng(seed)
    numbers = [int(k) for k in rng.permutation(20)[:finalists]]
    baseline, seeds = numbers[-1], SEEDS[:planned]
    scores = draw(numbers, seed, gap=0.02 * rng.random())
    end, done = drive(scores, numbers, rng, seeds=seeds, baseline=baseline)
    assert end == run_race(scores, numbers, seeds=seeds, baseline=baseline)
    assert end == run_race(done, numbers, seeds=seeds, baseline=baseline)
    ran = {drop.trial: set(seeds[: drop.seeds]) for drop in end.dropped}
    ran |= {k: set(seeds[: end.rounds]) for k in end.alive}
    ran[baseline] |= set(seeds)
    assert {k: {s for t, s in done if t == k} for k in numbers} == ran
    assert set(seeds) <= ran[end.alive[0]]
    assert sorted([*end.alive, *(drop.trial for drop in end.dropped)]) == sorted(numbers)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_other_numbers_the_same_race(seed):
    rng, numbers = np.random.default_rng(seed), [3, 0, 8, 5]
    scores = draw(numbers, seed)
    other = dict(zip(numbers, [int(k) for k in rng.permutation(9)[:4]], strict=True))
    found = run_race(scores, numbers, seeds=SEEDS, baseline=0)
    shuffled = [other[numbers[i]] for i in rng.permutation(4)]
    renamed = run_race(
        {(other[k], s): score for (k, s), score in scores.items()},
        shuffled,
        seeds=SEEDS,
        baseline=other[0],
    )
    assert renamed.alive == tuple(other[k] for k in found.alive)
    assert [(d.trial, d.seeds, d.leader) for d in renamed.dropped] == [
        (other[d.trial], d.seeds, other[d.leader]) for d in found.dropped
    ]


def steady(levels, seeds=SEEDS, wobble=0.001):
    """Scores that go up and down a little by turns, each finalist about its level."""
    return {(k, s): level + wobble * (-1) ** (i + k) for k, level in levels.items() for i, s in enumerate(seeds)}


def only(scores, **seeds_of):
    """Some finalists' first runs: t7=2 are the first two of trial 7."""
    order = SEEDS
    return {(k, s): v for (k, s), v in scores.items() if s in order[: seeds_of.get(f"t{k}", 0)]}


def test_what_is_wanted_as_a_race_goes_on():
    scores = steady({7: 0.5301, 3: 0.53, 0: 0.50})
    ask = {"finalists": [7, 3, 0], "seeds": SEEDS, "baseline": 0}
    every = tuple((0, s) for s in SEEDS)
    start = run_race({}, **ask)
    assert (start.pending_runs, start.alive, start.rounds) == ((*every, (7, 10), (3, 10)), (7, 3, 0), 0)
    waiting = run_race(only(scores, t0=4, t7=1, t3=1), **ask)
    assert (waiting.pending_runs, waiting.dropped, waiting.rounds) == (((0, 14),), (), 0), (
        "no decision before the baseline's end"
    )
    half = run_race(only(scores, t0=5, t7=1), **ask)
    assert (half.pending_runs, half.dropped) == (((3, 10),), ())
    first = run_race(only(scores, t0=5, t7=1, t3=1), **ask)
    assert [drop.trial for drop in first.dropped] == [0]
    assert (first.pending_runs, first.rounds) == (((7, 11), (3, 11)), 1)
    end = run_race(scores, **ask)
    assert (end.pending_runs, end.rounds, set(end.alive)) == ((), 5, {7, 3})


def test_what_is_left_alone_wants_all_its_seeds_at_once():
    scores = steady({7: 0.60, 3: 0.50, 0: 0.50})
    found = run_race(only(scores, t0=5, t7=1, t3=1), [7, 3, 0], seeds=SEEDS, baseline=0)
    assert found.pending_runs == tuple((7, s) for s in SEEDS[1:])
    assert {drop.trial for drop in found.dropped} == {3, 0}
    assert run_race(scores, [7, 3, 0], seeds=SEEDS, baseline=0).pending_runs == ()


def test_the_baseline_can_win_and_others_fall_against_it():
    scores = steady({7: 0.50, 0: 0.60})
    end = run_race(only(scores, t0=5, t7=1), [7, 0], seeds=SEEDS, baseline=0)
    assert (end.alive, end.pending_runs, end.rounds) == ((0,), (), 5)
    assert [(d.trial, d.leader, d.seeds) for d in end.dropped] == [(7, 0, 1)]


def test_without_racing_all_run_all_seeds():
    finalists = [7, 3, 9, 0]
    scores = draw(finalists, 0, gap=0.2)
    ask = {"seeds": SEEDS, "baseline": 0, "racing": False}
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


def test_who_has_failed_wants_nothing_but_still_tells_the_spread():
    scores = draw([7, 3, 9, 0], 6, gap=0.01)
    ask = {"seeds": SEEDS, "baseline": 0}
    end = run_race(scores, [7, 3, 9, 0], out={9}, **ask)
    without = run_race({run: v for run, v in scores.items() if run[0] != 9}, [7, 3, 0], **ask)
    assert 9 not in end.alive
    assert 9 not in {drop.trial for drop in end.dropped}
    told = [(d.trial, d.seeds, d.deviation) for d in end.dropped]
    assert told[-1][1] > 1, "nothing is repeated within a round"
    assert told[-1][2] != without.dropped[-1].deviation
    begun = run_race({}, [7, 3, 9, 0], out={9}, **ask)
    assert {trial for trial, _ in begun.pending_runs} == {7, 3, 0}


def test_without_the_baseline_the_first_round_has_no_yardstick():
    scores = steady({7: 0.60, 3: 0.50, 0: 0.5})
    ask = {"seeds": SEEDS, "baseline": 0, "out": {0}}
    first = run_race(only(scores, t7=1, t3=1), [7, 3, 0], **ask)
    assert (first.dropped, first.pending_runs) == ((), ((7, 11), (3, 11)))
    assert [d.seeds for d in run_race(only(scores, t7=2, t3=2), [7, 3, 0], **ask).dropped] == [2]
    assert run_race(scores, [7, 3, 0], **{**ask, "out": {0, 3, 7}}) == racing.Race(
        alive=(), dropped=(), rounds=0, pending_runs=()
    )


def test_scores_without_any_spread():
    """Equal ones stay in the given order; the smallest lead of another decides at once."""
    levels = {3: 0.5, 7: 0.75, 9: 0.75, 0: 0.25}
    end = run_race(steady(levels, wobble=0.0), [3, 7, 9, 0], seeds=SEEDS, baseline=0)
    assert (end.alive, [d.trial for d in end.dropped]) == ((7, 9), [0, 3])


def test_reasons():
    drop = Drop(trial=5, seeds=2, leader=7, behind=0.01844, p=0.0034, deviation=0.004)
    assert drop.reason() == "dropped after 2 seeds: 1.84 behind trial 7 (p = 0.003)"
    tiny = Drop(trial=5, seeds=1, leader=7, behind=0.1, p=0.0004, deviation=0.004)
    assert tiny.reason() == "dropped after 1 seed: 10.00 behind trial 7 (p < 0.001)"


def test_the_race_costs_little_and_saves_runs():
    """1,000 simulated searches: within 0.02 points of all seeds' choice at no more than 60 % of the runs with eight finalists and
    the baseline, 70 % with four; the best trial as it is does far worse."""
    for finalists, share in ((4, 0.70), (8, 0.60)):
        world = simulated.World(finalists=finalists)
        searches = simulated.draw_many(world, 1000, seed=1)
        grid, raced = (simulated.by_confirmation(world, searches, racing=on) for on in (False, True))
        more = raced.regret - grid.regret
        assert more.mean() <= 0.02
        assert raced.runs.sum() <= share * grid.runs.sum()
        trial = simulated.by_best_trial(searches).regret - raced.regret
        assert trial.mean() > 4 * trial.std() / math.sqrt(len(trial))


def test_the_simulation_counts_the_runs_that_a_race_takes():
    """It gives the race all runs at once; a real one has only those it asked for."""
    world = simulated.World()
    for search in simulated.draw_many(world, 20, seed=2):
        end = simulated.confirmed(world, search, racing=True)
        rng = np.random.default_rng(0)
        real, done = drive(search.scores, search.finalists, rng, seeds=range(5), baseline=simulated.BASELINE)
        assert real == end
        assert len(done) == simulated.runs_of(world, end)
