"""Confirmation: who is trained again, how they are ranked, that test stays sealed, and that best.yaml is the winner exactly."""

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console
from safetensors.torch import load_file
from scipy import stats

from lfvd.config import Config
from lfvd.data.corpus import SPLITS, Corpus
from lfvd.files import read_yaml
from lfvd.training.trainer import train
from tests.helpers import ROOT
from tests.helpers.invented import forget
from tests.helpers.plans import PLAN, start_study
from tests.helpers.workers import run_here
from tune import session
from tune.analysis.conclusions import draw_conclusions
from tune.analysis.summary import summarize
from tune.best import evaluate_test, write_best
from tune.execution import ray_cluster, ray_jobs
from tune.search.confirmation import ConfirmJobs, failed_runs, final_ranking, finalists, race_state, ranking
from tune.search.trials import FAILURE
from tune.statistics import mean_std
from tune.study import jsonl
from tune.study.paths import RECORDS
from tune.study.plan_file import StudyError
from tune.study.study import OBJECTIVE, Study
from tune.tracking.mlflow_runs import MlflowRuns

SEEDS = tuple(PLAN["confirm"]["seeds"])

SHORT = {
    "trials": 4,
    "sampler": {**PLAN["sampler"], "seed": 3},  # its winner is ahead of the baseline with each seed
    "scheduler": {**PLAN["scheduler"], "max_epochs": 3},
    "confirm": {"folds": 0, "finalists": 1, "seeds": list(SEEDS), "race": False},
}
"""A whole sitting of some seconds."""


def never() -> bool:
    return False


def add(study: Study, state: TrialState, values: list[float], **params) -> int:
    """A trial of the search with its best-so-far values → its number."""
    study.optuna.enqueue_trial({**study.plan.baseline, **params})
    trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
    for epoch, value in enumerate(values, start=1):
        trial.report(value, epoch)
    study.optuna.tell(trial, values[-1] if state == TrialState.COMPLETE else None, state=state)
    return trial.number


LR = "optim.lr"
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


@pytest.fixture
def searched(make_study) -> Study:
    """The baseline, two good trials, a copy of the best one, and one that was stopped."""
    study = make_study()
    add(study, COMPLETE, [0.3, 0.4])
    add(study, COMPLETE, [0.5, 0.6], **{LR: 1e-2})
    add(study, COMPLETE, [0.5, 0.6], **{LR: 1e-2})
    add(study, COMPLETE, [0.4, 0.5], **{LR: 2e-2})
    add(study, PRUNED, [0.45], **{LR: 5e-3})
    return study


def test_finalists_differ_and_the_baseline_is_one(searched):
    assert finalists(searched) == [1, 3, 0]


def test_the_baseline_takes_no_finalists_place(make_study):
    study = make_study()
    add(study, COMPLETE, [0.9])
    assert finalists(study) == [], "nothing to compare it with"
    add(study, COMPLETE, [0.5], **{LR: 1e-2})
    add(study, COMPLETE, [0.4], **{LR: 2e-2})
    assert finalists(study) == [1, 2, 0]


def test_stopped_trials_count_by_what_they_had_reached_and_failed_ones_never(make_study):
    study = make_study(confirm={"folds": 0, "finalists": 3, "seeds": [0]})
    add(study, FAIL, [0.99])
    add(study, PRUNED, [0.8], **{LR: 1e-2})
    add(study, PRUNED, [0.3, 0.5], **{LR: 2e-2})
    add(study, COMPLETE, [0.1, 0.2, 0.3, 0.3], **{LR: 5e-3})
    assert finalists(study) == [1, 2, 3, 0], "the baseline is confirmed though it broke: it may have been bad luck"


def test_nothing_to_confirm(make_study):
    study = make_study()
    assert finalists(study) == []
    add(study, FAIL, [0.9])
    assert finalists(study) == []
    assert ConfirmJobs(study, never).exhausted()


def test_order_of_the_runs(searched):
    """The baseline first, whose spread is the race's yardstick; then all finalists on a seed before the next."""
    jobs = ConfirmJobs(searched, never)
    started = []
    while job := jobs.next():
        started.append(job)
    order = [(0, s) for s in SEEDS] + [(n, s) for s in SEEDS for n in (1, 3)]
    assert [job.name for job in started] == [f"confirm-trial{n}-seed{s}" for n, s in order]
    assert [job.seed for job in started] == [s for _, s in order]
    assert [job.config.optim.lr for job in started[-2:]] == [1e-2, 2e-2]
    assert {job.config.run.epochs for job in started} == {PLAN["scheduler"]["max_epochs"]}
    assert not jobs.exhausted(), "until they have ended: one that fails changes what is wanted"


