"""Plans: every shipped one reaches the trainer key by key, and every mistake is named before anything runs."""

import json
from pathlib import Path

import jsonschema
import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lfvd.config import PRESETS, Config, config_keys
from lfvd.files import InputWarning, read_yaml
from lfvd.schema import limits
from lfvd.training.trainer import TrainResult
from tests.helpers.plans import PLAN, make_plan
from tune.cli import main
from tune.execution.worker import run_job
from tune.parameter import Parameter
from tune.plan import SHIPPED, PlanError, SearchPlan, plan_schema
from tune.search.trials import SearchJobs
from tune.study.study import DataSource, Study

PLANS = sorted(SHIPPED.glob("*.yaml"))
BASE = Config.from_yaml("meld")


@pytest.fixture(params=PLANS, ids=lambda path: path.stem)
def shipped(request) -> SearchPlan:
    return SearchPlan.from_yaml(request.param)


def changed(plan: SearchPlan, parameter: Parameter) -> dict:
    """The baseline with another value of one key."""
    value = next(v for v in reversed(parameter.ends()) if v != plan.baseline[parameter.key])
    return {**plan.baseline, parameter.key: value}


def test_there_are_plans():
    assert {"demo", "meld", "iemocap", "meld_text"} <= {path.stem for path in PLANS}


def test_shipped_plan(shipped):
    """What the README promises of each: the paper's settings first, five seeds."""
    base = Config.from_yaml(shipped.base)
    run = {"run.epochs": shipped.scheduler.max_epochs, "run.threads": shipped.resources.cpu}
    device = "auto" if shipped.resources.gpu else "cpu"
    assert shipped.config == base.with_values({**shipped.set, **run, "run.device": device})
    own = base.with_values(shipped.set).flat()
    assert shipped.baseline == {key: own[key] for key in shipped.space}
    assert shipped.config_of(shipped.baseline) == shipped.config
    assert shipped.confirm.seeds == (0, 1, 2, 3, 4)
    assert shipped.scheduler.grace_epochs < shipped.scheduler.max_epochs


def test_each_searched_key_reaches_the_trainer(shipped, tmp_path, monkeypatch):
    """From the sampler through the journal and the job to the arguments of `train`: one key changed, one key arrives."""
    received = []
    ended = TrainResult(seed=0, best_epoch=1, state={}, history=[{"epoch": 1, "seconds": 0.0}])
    monkeypatch.setattr(
        "lfvd.training.trainer.train", lambda config, corpus, seed, **_: received.append((config.flat(), seed)) or ended
    )
    monkeypatch.setattr("ray.tune.report", lambda news: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    data = DataSource(path="x", name="X", fingerprint="0", simulated=())
    study = Study.start(tmp_path / "study", shipped, data, {})
    jobs = SearchJobs(study, lambda: False)
    for parameter in shipped.space.values():
        study.optuna.enqueue_trial(changed(shipped, parameter))
    started = [jobs.next() for _ in range(1 + len(shipped.space))]
    for job in started:
        run_job({"job": job}, None)
    (baseline, _), *others = received
    assert baseline == shipped.config.flat()
    for parameter, (config, _) in zip(shipped.space.values(), others, strict=True):
        value = changed(shipped, parameter)[parameter.key]
        assert {k: v for k, v in config.items() if baseline[k] != v} == {parameter.key: value}
    assert len({seed for _, seed in received}) == len(received)


def test_a_modality_list_is_searched_as_text(tmp_path):
    plan = make_plan(set={}, space={"data.modalities": {"choices": ["l,a,v", "l", "a, v"]}})
    assert plan.baseline == {"data.modalities": "l,a,v"}
    assert plan.config_of({"data.modalities": "a, v"}).data.modalities == ("a", "v")


def test_defaults():
    plan = SearchPlan.from_dict(
        {"base": "meld", "space": {"optim.lr": {"low": "1e-5", "high": 1}}, "trials": 1}, source="p", folder=Path()
    )
    assert plan.space["optim.lr"] == Parameter(key="optim.lr", low=1e-5, high=1.0)
    assert (plan.sampler.kind, plan.scheduler.kind, plan.resources.max_concurrent) == ("tpe", "asha", "auto")
    assert plan.budget.wall_seconds == float("inf")


@pytest.mark.parametrize(
    ("wall", "seconds"), [("90s", 90), ("90m", 5400), ("1.5h", 5400), ("2 h", 7200), ("1d", 86400)]
)
def test_budget_wall(wall, seconds):
    assert make_plan(budget={"wall": wall}).budget.wall_seconds == seconds


def test_base_beside_the_plan(tmp_path):
    BASE.with_values({"optim.lr": 1e-2}).to_yaml(tmp_path / "own.yaml", {"study": "before"})
    (tmp_path / "plan.yaml").write_text("base: own.yaml\nspace: {optim.lr: {low: 1.0e-3, high: 1.0e-1}}\ntrials: 3\n")
    assert SearchPlan.from_yaml(tmp_path / "plan.yaml").baseline == {"optim.lr": 1e-2}


def test_file_wins_over_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "demo").write_text("base: iemocap\nspace: {optim.lr: {low: 1.0e-5, high: 1.0e-1}}\ntrials: 3\n")
    assert SearchPlan.from_yaml("demo").base == "meld"
    monkeypatch.chdir(tmp_path)
    assert SearchPlan.from_yaml("demo").base == "iemocap"


