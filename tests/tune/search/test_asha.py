"""Rungs: against an obvious reference, against Ray's own ASHA, and refilled by replay."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tune.search.asha import Rungs
from tune.search.asha import quantile as read_off
from tune.sections import SchedulerPlan

Event = tuple[int, int, float]


@st.composite
def streams(draw) -> tuple[SchedulerPlan, list[Event]]:
    """A plan and best-so-far values of trials that take turns at random; some values are equal."""
    grace, reduction = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    plan = SchedulerPlan(grace_epochs=grace, reduction=reduction, max_epochs=draw(st.integers(1, 20)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = draw(st.booleans())
    trials = draw(st.integers(1, 12))
    best, epoch, events = dict.fromkeys(range(trials), -1.0), dict.fromkeys(range(trials), 0), []
    while alive := [t for t in epoch if epoch[t] < plan.max_epochs]:
        trial = int(rng.choice(alive))
        value = float(rng.integers(0, 5) / 4) if coarse else float(rng.uniform())
        best[trial] = max(best[trial], value)
        epoch[trial] += 1
        events.append((trial, epoch[trial], best[trial]))
    return plan, events


def decide(plan: SchedulerPlan, events: list[Event]) -> tuple[Rungs, list[tuple[Event, bool]]]:
    """Events that come about when a stopped trial reports no more, each with whether it stops its trial."""
    rungs, stopped, seen = Rungs(plan), set(), []
    for event in events:
        if event[0] not in stopped:
            stop = rungs.report(*event) is not None
            seen.append((event, stop))
            if stop:
                stopped.add(event[0])
    return rungs, seen


def quantile(values: list[float], share: float) -> float:
    """By the textbook: sort, walk to the place, interpolate."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def clear(value: float, cutoff: float) -> bool:
    """Whether a comparison does not hang on the last bit of an interpolation."""
    return abs(value - cutoff) > 1e-12


@settings(max_examples=150, deadline=None)
@given(streams())
def test_against_the_reference(stream):
    plan, events = stream
    places = [plan.grace_epochs * plan.reduction**k for k in range(10)]
    places = [place for place in places if place < plan.max_epochs]
    reached: dict[int, list[float]] = {place: [] for place in places}
    rungs, seen = decide(plan, events)
    for (_, epoch, value), stop in seen:
        expected = False
        if epoch in reached:
            if reached[epoch]:
                cutoff = quantile(reached[epoch], 1 - 1 / plan.reduction)
                assume(clear(value, cutoff) or len(set(reached[epoch])) == 1)
                expected = value < cutoff
            reached[epoch].append(value)
        assert stop == expected
    assert {place: list(values.values()) for place, values in rungs.values.items()} == reached


class _Trial:
    """As much of Ray's trial as its scheduler looks at."""

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


def ray_decisions(plan: SchedulerPlan, events: list[Event]) -> list[tuple[Event, bool]]:
    from tune.execution.ray_jobs import ray_tune  # Ray as imported there: a bare import warns of what is to come

    schedulers = ray_tune.schedulers
    scheduler = schedulers.AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="best",
        mode="max",
        grace_period=plan.grace_epochs,
        reduction_factor=plan.reduction,
        max_t=plan.max_epochs,
        brackets=1,
    )
    trials = {event[0]: _Trial(event[0]) for event in events}
    for trial in trials.values():
        scheduler.on_trial_add(None, trial)
    stopped, seen = set(), []
    for number, epoch, value in events:
        if number in stopped or epoch >= plan.max_epochs:  # a trial's own end is no decision
            continue
        said = scheduler.on_trial_result(None, trials[number], {"epoch": epoch, "best": value})
        seen.append(((number, epoch, value), said == schedulers.TrialScheduler.STOP))
        if said == schedulers.TrialScheduler.STOP:
            stopped.add(number)
    return seen