def test_the_best_of_a_run_is_kept_not_the_last(searched, tiny_corpus):
    """confirm.jsonl, weights and epochs.jsonl are those of `train` with the same config and seed, bit by bit."""
    run_here(ConfirmJobs(searched, never), tiny_corpus.restricted("train", "valid"))
    runs = {(run["trial"], run["seed"]): run for run in searched.confirmed()}
    assert set(runs) == {(n, s) for n in (0, 1, 3) for s in SEEDS}
    for trial, seed in [(0, 1), (1, 0), (3, 1)]:
        run = runs[trial, seed]
        alone = train(searched.config_of(trial), tiny_corpus, seed)
        assert run["best_epoch"] == alone.best_epoch
        assert run["val/wf1"] == max(r["val/wf1"] for r in alone.history)
        assert {k: v for k, v in run.items() if k.startswith("val/")} == {
            k: v for k, v in alone.best.items() if k.startswith("val/")
        }
        weights = load_file(searched.paths.weights(trial, seed))
        assert weights.keys() == alone.state.keys()
        assert all(torch.equal(weights[k], alone.state[k]) for k in weights)
        epochs = [r for r in searched.epochs("confirm") if (r["trial"], r["seed"]) == (trial, seed)]
        assert [r["val/wf1"] for r in epochs] == [r["val/wf1"] for r in alone.history]
    assert not list((searched.folder / "checkpoints").iterdir())
    assert any(run["best_epoch"] < 4 for run in runs.values()), "one where best and last differ"


def enter(study: Study, trial: int, seed: int, wf1: float, **more: float) -> None:
    values = {"val/wf1": wf1, "val/acc": wf1 / 2, "val/f1/sad": 0.5, "val/loss": 1.0, OBJECTIVE: wf1, **more}
    study.log_confirmed({"trial": trial, "seed": seed, "best_epoch": 1, "epochs": 4, "seconds": 1.0, **values})


def test_ranking_by_mean(make_study):
    """The one with the luckiest seed is not the one with the best mean; figures as numpy has them."""
    seeds = (3, 4, 5)
    study = make_study(confirm={"folds": 0, "finalists": 2, "seeds": list(seeds), "race": False})
    add(study, COMPLETE, [0.4])
    add(study, COMPLETE, [0.9], **{LR: 1e-2})
    add(study, COMPLETE, [0.8], **{LR: 2e-2})
    rng = np.random.default_rng(0)
    table = {0: rng.uniform(0, 0.2, 3), 1: np.array([0.95, 0.1, 0.1]), 2: rng.uniform(0.5, 0.6, 3)}
    for seed_number in (2, 0, 1):  # the order of arrival means nothing
        for trial, row in table.items():
            enter(study, trial, seeds[seed_number], float(row[seed_number]))
    order = ranking(study)
    assert [c.trial for c in order] == [2, 1, 0]
    for each in order:
        row = table[each.trial]
        assert each.units == seeds
        assert each.wf1 == each.mean["val/wf1"] == pytest.approx(np.mean(row), rel=1e-15)
        assert each.std["val/wf1"] == pytest.approx(np.sqrt(((row - row.mean()) ** 2).sum() / 2), rel=1e-12)
        assert each.mean["val/acc"] == pytest.approx(np.mean(row / 2), rel=1e-15)


def test_a_finalist_without_all_its_seeds_is_left_out(searched):
    for seed in SEEDS:
        enter(searched, 0, seed, 0.5)
        enter(searched, 3, seed, 0.4)
    enter(searched, 1, SEEDS[0], 0.99)
    enter(searched, 2, SEEDS[1], 0.99)  # a trial that is no finalist
    assert [c.trial for c in ranking(searched)] == [0, 3]


def test_mean_std():
    assert mean_std([{"a": 0.25}]) == ({"a": 0.25}, {"a": 0.0})
    mean, std = mean_std([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0}])
    assert (mean, std) == ({"a": 2.0, "b": 2.0}, {"a": pytest.approx(2**0.5), "b": 0.0})


