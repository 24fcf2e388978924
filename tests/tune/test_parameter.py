"""Searched keys: what `space` allows and how it refuses the rest; any value of a valid plan's space is a Config."""

from pathlib import Path

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lfvd.config import Config, config_keys
from lfvd.schema import limits
from tests.helpers.plans import PLAN, make_plan
from tune.plan import PlanError, SearchPlan

LR = {"low": 1e-5, "high": 1e-2}
FORM = "but must be {low: …, high: …}, with log: true if wanted, or {choices: […]}"


@pytest.mark.parametrize(
    ("key", "entry", "text"),
    [
        ("optim.lrr", LR, "there is no key `optim.lrr`: did you mean `optim.lr`?"),
        ("lr", LR, "there is no key `lr`: did you mean `optim.lr`?"),
        ("run.epochs", LR, "`run.epochs` cannot be searched: it is part of how a trial runs, not of the model"),
        ("optim.lr", 0.1, f"the value of `space.optim.lr` is 0.1, {FORM}"),
        ("optim.lr", {**LR, "choices": [1]}, f"the value of `space.optim.lr` is { ({**LR, 'choices': [1]})!r}, {FORM}"),
        (
            "optim.lr",
            {"low": 1e-2, "high": 1e-3},
            "`space.optim.lr` has low 0.01 and high 0.001, but low must be below high: swap them",
        ),
        ("optim.lr", {**LR, "log": 1}, "the value of `space.optim.lr.log` is 1, but must be true or false"),
        (
            "model.dropout",
            {"low": 0, "high": 0.5, "log": True},
            "`space.model.dropout` has log: true and low 0, but a log range must start above 0",
        ),
        ("optim.lr", {"low": "x", "high": 1}, "space: the value of `optim.lr` is 'x', but must be a number"),
        (
            "optim.lr",
            {"low": 1e-5, "high": float("nan")},
            "space: the value of `optim.lr` is nan, but must be above 0 and at most 1",
        ),
        ("optim.lr", {"low": 0, "high": 1}, "space: the value of `optim.lr` is 0.0, but must be above 0 and at most 1"),
        (
            "model.latent",
            {"low": 1.5, "high": 4},
            "space: the value of `model.latent` is 1.5, but must be a whole number",
        ),
        (
            "model.latent",
            {"low": True, "high": 4},
            "space: the value of `model.latent` is True, but must be a whole number",
        ),
        (
            "model.fusion",
            {"low": 0, "high": 1},
            "`space.model.fusion` is no number: give {choices: […]} instead of a range",
        ),
        (
            "model.attention",
            {"low": 0, "high": 1},
            "`space.model.attention` is no number: give {choices: […]} instead of a range",
        ),
        (
            "model.heads",
            {"choices": []},
            "the value of `space.model.heads.choices` is [], but must list different values",
        ),
        (
            "model.heads",
            {"choices": [2, 2]},
            "the value of `space.model.heads.choices` is [2, 2], but must list different values",
        ),
        (
            "data.modalities",
            {"choices": [["l", "a", "v"], ["l"]]},
            'the choices of `space.data.modalities` hold lists: write each as text, such as "l,a"',
        ),
        (
            "model.fusion",
            {"choices": ["variational", "gates"]},
            "space: the value of `model.fusion` is 'gates', but must be one of variational, add, concat, gate: "
            "did you mean `gate`?",
        ),
        (
            "model.heads",
            {"choices": [4, 3]},
            "space: the value of `model.heads` is 3, but must divide `model.width` 8: try 2 or 4",
        ),
        (
            "model.heads",
            {"low": 1, "high": 4},
            "space: the value of `model.heads` is 3, but must divide `model.width` 8: try 2 or 4",
        ),
        (
            "optim.lr",
            {"low": 1e-2, "high": 1e-1},
            "`space.optim.lr` leaves out the base's own value 0.00025, which is the first trial of every search: widen "
            "it, or take another base",
        ),
    ],
)
def test_bad_entry(key, entry, text):
    with pytest.raises(PlanError) as error:
        make_plan(space={key: entry})
    assert str(error.value) == f"plan: {text}"


def test_range_of_widths_that_are_odd():
    """The first bad width is told, not all of them."""
    with pytest.raises(PlanError) as error:
        make_plan(set={}, space={"model.width": {"low": 256, "high": 512}})
    assert str(error.value) == (
        "plan: space: the value of `model.width` is 257, but must be even: try 258; "
        "the value of `model.heads` is 4, but must divide `model.width` 257: try 1"
    )


def test_a_modality_list_is_searched_as_text():
    plan = make_plan(set={}, space={"data.modalities": {"choices": ["l,a,v", "l", "a, v"]}})
    assert plan.baseline == {"data.modalities": "l,a,v"}
    assert plan.config_of({"data.modalities": "a, v"}).data.modalities == ("a", "v")


NUMBERS = [
    key for key, spec in config_keys().items() if spec["type"] in ("integer", "number") and not key.startswith("run.")
]


@st.composite
def ranges(draw, key: str) -> dict:
    """A range of one key inside Config's own."""
    spec = config_keys()[key]
    low, high = limits(spec)
    if spec["type"] == "integer":
        ends = draw(st.tuples(*[st.integers(int(low), int(high))] * 2))
    else:
        ends = draw(
            st.tuples(*[st.floats(low, high, exclude_min="exclusiveMinimum" in spec, allow_subnormal=False)] * 2)
        )
    assume(ends[0] != ends[1])
    return {"low": min(ends), "high": max(ends), "log": draw(st.booleans()) and min(ends) > 0}


@st.composite
def plans(draw) -> SearchPlan:
    """A valid plan over random keys; the base has each key's low end or first choice."""
    space = {key: draw(ranges(key)) for key in draw(st.sets(st.sampled_from(NUMBERS), max_size=4))}
    # Heads and width must fit each other: choices that often do, and ranges that sometimes do.
    heads = st.sampled_from(
        [{"choices": [1, 2, 4, 8]}, {"choices": [3, 1]}, {"low": 1, "high": 2}, {"low": 1, "high": 4}]
    )
    widths = st.sampled_from([{"choices": [24, 48, 12]}, {"choices": [8, 64]}])
    space |= draw(st.fixed_dictionaries({}, optional={"model.heads": heads, "model.width": widths}))
    space |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "model.fusion": st.just({"choices": ["gate", "add"]}),
                "data.modalities": st.just({"choices": ["l", "a,v"]}),
                "model.attention": st.just({"choices": [True, False]}),
            },
        )
    )
    assume(space)
    own = {key: each["choices"][0] if "choices" in each else each["low"] for key, each in space.items()}
    try:
        config = Config().with_values(own)
        return SearchPlan.from_dict({**PLAN, "set": {}, "space": space}, source="p", folder=Path(), config=config)
    except ValueError:
        assume(False)


@settings(max_examples=60, deadline=None)
@given(plan=plans(), seed=st.integers(0, 1000))
def test_whatever_a_valid_plan_samples_is_a_config(plan, seed):
    """That a range is checked at few values is enough for all of it."""
    sampler = optuna.samplers.RandomSampler(seed=seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    for _ in range(8):
        values = study.ask({key: p.distribution for key, p in plan.space.items()}).params
        flat = plan.config_of(values).flat()
        text = {k: ",".join(v) if isinstance(v, list) else v for k, v in flat.items()}
        assert {key: text[key] for key in plan.space} == values
        assert all(plan.space[key].holds(value) for key, value in values.items())
    assert plan.config_of(plan.baseline) == plan.config