@settings(max_examples=100, deadline=None)
@given(streams())
def test_against_rays_own(stream):
    """On best-so-far values that are told each epoch, the two decide alike."""
    plan, events = stream
    assume(plan.grace_epochs < plan.max_epochs)  # Ray refuses
    rungs, seen = decide(plan, events)
    for values in rungs.values.values():
        told = list(values.values())
        for i in range(1, len(told)):
            earlier = told[:i]
            assume(clear(told[i], quantile(earlier, 1 - 1 / plan.reduction)) or len(set(earlier)) == 1)
    assert [(e, s) for e, s in seen if e[1] < plan.max_epochs] == ray_decisions(plan, events)


@settings(max_examples=50, deadline=None)
@given(streams())
def test_replay_gives_the_same_rungs_and_decisions(stream):
    plan, events = stream
    rungs, seen = decide(plan, events)
    again = Rungs(plan)
    assert [(event, again.report(*event) is not None) for event, _ in seen] == seen
    assert again.values == rungs.values


@settings(max_examples=30, deadline=None)
@given(streams())
def test_none_never_stops(stream):
    plan, events = stream
    rungs, seen = decide(SchedulerPlan(kind="none", max_epochs=plan.max_epochs), events)
    assert not any(stop for _, stop in seen)
    assert rungs.values == {}
    assert len(seen) == len(events)


@pytest.mark.parametrize(
    ("grace", "reduction", "most", "places"),
    [
        (3, 3, 80, [3, 9, 27]),
        (1, 3, 243, [1, 3, 9, 27, 81]),
        (1, 10, 1000, [1, 10, 100]),
        (2, 2, 8, [2, 4]),
        (5, 2, 5, []),
    ],
)
def test_places(grace, reduction, most, places):
    """The last rung lies below the last epoch: the end of a trial is its own."""
    assert list(Rungs(SchedulerPlan(grace_epochs=grace, reduction=reduction, max_epochs=most)).values) == places


def test_first_and_equal_go_on_and_the_reason_says_why():
    rungs = Rungs(SchedulerPlan(grace_epochs=1, reduction=3, max_epochs=9))
    assert rungs.report(0, 1, 0.2) is None
    assert rungs.report(1, 1, 0.2) is None
    assert rungs.report(2, 1, 0.1) == "rung 1: 0.1000 below 0.2000"
    assert rungs.report(3, 1, 0.9) is None
    assert rungs.report(4, 2, 0.0) is None, "no rung there"


def test_a_report_that_comes_twice_counts_once():
    rungs = Rungs(SchedulerPlan(grace_epochs=1, reduction=2, max_epochs=9))
    for trial, value in [(0, 0.5), (1, 0.7), (1, 0.7)]:
        assert rungs.report(trial, 1, value) is None
    assert rungs.values[1] == {0: 0.5, 1: 0.7}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-1, 1) | st.integers(0, 5).map(lambda n: n / 4), min_size=1), st.integers(2, 100))
def test_the_cutoff_is_numpys_to_the_last_bit(values, reduction):
    share = 1 - 1 / reduction
    assert read_off(sorted(values), share) == float(np.quantile(values, share))


@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize("reduction", [2, 3, 4, 7])
def test_many_reports_against_the_slow_rule(reduction, coarse):
    """Reasons and values as from a look at all earlier values at each report; some come twice, and with another value."""
    plan = SchedulerPlan(grace_epochs=1, reduction=reduction, max_epochs=50)
    rungs, rng = Rungs(plan), np.random.default_rng(reduction)
    slow: dict[int, dict[int, float]] = {place: {} for place in rungs.values}
    stops, stopped = 0, set()
    for _ in range(4000):
        trial, epoch = int(rng.integers(9000)), int(rng.choice([*slow, 5]))
        value = float(rng.integers(0, 9) / 8) if coarse else float(rng.uniform())
        expected = None
        if epoch in slow and trial not in stopped:
            earlier = [v for number, v in slow[epoch].items() if number != trial]
            cutoff = float(np.quantile(earlier, 1 - 1 / reduction)) if earlier else value
            expected = f"rung {epoch}: {value:.4f} below {cutoff:.4f}" if value < cutoff else None
            slow[epoch][trial] = value
        assert rungs.report(trial, epoch, value) == expected
        if expected:
            stops += 1
            stopped.add(trial)
    assert (rungs.values, rungs.stopped) == (slow, stopped)
    assert 1000 < stops < 3500