def test_failed_seed(searched, tiny_corpus):
    """Its finalist is out of the race and not ranked, and the reason is kept; another sitting tries it again."""
    jobs = ConfirmJobs(searched, never)
    job = next(job for job in iter(jobs.next, None) if job.name == "confirm-trial1-seed0")
    jobs.failed(job, "NonFiniteLoss: epoch 2")
    assert jobs.errors == ["trial 1, seed 0: NonFiniteLoss: epoch 2"]
    jobs.running.clear()
    run_here(jobs, tiny_corpus)
    assert [c.trial for c in ranking(searched)] == sorted([3, 0], key=lambda n: -mean_of(searched, n))
    again = ConfirmJobs(searched, never)
    assert [again.next().name, again.next().name] == [job.name, "confirm-trial1-seed1"]
    assert again.next() is None
    again.running.clear()
    run_here(again, tiny_corpus)
    assert {c.trial for c in ranking(searched)} == {0, 1, 3}


def mean_of(study: Study, trial: int) -> float:
    return float(np.mean([run["val/wf1"] for run in study.confirmed() if run["trial"] == trial]))


@pytest.mark.parametrize(
    "stop", [1, 4, pytest.param(9, marks=pytest.mark.slow), pytest.param(23, marks=pytest.mark.slow)]
)
def test_a_restart_runs_only_what_is_missing(searched, tiny_corpus, stop):
    """Interrupted after any epoch: the half-done run goes on from its checkpoint, and the results are the same."""
    seen = []
    jobs = ConfirmJobs(searched, lambda: len(seen) >= stop)
    original = jobs.report

    def report(job, record):
        original(job, record)
        seen.append((job.name, record["epoch"]))
        return "interrupted" if len(seen) >= stop else None

    jobs.report = report
    run_here(jobs, tiny_corpus)
    done = {(r["trial"], r["seed"]) for r in searched.confirmed()}
    again = ConfirmJobs(Study.open(searched.folder), never)
    assert len(again.race.pending_runs) == 6 - len(done)
    assert not done & set(again.race.pending_runs)
    run_here(again, tiny_corpus)
    keys = [(r["trial"], r["seed"], r["epoch"]) for r in searched.epochs("confirm")]
    assert len(keys) == len(set(keys)) == 6 * 4
    cut = searched.confirmed()[len(done)]
    alone = train(searched.config_of(cut["trial"]), tiny_corpus, cut["seed"])
    assert (cut["best_epoch"], cut["val/wf1"]) == (alone.best_epoch, alone.best["val/wf1"])
    assert cut["seconds"] == sum(r["seconds"] for r in searched.epochs("confirm")[4 * len(done) :][:4])


def poisoned(corpus: Corpus) -> Corpus:
    """The dialogues in a random order, and test rows of features that would wreck whatever they touch."""
    order = np.random.default_rng(0).permutation(len(corpus.split))
    rows = np.concatenate([np.arange(corpus.offset[i], corpus.offset[i + 1]) for i in order])
    mixed = dataclasses.replace(
        corpus,
        info=dataclasses.replace(corpus.info, dialogues=tuple(corpus.info.dialogues[i] for i in order)),
        features={m: x[rows].copy() for m, x in corpus.features.items()},
        label=corpus.label[rows],
        speaker=corpus.speaker[rows],
        offset=np.concatenate([[0], np.cumsum(np.diff(corpus.offset)[order])]),
        split=corpus.split[order],
    )
    for flat in mixed.features.values():
        flat[mixed.rows("test")] = 1e30
    return mixed


class Silent:
    """No MLflow."""

    problem = None

    def __init__(self, study: Study, uri: str) -> None:
        pass

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextlib.contextmanager
def in_this_process() -> Iterator[list[Corpus]]:
    """The driver with its workers in this process and without MLflow → the corpora that the workers got."""
    handed: list[Corpus] = []

    def run_jobs(source, corpus, resources):
        handed.append(corpus)
        run_here(source, corpus)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_jobs, "run_jobs", run_jobs)
        patch.setattr(ray_cluster, "cluster", lambda *args, **kwargs: contextlib.nullcontext())
        patch.setattr(session.doctor, "check_in_cluster", lambda *args: [])
        patch.setattr(ray_cluster, "node_ids", frozenset)
        patch.setattr(session, "Tracker", Silent)
        yield handed


@pytest.fixture
def here() -> Iterator[list[Corpus]]:
    with in_this_process() as handed:
        yield handed


def sit(study: Study, corpus: Corpus, *, search: bool = True) -> bool:
    options = session.SessionOptions(tracking_uri="")
    return session.run_session(study, corpus, Console(quiet=True), options, search=search)


@pytest.fixture(scope="module")
def whole(tiny_file: Path, tmp_path_factory) -> tuple[Study, Corpus]:
    """A study that was searched, confirmed and written; its corpus has poisoned test rows. Not to be changed."""
    corpus = poisoned(Corpus.open(tiny_file))
    study = start_study(tmp_path_factory.mktemp("whole") / "study", corpus, **SHORT)
    with in_this_process():
        assert sit(study, corpus)
    return study, corpus


