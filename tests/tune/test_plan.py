"""Plans: every shipped one reaches the trainer key by key, and every mistake is named before anything runs."""

import json
from pathlib import Path

import jsonschema
import pytest

from lfvd.config import PRESETS, Config
from lfvd.files import InputWarning, read_yaml
from lfvd.training.checkpoint import TrainResult
from tests.helpers.plans import PLAN, make_plan
from tune.cli import main
from tune.execution.worker import run_job
from tune.parameter import Parameter
from tune.plan import SHIPPED, PlanError, SearchPlan, plan_schema
from tune.search.trials import SearchJobs
from tune.study.plan_file import DataSource
from tune.study.study import Study

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
    monkeypatch.setattr("lfvd.data.folds.divide", lambda corpus, folds, *, deal, fold: None)
    data = DataSource(path="x", name="X", fingerprint="0", simulated=())
    study = Study.start(tmp_path / "study", shipped, data, {"folds": 5})
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


KNOWN = "base, set, space, trials, sampler, scheduler, resources, budget, confirm"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"budgets": {}}, "there is no key `budgets`: did you mean `budget`?"),
        ({"qqq": 1}, f"there is no key `qqq`: known keys are {KNOWN}"),
        ({"seed": None}, "there is no key `seed`: did you mean `sampler.seed`?"),
        ({"sampler": {"sed": 1}}, "there is no key `sampler.sed`: did you mean `sampler.seed`?"),
        ({"sampler": [1]}, "the value of `sampler` is [1], but must be a mapping of its keys"),
        ({"space": [1]}, "the value of `space` is [1], but must be a mapping of its keys"),
        ({"space": {}}, "the value of `space` is empty, but must name at least one key of Config to search"),
        ({"sampler": {"kind": "cma"}}, "the value of `sampler.kind` is 'cma', but must be one of tpe, random, gp, qmc"),
        (
            {"scheduler": {"reduction": 1}},
            "the value of `scheduler.reduction` is 1, but must be at least 2 and at most 100",
        ),
        ({"trials": "ten"}, "the value of `trials` is 'ten', but must be a whole number"),
        ({"trials": 0}, "the value of `trials` is 0, but must be at least 1"),
        ({"base": None}, "the value of `base` is None, but must name a preset or the file of a Config"),
        ({"base": "melt"}, "melt: there is no such file or preset: name a YAML file or one of iemocap, meld"),
        ({"set": {"optim.lr": 1e-3}}, "`optim.lr` stands in both `set` and `space`: keep one"),
        ({"set": {"run.epochs": 3}}, "`run.epochs` comes from `resources` and `scheduler.max_epochs`: set it there"),
        (
            {"set": {"run.device": "cuda"}},
            "`run.device` comes from `resources` and `scheduler.max_epochs`: set it there",
        ),
        (
            {"set": {"model.width": 7}},
            "set: the value of `model.width` is 7, but must be even: try 8; the value of `model.heads` is 4, but must "
            "divide `model.width` 7: try 1 or 7",
        ),
        (
            {"scheduler": {"grace_epochs": 4, "max_epochs": 4}},
            "`scheduler.grace_epochs` 4 leaves asha no rung below `scheduler.max_epochs` 4: lower it, or take kind: none",
        ),
        (
            {"budget": {"gpu_hours": 3}},
            "`budget.gpu_hours` limits nothing where `resources.gpu` is 0: give one of them another value",
        ),
        (
            {"resources": {"gpu": 1.5}},
            "the value of `resources.gpu` is 1.5, but must be a share of one GPU or a whole number: try 1",
        ),
        (
            {"resources": {"gpu": 0.001}},
            "the value of `resources.gpu` is 0.001, but a share of a GPU must be at least 0.01: try 0.25",
        ),
    ],
    ids=str,
)
def test_bad_plan(changes, text):
    with pytest.raises(PlanError) as error:
        make_plan(**changes)
    assert str(error.value) == f"plan: {text}"


SEEDS = "a list of different whole numbers, at least 0"
DURATION = "a number above 0 with s, m, h or d, such as 90m"


@pytest.mark.parametrize(
    ("section", "key", "rule", "bad"),
    [
        ("confirm", "seeds", SEEDS, [[0, 1, 1], [-1], [], 3, [0.5], [True], None]),
        ("budget", "wall", DURATION, ["90", 90, "0m", "-1h", "soon", None]),
        ("resources", "epoch_timeout", DURATION, ["", "m"]),
        ("resources", "max_concurrent", "auto or a whole number, at least 1", [0, "all", True, 1.5, None]),
        ("resources", "gpu", "a number", ["all", True, None]),
        ("resources", "gpu", "at least 0 and at most 64", [-1, 65, "nan", 1e400]),
    ],
)
def test_bad_values_of_a_rule(section, key, rule, bad):
    for value in bad:
        with pytest.raises(PlanError) as error:
            make_plan(**{section: {key: value}})
        assert str(error.value).startswith(f"plan: the value of `{section}.{key}` is ")
        assert str(error.value).endswith(f", but must be {rule}")


def test_all_problems_are_shown_together():
    with pytest.raises(PlanError) as error:
        make_plan(
            trials=-1,
            set={"model.wdth": 4},
            sampler={"seed": "x", "kin": "tpe"},
            space={"optim.lr": {"low": 0.2, "high": 0.1}, "model.depth": {"choices": [1]}},
            budget={"wall": "soon"},
        )
    assert str(error.value).split("; ") == [
        "plan: `space.optim.lr` has low 0.2 and high 0.1, but low must be below high: swap them",
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
        {"confirm": {"folds": 0, "seeds": [1, 1]}},
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