LR = {"low": 1e-5, "high": 1e-2}
KNOWN = "base, set, space, trials, sampler, scheduler, resources, budget, confirm"
FORM = "but must be {low: …, high: …}, with log: true if wanted, or {choices: […]}"

BAD = {
    "unknown section": (
        {"budgets": {}},
        "there is no key `budgets`: did you mean `budget`?",
    ),
    "unlike any": ({"qqq": 1}, f"there is no key `qqq`: known keys are {KNOWN}"),
    "misspelt key": (
        {"space": {"optim.lrr": LR}},
        "there is no key `optim.lrr`: did you mean `optim.lr`?",
    ),
    "last part alone": ({"space": {"lr": LR}}, "there is no key `lr`: did you mean `optim.lr`?"),
    "key of a section": (
        {"sampler": {"sed": 1}},
        "there is no key `sampler.sed`: did you mean `sampler.seed`?",
    ),
    "low above high": (
        {"space": {"optim.lr": {"low": 1e-2, "high": 1e-3}}},
        "`space.optim.lr` has low 0.01 and high 0.001, but low must be below high: swap them",
    ),
    "log from 0": (
        {"space": {"model.dropout": {"low": 0, "high": 0.5, "log": True}}},
        "`space.model.dropout` has log: true and low 0, but a log range must start above 0",
    ),
    "low is text": (
        {"space": {"optim.lr": {"low": "small", "high": 1}}},
        "the value of `space.optim.lr.low` is 'small', but must be a number",
    ),
    "high is NaN": (
        {"space": {"optim.lr": {"low": 1e-5, "high": float("nan")}}},
        "the value of `space.optim.lr.high` is nan, but must be a number",
    ),
    "float for int": (
        {"space": {"model.dag_speaker_window": {"low": 1.5, "high": 4}}},
        "the value of `space.model.dag_speaker_window.low` is 1.5, but must be a whole number",
    ),
    "bool for int": (
        {"space": {"model.dag_speaker_window": {"low": True, "high": 4}}},
        "the value of `space.model.dag_speaker_window.low` is True, but must be a whole number",
    ),
    "log is a number": (
        {"space": {"optim.lr": {**LR, "log": 1}}},
        "the value of `space.optim.lr.log` is 1, but must be true or false",
    ),
    "a bare value": ({"space": {"optim.lr": 0.1}}, f"the value of `space.optim.lr` is 0.1, {FORM}"),
    "range and choices": (
        {"space": {"optim.lr": {**LR, "choices": [1]}}},
        f"the value of `space.optim.lr` is { ({**LR, 'choices': [1]})!r}, {FORM}",
    ),
    "range of names": (
        {"space": {"model.fusion": {"low": 0, "high": 1}}},
        "`space.model.fusion` is no number: give {choices: […]} instead of a range",
    ),
    "range of switches": (
        {"space": {"model.attention": {"low": 0, "high": 1}}},
        "`space.model.attention` is no number: give {choices: […]} instead of a range",
    ),
    "no choices": (
        {"space": {"model.heads": {"choices": []}}},
        "the value of `space.model.heads.choices` is [], but must list different values",
    ),
    "a choice twice": (
        {"space": {"model.heads": {"choices": [2, 2]}}},
        "the value of `space.model.heads.choices` is [2, 2], but must list different values",
    ),
    "choices are lists": (
        {"set": {}, "space": {"data.modalities": {"choices": [["l", "a", "v"], ["l"]]}}},
        'the choices of `space.data.modalities` hold lists: write each as text, such as "l,a"',
    ),
    "unknown choice": (
        {"space": {"model.fusion": {"choices": ["variational", "gates"]}}},
        "space: the value of `model.fusion` is 'gates', but must be one of variational, add, concat, gate: "
        "did you mean `gate`?",
    ),
    "outside Config's range": (
        {"space": {"model.dropout": {"low": 0.1, "high": 0.99}}},
        "space: the value of `model.dropout` is 0.99, but must be at least 0 and at most 0.95",
    ),
    "open end of Config's range": (
        {"space": {"optim.lr": {"low": 0, "high": 0.1}}},
        "space: the value of `optim.lr` is 0.0, but must be above 0 and at most 1",
    ),
    "heads do not divide the width": (
        {"space": {"model.heads": {"choices": [4, 3]}}},
        "space: the value of `model.heads` is 3, but must divide `model.width` 8: try 2 or 4",
    ),
    "one of the heads in a range": (
        {"space": {"model.heads": {"low": 1, "high": 4}}},
        "space: the value of `model.heads` is 3, but must divide `model.width` 8: try 2 or 4",
    ),
    "range of widths": (
        {"set": {}, "space": {"model.width": {"low": 256, "high": 512}}},
        "space: the value of `model.width` is 257, but must be even: try 258; "
        "the value of `model.heads` is 4, but must divide `model.width` 257: try 1",
    ),
    "baseline outside": (
        {"space": {"optim.lr": {"low": 1e-2, "high": 1e-1}}},
        "`space.optim.lr` leaves out the base's own value 0.00025, which is the first trial of every search: widen it, "
        "or take another base",
    ),
    "set and space": (
        {"set": {"optim.lr": 1e-3}, "space": {"optim.lr": LR, "loss.gamma1": LR}},
        "`optim.lr` stands in both `set` and `space`: keep one",
    ),
    "set the epochs": (
        {"set": {"run.epochs": 3}},
        "`run.epochs` comes from `resources` and `scheduler.max_epochs`: set it there",
    ),
    "set the device": (
        {"set": {"run.device": "cuda"}},
        "`run.device` comes from `resources` and `scheduler.max_epochs`: set it there",
    ),
    "set a bad value": (
        {"set": {"model.width": 7}},
        "set: the value of `model.width` is 7, but must be even: try 8; the value of `model.heads` is 4, but must divide "
        "`model.width` 7: try 1 or 7",
    ),
    "search the epochs": (
        {"space": {"run.epochs": {"low": 1, "high": 9}, "optim.lr": LR}},
        "`run.epochs` cannot be searched: it is part of how a trial runs, not of the model",
    ),
    "seeds twice": (
        {"confirm": {"seeds": [0, 1, 1]}},
        "the value of `confirm.seeds` is [0, 1, 1], but must be a list of different whole numbers, at least 0",
    ),
    "negative seed": (
        {"confirm": {"seeds": [-1]}},
        "the value of `confirm.seeds` is [-1], but must be a list of different whole numbers, at least 0",
    ),
    "no seeds": (
        {"confirm": {"seeds": []}},
        "the value of `confirm.seeds` is [], but must be a list of different whole numbers, at least 0",
    ),
    "one seed": (
        {"confirm": {"seeds": 3}},
        "the value of `confirm.seeds` is 3, but must be a list of different whole numbers, at least 0",
    ),
    "baseline in the middle": (
        {"confirm": {"baseline": "middle"}},
        "the value of `confirm.baseline` is 'middle', but must be one of first, last",
    ),
    "budget without a unit": (
        {"budget": {"wall": "90"}},
        "the value of `budget.wall` is '90', but must be a number above 0 with s, m, h or d, such as 90m",
    ),
    "budget as a number": (
        {"budget": {"wall": 90}},
        "the value of `budget.wall` is 90, but must be a number above 0 with s, m, h or d, such as 90m",
    ),
    "negative GPU-hours": (
        {"budget": {"gpu_hours": -1}},
        "the value of `budget.gpu_hours` is -1.0, but must be at least 0 and at most 1e+09",
    ),
    "no trial at a time": (
        {"resources": {"max_concurrent": 0}},
        "the value of `resources.max_concurrent` is 0, but must be auto or a whole number, at least 1",
    ),
    "one and a half GPUs": (
        {"resources": {"gpu": 1.5}},
        "the value of `resources.gpu` is 1.5, but must be a share of one GPU or a whole number: try 1",
    ),
    "unknown sampler": (
        {"sampler": {"kind": "cma"}},
        "the value of `sampler.kind` is 'cma', but must be one of tpe, random, gp, qmc",
    ),
    "reduction 1": (
        {"scheduler": {"reduction": 1}},
        "the value of `scheduler.reduction` is 1, but must be at least 2 and at most 100",
    ),
    "no trials": ({"trials": 0}, "the value of `trials` is 0, but must be at least 1"),
    "trials as text": ({"trials": "ten"}, "the value of `trials` is 'ten', but must be a whole number"),
    "empty space": ({"space": {}}, "the value of `space` is empty, but must name at least one key of Config to search"),
    "base missing": (
        {"base": None},
        "the value of `base` is None, but must name a preset or the file of a Config",
    ),
    "unknown base": (
        {"base": "melt"},
        "melt: there is no such file or preset: name a YAML file or one of iemocap, meld",
    ),
    "section is a list": ({"sampler": [1]}, "the value of `sampler` is [1], but must be a mapping of its keys"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_plan(name):
    changes, text = BAD[name]
    with pytest.raises(PlanError) as error:
        make_plan(**changes)
    assert str(error.value) == f"plan: {text}"


def test_all_problems_are_shown_together():
    with pytest.raises(PlanError) as error:
        make_plan(
            trials=-1,
            set={"model.wdth": 4},
            sampler={"seed": "x", "kin": "tpe"},
            space={"optim.lr": {"low": 2, "high": 1}, "model.depth": LR, "model.heads": {"choices": [5]}},
            budget={"wall": "soon"},
        )
    assert str(error.value).split("; ") == [
        "plan: `space.optim.lr` has low 2 and high 1, but low must be below high: swap them",
        "there is no key `model.depth`: did you mean `model.width`?",
        "the value of `trials` is -1, but must be at least 1",
        "the value of `sampler.seed` is 'x', but must be a whole number",
        "there is no key `sampler.kin`: did you mean `sampler.kind`?",
        "the value of `budget.wall` is 'soon', but must be a number above 0 with s, m, h or d, such as 90m",
        "set: there is no key `model.wdth`: did you mean `model.width`?",
    ]


def test_missing_file_names_the_shipped_plans(tmp_path):
    with pytest.raises(PlanError) as error:
        SearchPlan.from_yaml(tmp_path / "gone.yaml")
    names = ", ".join(path.stem for path in PLANS)
    assert str(error.value) == (
        f"{tmp_path}/gone.yaml: there is no such file: name a plan, or one of the shipped {names}"
    )


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


SCHEMAS = {"plan": SHIPPED / "plan.schema.json", "config": PRESETS / "config.schema.json"}


@pytest.mark.parametrize(("name", "option"), [("plan", []), ("config", ["--config"])])
def test_shipped_schema_is_current(name, option, capsys):
    with pytest.raises(SystemExit) as end:
        main(["schema", *option])
    assert end.value.code == 0
    assert capsys.readouterr().out == SCHEMAS[name].read_text(encoding="utf-8"), (
        f"lfvd-tune schema {' '.join(option)} > {SCHEMAS[name]}"
    )


@pytest.mark.parametrize("file", [*PLANS, *PRESETS.glob("*.yaml")], ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_shipped_file_fits_the_schema_that_it_names(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    schema = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema in SCHEMAS.values()
    jsonschema.validate(read_yaml(file), json.loads(schema.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "change",
    [
        {"trails": 3},
        {"sampler": {"sed": 1}},
        {"set": {"model.wdth": 4}},
        {"set": {"model.width": 1}},
        {"set": {"run.epochs": 3}},
        {"space": {"optim.lrr": {"low": 0.1, "high": 0.2}}},
        {"space": {"optim.lr": {"low": 0.1, "hihg": 0.2}}},
        {"space": {"model.fusion": {"choices": ["gates"]}}},
        {"space": {"run.epochs": {"choices": [3]}}},
        {"space": {}},
        {"resources": {"gpu": "all"}},
        {"budget": {"wall": 90}},
        {"confirm": {"seeds": [1, 1]}},
    ],
    ids=str,
)
def test_schema_refuses_what_the_plan_refuses(change):
    """A mistyped key, or a value outside its type or range."""
    validator = jsonschema.Draft202012Validator(plan_schema())
    assert validator.is_valid(PLAN)
    assert not validator.is_valid({**PLAN, **change})
    with pytest.raises(PlanError):
        make_plan(**change)


@pytest.mark.parametrize("change", [{"resources": {"gpu": "auto", "max_concurrent": 3}}, {"budget": {"wall": "1.5 h"}}])
def test_schema_allows_what_the_plan_allows(change):
    jsonschema.validate({**PLAN, **change}, plan_schema())
    make_plan(**change)


def test_keys_of_version_0_1_have_no_effect():
    """One warning names both; a plan frozen today has neither."""
    old = {"scheduler": {**PLAN["scheduler"], "audit": 0.05}, "confirm": {**PLAN["confirm"], "max_seeds": 8}}
    text = "plan: `scheduler.audit` has no effect any more; `confirm.max_seeds` has no effect any more"
    with pytest.warns(InputWarning, match=f"^{text}$") as told:
        plan = make_plan(**old)
    assert len(told) == 1
    assert plan == make_plan()
    assert plan.frozen() == make_plan().frozen()


def test_extended():
    """`resume --wall`, `--gpu-hours`, `--trials`: each changes its own limit and nothing else."""
    plan = make_plan(resources={"gpu": 0.5}, budget={"wall": "8h", "gpu_hours": 4})
    same = {"trials": None, "wall": None, "gpu_hours": None}
    assert plan.extended(**same).frozen() == plan.frozen()
    longer = plan.extended(**{**same, "wall": "9h"})
    assert (longer.budget.wall_seconds, longer.budget.gpu_hours, longer.trials) == (9 * 3600, 4, plan.trials)
    more = plan.extended(**{**same, "gpu_hours": 5.0, "trials": plan.trials + 1})
    assert (more.budget.wall_seconds, more.budget.gpu_hours, more.trials) == (8 * 3600, 5, plan.trials + 1)
    assert (more.space, more.config) == (plan.space, plan.config)
    with pytest.raises(PlanError, match="wall"):
        plan.extended(**{**same, "wall": "soon"})