@pytest.fixture
def finished(whole, tmp_path) -> tuple[Study, Corpus]:
    """A copy of it."""
    shutil.copytree(whole[0].folder, tmp_path / "study")
    return Study.open(tmp_path / "study"), whole[1]


def untimed(study: Study) -> list[dict]:
    """All records, in one order, without their seconds."""
    records = [{k: v for k, v in r.items() if k != "seconds"} for r in [*study.epochs(), *study.confirmed()]]
    return sorted(records, key=lambda r: json.dumps(r, sort_keys=True))


def test_test_is_sealed(whole, make_study, tiny_corpus, here, monkeypatch):
    """Nothing of the test split reaches a worker or is looked at early, and what it holds decides nothing."""
    looked = []
    original = Corpus.indices
    monkeypatch.setattr(
        Corpus, "indices", lambda self, split: looked.append((len(here), split)) or original(self, split)
    )
    corpus = poisoned(tiny_corpus)
    for flat in corpus.features.values():
        flat[corpus.rows("test")] = 1e25  # the other study's are 1e30
    study = start_study(make_study().folder.parent / "other", corpus, **SHORT)
    assert sit(study, corpus)
    assert len(here) == 2, "search and confirmation"
    for handed in here:
        assert set(handed.split) == {SPLITS.index("train"), SPLITS.index("valid")}
        assert len(handed.info.dialogues) == len(handed.split) == 11
        assert all(np.abs(x).max() < 1e3 for x in handed.features.values())
        assert handed.fingerprint == corpus.fingerprint
    # The driver itself does not look before both are through.
    assert {n for n, split in looked if split == "test"} == {2}
    assert untimed(study) == untimed(whole[0])
    assert not any(k.startswith("test") for record in untimed(study) for k in record)
    assert len(study.test_log.evaluations()) == 1


def test_sitting_again_changes_nothing(finished, here):
    study, corpus = finished
    path = study.folder / "best.yaml"
    provenance = read_yaml(path)["provenance"]
    before = untimed(study)
    assert len(study.trials) == SHORT["trials"]
    assert len(study.confirmed()) == len(finalists(study)) * len(SEEDS)
    assert sit(study, corpus)
    assert (read_yaml(path)["provenance"], untimed(study), len(study.test_log.evaluations())) == (provenance, before, 1)


def test_ledger(finished, here):
    """A look is entered once; another winner is another look."""
    study, corpus = finished
    [look] = study.test_log.evaluations()
    order = ranking(study)
    winner = order[0].trial
    numbers = list(dict.fromkeys([winner, 0]))
    assert (look["trials"], look["seeds"], look["data"]) == (numbers, list(SEEDS), corpus.fingerprint)
    assert {"time", "host", "user", "command"} <= look.keys()
    assert datetime.fromisoformat(look["time"]).tzinfo
    scores = evaluate_test(study, corpus, numbers)
    assert scores == {int(k): v for k, v in look["scores"].items()}
    assert list(scores) == numbers
    for trial in numbers:
        assert len(scores[trial]) == len(SEEDS)
        assert scores[trial][0].keys() == {"test/wf1", "test/acc", "test/f1/calm", "test/f1/glad", "test/f1/sad"}
    assert len(order) == 2, "the baseline is not the best of the search, or this test shows nothing"
    loser = order[1].trial
    runs = study.confirmed()
    forget(study, "confirm.jsonl")
    for run in runs:
        study.log_confirmed({**run, "val/wf1": 1.0 if run["trial"] == loser else run["val/wf1"]})
    write_best(study, corpus)
    assert read_yaml(study.folder / "best.yaml")["provenance"]["trial"] == loser
    assert study.test_log.evaluations() == [look], "both were looked at before: the ledger's scores serve again"


def test_a_look_is_on_record_before_it_happens(finished, here, monkeypatch):
    """Killed while it looks: the ledger has it all the same; the next look is another one, and warned of."""
    study, corpus = finished
    forget(study, "test_looks.jsonl")
    for path in (study.folder / "predictions").glob("*-test.npz"):
        path.unlink()

    def killed(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tune.best.evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate_test(study, corpus, [0])
    [look] = study.test_log.evaluations()
    assert (look["trials"], look["scores"]) == ([0], {})
    write_best(study, corpus)
    assert len(study.test_log.evaluations()) == 2
    provenance = read_yaml(study.folder / "best.yaml")["provenance"]
    assert provenance["looks_at_test"] == 2
    assert provenance["warnings"][0].startswith(
        "the test split of these data was evaluated 2 times, by study (2 times): "
    )


def test_a_look_that_is_made_again_counts_once(finished, here, monkeypatch):
    """Killed three times between the log's entry and its scores, then evaluated for the same ranking: one look, no warning."""
    study, corpus = finished
    ledger = study.folder.parent / "test_evaluations.jsonl"
    forget(study, "test_looks.jsonl")
    for path in (ledger, *(study.folder / "predictions").glob("*-test.npz")):
        path.unlink(missing_ok=True)

    def killed(*arguments, **more):
        raise KeyboardInterrupt

    for what in ("tune.study.test_log._add", "tune.best._predict", "tune.study.test_log.TestLog.log_scores"):
        with monkeypatch.context() as patch:
            patch.setattr(what, killed)
            with pytest.raises(KeyboardInterrupt):
                evaluate_test(study, corpus, [ranking(study)[0].trial, 0])
    write_best(study, corpus)
    assert len((study.folder / "test_looks.jsonl").read_text().splitlines()) == 5, "each is on record"
    [look] = study.test_log.evaluations()
    assert look["scores"].keys() == {str(ranking(study)[0].trial), "0"}
    [entry] = jsonl.read(ledger)
    assert entry == {"study": "study", **{k: v for k, v in look.items() if k != "scores"}}
    provenance = read_yaml(study.folder / "best.yaml")["provenance"]
    assert provenance["looks_at_test"] == 1
    assert not [warning for warning in provenance["warnings"] if "test split" in warning]


def test_lost_predictions_are_made_again(finished, here):
    """By another look, which the ledger shows."""
    study, corpus = finished
    study.paths.predictions(0, "test").unlink()
    before = study.test_scores()
    write_best(study, corpus)
    assert study.paths.predictions(0, "test").is_file()
    assert (study.test_scores(), [look["trials"] for look in study.test_log.evaluations()][1:]) == (before, [[0]])


def test_best_yaml_is_the_winner(whole):
    """Training it on a confirmed seed gives that seed's score and weights, bit by bit."""
    study, corpus = whole
    winner, config = ranking(study)[0], Config.from_yaml(study.folder / "best.yaml")
    assert config == study.config_of(winner.trial)
    for seed in SEEDS:
        alone = train(config, corpus, seed)
        [run] = [r for r in study.confirmed() if (r["trial"], r["seed"]) == (winner.trial, seed)]
        assert alone.best["val/wf1"] == run["val/wf1"]
        weights = load_file(study.paths.weights(winner.trial, seed))
        assert weights.keys() == alone.state.keys()
        assert all(torch.equal(weights[k], v) for k, v in alone.state.items())


def scores_of(study: Study, trial: int, key: str) -> list[float]:
    return [r[key] for s in SEEDS for r in study.confirmed() if (r["trial"], r["seed"]) == (trial, s)]


def test_provenance(whole):
    study, corpus = whole
    winner = ranking(study)[0]
    found = read_yaml(study.folder / "best.yaml")["provenance"]
    trial = study.trials[winner.trial]
    assert (found["study"], found["trial"], found["values"]) == ("study", winner.trial, trial.params)
    assert found["search_score"] == round(100 * max(trial.intermediate_values.values()), 2)
    assert found["seeds"] == list(SEEDS)
    assert found["data"] == {"name": "TINY", "fingerprint": corpus.fingerprint, "simulated": ["audio"]}
    assert found["looks_at_test"] == 1
    lead = np.subtract(*(scores_of(study, n, "val/wf1") for n in (winner.trial, 0)))
    said = draw_conclusions(study, summarize(study))
    assert (found["statement"], found["warnings"]) == (list(said.sentences), list(said.warnings))
    assert found["spread"] == summarize(study).spread.summary()
    assert found["spread"]["seeds"] == 2
    against = found["against_baseline"]["validation"]
    assert (against["mean"], against["exact_p"]) == (round(100 * lead.mean(), 2), 0.5), "two seeds, and all signs alike"
    assert against["p"] == round(float(stats.ttest_1samp(lead, 0).pvalue), 5)
    tests = [
        np.mean([row["test/wf1"] for row in study.test_log.evaluations()[0]["scores"][str(n)]])
        for n in (winner.trial, 0)
    ]
    assert found["against_baseline"]["test"]["mean"] == round(100 * (tests[0] - tests[1]), 2)
    assert {"commit", "versions", "device", "command"} <= found.keys()
    assert found["versions"]["optuna"] != "not installed"
    [look] = study.test_log.evaluations()
    names = ["wf1", "acc", "f1/calm", "f1/glad", "f1/sad"]
    for who, number in (("winner", winner.trial), ("baseline", 0)):
        figures = found[who]
        assert list(figures) == [f"val/{n}" for n in names] + [f"test/{n}" for n in names]
        for key, cell in figures.items():
            rows = look["scores"][str(number)]
            if key.startswith("val/"):
                rows = [r for s in SEEDS for r in study.confirmed() if (r["trial"], r["seed"]) == (number, s)]
            values = [row[key] for row in rows]
            assert cell == {
                "mean": round(100 * float(np.mean(values)), 2),
                "std": round(100 * float(np.std(values, ddof=1)), 2),
            }


def test_without_a_test_split(finished, here):
    study, corpus = finished
    (study.folder / "test_looks.jsonl").unlink()
    write_best(study, corpus.restricted("train", "valid"))
    found = read_yaml(study.folder / "best.yaml")["provenance"]
    assert (study.test_log.evaluations(), found["looks_at_test"]) == ([], 0)
    assert all(key.startswith("val/") for key in found["winner"])


def test_a_baseline_that_broke(finished, here):
    """The winner stands without one beside it: no weights of it are asked for."""
    study, corpus = finished
    runs = study.confirmed()
    assert ranking(study)[0].trial != 0, "the baseline wins, or this test shows nothing"
    forget(study, "confirm.jsonl", "test_looks.jsonl")
    for run in runs:
        if (run["trial"], run["seed"]) != (0, SEEDS[1]):
            study.log_confirmed(run)
    study.paths.weights(0, SEEDS[1]).unlink()
    study.log_fault("NonFiniteLoss: epoch 2", "failed", stage="confirm", trial=0, seed=SEEDS[1])
    write_best(study, corpus)
    found = read_yaml(study.folder / "best.yaml")["provenance"]
    assert found["baseline"] is None
    assert found["trial"] != 0
    assert study.test_log.evaluations()[0]["trials"] == [found["trial"]]


RACE = {"folds": 0, "finalists": 3, "seeds": [0, 1, 2, 3], "race": True}


def raced(study: Study, table: dict[int, list[float]]) -> list[tuple[int, int]]:
    """Run a confirmation whose results are those of the table, one at a time → the runs in their order."""
    jobs, order = ConfirmJobs(study, never), []
    while job := jobs.next():
        trial, seed = jobs.running.pop(job.name)
        order.append((trial, seed))
        enter(study, trial, seed, table[trial][seed])
        jobs.scores[trial, seed] = table[trial][seed]
        jobs._update_race()
    assert jobs.exhausted()
    return order


def test_race(make_study):
    """The hopeless one is dropped, keeps its results and the reason; winner and baseline run all seeds."""
    study = make_study(confirm=RACE)
    for number in range(4):
        add(study, COMPLETE, [0.5 + number / 100], **({LR: 1e-3 * (1 + number)} if number else {}))
    table = {
        0: [0.50, 0.51, 0.49, 0.50],
        3: [0.60, 0.61, 0.59, 0.60],
        2: [0.40, 0.41, 0.39, 0.40],
        1: [0.59, 0.62, 0.6, 0.6],
    }
    order = raced(study, table)
    assert order[:4] == [(0, s) for s in range(4)]
    assert (2, 3) not in order
    assert {(3, s) for s in range(4)} < set(order)
    found = {each.trial: each for each in ranking(study)}
    assert list(found) == [1, 3, 0, 2]
    assert found[2].drop.reason("seed").startswith(f"dropped after {found[2].drop.units} seeds")
    assert found[2].mean["val/wf1"] == pytest.approx(np.mean(table[2][: len(found[2].units)]))
    assert found[3].scores == tuple(table[3])
    # Interrupted after any run, and gone on with: the same runs.
    for cut in range(len(order)):
        again = make_study(f"cut{cut}", confirm=RACE)
        for number in range(4):
            add(again, COMPLETE, [0.5 + number / 100], **({LR: 1e-3 * (1 + number)} if number else {}))
        for trial, seed in order[:cut]:
            enter(again, trial, seed, table[trial][seed])
        assert set(order[:cut] + raced(again, table)) == set(order)
        assert [c.trial for c in ranking(again)] == list(found)


def test_a_failed_finalist_is_out_of_every_view(make_study):
    """The ranking read from disk is that of the sitting: the failed one drops nobody, and is asked for again next time."""
    study = make_study(confirm=RACE)
    for number in range(4):
        add(study, COMPLETE, [0.5 + number / 100], **({LR: 1e-3 * (1 + number)} if number else {}))
    table = {0: [0.3] * 4, 3: [0.60, 0.61, 0.59, 0.60], 2: [0.40, 0.41, 0.39, 0.40], 1: [0.59, 0.62, 0.6, 0.6]}
    jobs = ConfirmJobs(study, never)
    while job := jobs.next():
        trial, seed = jobs.running[job.name]
        if (trial, seed) == (3, 1):
            jobs.failed(job, "Bad: told")
        else:
            jobs.running.pop(job.name)
            enter(study, trial, seed, table[trial][seed])
            jobs.scores[trial, seed] = table[trial][seed]
            jobs._update_race()
    assert failed_runs(study, "confirm") == {(3, 1)}
    assert race_state(study) == jobs.race
    assert [c.trial for c in final_ranking(study)] == [1, 2, 0]
    assert ConfirmJobs(study, never).race.pending_runs[0] == (3, 1)


def test_no_winner_while_a_race_goes_on(make_study):
    study = make_study(confirm={**RACE, "race": False})
    for number in range(4):
        add(study, COMPLETE, [0.5 + number / 100], **({LR: 1e-3 * (1 + number)} if number else {}))
    for seed in range(4):
        enter(study, 0, seed, 0.3)
        enter(study, 3, seed, 0.6)
    assert [c.trial for c in ranking(study)] == [3, 0]
    assert final_ranking(study) == []
    for trial, seed in itertools.product((1, 2), range(4)):
        study.log_fault("Bad", "failed", stage="confirm", trial=trial, seed=seed)
    assert [c.trial for c in final_ranking(study)] == [3, 0]


def test_no_winner_where_every_candidate_failed(make_study):
    study = make_study(confirm={**RACE, "race": False})
    for number in range(2):
        add(study, COMPLETE, [0.5 + number / 100], **({LR: 2e-3} if number else {}))
    for seed in range(4):
        enter(study, 0, seed, 0.3)
    study.log_fault("Bad", "failed", stage="confirm", trial=1, seed=2)
    assert final_ranking(study) == [], "a baseline alone is no answer"


def test_the_baselines_own_values_are_no_finalist(make_study):
    study = make_study()
    add(study, COMPLETE, [0.4])
    add(study, COMPLETE, [0.9])
    add(study, COMPLETE, [0.5], **{LR: 1e-3})
    assert finalists(study) == [2, 0]


def test_baseline_before_the_search(make_study, tiny_corpus, here):
    """All its seeds before trial 0 begins, each once; the plan may not change any more."""
    confirm = {**SHORT["confirm"], "baseline": "first"}
    study = make_study("first", **{**SHORT, "confirm": confirm})
    assert sit(study, tiny_corpus)
    stages = [(r["stage"], r["trial"]) for r in study.epochs()]
    epochs = SHORT["scheduler"]["max_epochs"]
    assert stages[: len(SEEDS) * epochs] == [("confirm", 0)] * len(SEEDS) * epochs
    assert stages[len(SEEDS) * epochs] == ("search", 0)
    assert stages.count(("confirm", 0)) == len(SEEDS) * epochs
    last = make_study("last", **SHORT)
    assert sit(last, tiny_corpus)
    assert {(r["trial"], r["seed"]): r["val/wf1"] for r in study.confirmed()} == {
        (r["trial"], r["seed"]): r["val/wf1"] for r in last.confirmed()
    }


def test_an_early_baseline_holds_the_plan(make_study, tiny_corpus):
    study = make_study("early", confirm={**SHORT["confirm"], "baseline": "first"})
    jobs = ConfirmJobs(study, never, [0])
    run_here(jobs, tiny_corpus)
    with pytest.raises(StudyError, match=r"differs from what is asked in `confirm\.seeds`"):
        make_study("early", confirm={**SHORT["confirm"], "seeds": [4, 5], "baseline": "first"})


def test_former_finalists_stay(searched):
    """A search that was extended: what was confirmed on all seeds is compared with the new ones."""
    for trial in finalists(searched):
        for seed in SEEDS:
            enter(searched, trial, seed, 0.5 + trial / 100)
    for number in range(2):
        add(searched, COMPLETE, [0.9], **{LR: 1.5e-2 + number / 1e4})
    assert finalists(searched) == [5, 6, 0, 1, 3]


def test_no_trial_came_through(make_study, tiny_corpus, here, monkeypatch):
    study = make_study(trials=2)
    monkeypatch.setattr(
        ray_jobs,
        "run_jobs",
        lambda jobs, *_: [jobs.failed(job, f"Bad{job.name}: told") for job in iter(jobs.next, None)],
    )
    with pytest.raises(session.NothingUsable) as error:
        sit(study, tiny_corpus)
    assert str(error.value) == (
        f"{study.folder}: no trial beside the baseline came to a result; the first error: Badtrial0: told"
    )
    assert [FAILURE in t.user_attrs for t in study.trials] == [True, True]
    assert not (study.folder / "best.yaml").exists()


def test_no_finalist_came_through(searched, tiny_corpus, here, monkeypatch):
    monkeypatch.setattr(
        ray_jobs, "run_jobs", lambda jobs, *_: [jobs.failed(job, "Bad: told") for job in iter(jobs.next, None)]
    )
    with pytest.raises(session.NothingUsable) as error:
        sit(searched, tiny_corpus, search=False)
    assert str(error.value) == (
        f"{searched.folder}: no candidate could be confirmed: trial 0 (baseline), seed 0: Bad: told; trial 1, seed 0: Bad: told; "
        "trial 3, seed 0: Bad: told"
    )
    assert not searched.test_log.evaluations()


@pytest.mark.parametrize("stage", [1, 2])
def test_interrupted_sitting(whole, make_study, tiny_corpus, here, monkeypatch, stage):
    """Ctrl-C once, in the search or in the confirmation: no test is opened; the next sitting ends as an undisturbed one."""
    original = ray_jobs.run_jobs

    def run_jobs(source, corpus, resources):
        if len(here) + 1 == stage:
            told, report = [], source.report

            def interrupted(job, record):
                told.append(record)
                if len(told) == 2:
                    signal.raise_signal(signal.SIGINT)
                return report(job, record) or ("cut" if source.stopping() else None)

            source.report = interrupted
        original(source, corpus, resources)

    corpus = poisoned(tiny_corpus)
    before = signal.getsignal(signal.SIGINT)
    cut = start_study(make_study().folder.parent / "cut", corpus, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(ray_jobs, "run_jobs", run_jobs)
        assert sit(cut, corpus) is False
    assert signal.getsignal(signal.SIGINT) is before
    assert (cut.test_log.evaluations(), (cut.folder / "best.yaml").exists()) == ([], False)
    assert 0 < len(cut.epochs()) < len(whole[0].epochs())
    assert sit(cut, corpus)
    assert untimed(cut) == untimed(whole[0])


def test_ctrl_c_twice_leaves_at_once(make_study, tiny_corpus, here, monkeypatch):
    def run_jobs(source, corpus, resources):
        source.next()
        signal.raise_signal(signal.SIGTERM)
        assert source.stopping()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ray_jobs, "run_jobs", run_jobs)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    study = make_study()
    with pytest.raises(KeyboardInterrupt):
        sit(study, tiny_corpus)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert [t.state for t in study.trials] == [TrialState.RUNNING]


def test_files_of_a_finished_study(whole):
    """What a user finds, and nothing left over."""
    study, _ = whole
    found = {str(p.relative_to(study.folder)) for p in study.folder.rglob("*") if p.is_file()}
    weights = {f"weights/trial{n}-seed{s}.safetensors" for n in finalists(study) for s in SEEDS}
    records = {"plan.yaml", "journal.log", "epochs.jsonl", "confirm.jsonl", "test_looks.jsonl", "best.yaml"}
    records |= {"confusion_valid.png", "report.html", "checksums.json"}
    shown = {ranking(study)[0].trial, 0}
    predictions = {f"predictions/trial{n}-{split}.npz" for n in shown for split in ("valid", "test")}
    assert found == records | weights | predictions


def test_the_guides_explain_every_file_and_metric(whole):
    """Of a study that came to its end, and of one in trouble; the metrics as epochs.jsonl has them."""
    study, _ = whole
    text = (ROOT / "tune" / "README.md").read_text(encoding="utf-8")
    files = text.partition("## The study's folder")[2].partition("## Metrics")[0]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in study.folder.iterdir()}
    names |= {"driver.lock", "requests/", "checkpoints/", *RECORDS}
    assert not [name for name in names if f"`{name}`" not in files]
    metrics = text.partition("## Metrics")[2].partition("## Files")[0]
    metrics += (ROOT / "lfvd" / "README.md").read_text(encoding="utf-8").partition("## Metrics of an epoch")[2]
    logged = {key for record in study.epochs() for key in record} | {"gpu"}
    logged |= {key for run in MlflowRuns(study).runs(live=False) for key in run.metrics}
    assert {"val/wf1_mean", "test/f1/sad", "seeds"} <= logged
    for key in logged:
        assert f"`{re.sub(r'f1/(calm|glad|sad)', 'f1/<class>', key)}`" in metrics, key
