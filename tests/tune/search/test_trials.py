"""The search's decisions, with workers that train in no time: what Optuna is told, and that a crash anywhere changes nothing."""

import dataclasses
import shutil
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from lfvd.data.corpus import Corpus
from tests.helpers.fake_workers import EPOCHS, CrashError, Workers, history, never, story
from tests.helpers.plans import start_study
from tune.search.trials import FAILURE, STOPPED, SearchJobs, ranked
from tune.study.study import OBJECTIVE, Study


@pytest.fixture(scope="module")
def undisturbed(tiny_file: Path, tmp_path_factory) -> tuple[Study, Workers]:
    """Twelve trials in one sitting, one after the other. Not to be changed."""
    study = start_study(tmp_path_factory.mktemp("undisturbed") / "study", Corpus.open(tiny_file), trials=12)
    workers = Workers()
    workers.run(SearchJobs(study, never))
    return study, workers


def test_baseline_first(make_study):
    jobs = SearchJobs(make_study(), never)
    job = jobs.next()
    assert (job.name, job.gpu) == ("trial0", 0.0)
    assert job.config == jobs.plan.config
    assert job.seed not in jobs.plan.confirm.seeds
    assert job.config.run.epochs == EPOCHS
    assert Path(job.checkpoint) == jobs.study.folder.absolute() / "checkpoints" / "trial0.pt"
    second = jobs.next()
    assert second.name == "trial1"
    assert second.config != job.config
    assert second.seed != job.seed


def test_what_optuna_is_told(undisturbed):
    """Every epoch's best so far; COMPLETE with the best; PRUNED at a rung, with its values."""
    study, _ = undisturbed
    states = [t.state for t in study.trials]
    assert states.count(TrialState.COMPLETE) >= 2
    assert states.count(TrialState.PRUNED) >= 4
    assert states[0] == TrialState.COMPLETE, "the first to reach a rung always goes on"
    for trial in study.trials:
        records = [r for r in study.epochs("search") if r["trial"] == trial.number]
        values = [r["val/wf1"] for r in records]
        assert [r["epoch"] for r in records] == list(range(1, len(values) + 1))
        assert trial.intermediate_values == {e: max(values[:e]) for e in range(1, len(values) + 1)}
        if trial.state == TrialState.COMPLETE:
            assert len(values) == EPOCHS
            assert trial.value == max(values)
            assert trial.value > values[-1], "the curve falls at its end: the last value must not be taken"
            assert STOPPED not in trial.user_attrs
        else:
            assert len(values) in (1, 2)
            assert trial.user_attrs[STOPPED].startswith(f"rung {len(values)}: {max(values):.4f} below ")


def test_ranked(undisturbed, tmp_path):
    """Finished ones by value, then stopped ones by how far they came, then by value; failed ones not at all."""
    study = Study.open(Path(shutil.copytree(undisturbed[0].folder, tmp_path / "copy")))
    trial = study.optuna.ask({key: p.distribution for key, p in study.plan.space.items()})
    trial.report(0.99, 1)
    study.optuna.tell(trial, state=TrialState.FAIL)
    order = ranked(study)
    assert {t.number for t in order} == set(range(12))
    ended = [(t.state == TrialState.COMPLETE, max(t.intermediate_values), t) for t in order]
    keys = [(done, epochs, max(t.intermediate_values.values())) for done, epochs, t in ended]
    assert keys == sorted(keys, reverse=True)


def test_failed_trial(make_study):
    study = make_study()
    jobs = SearchJobs(study, never)
    job = jobs.next()
    jobs.report(job, history(job, 1)[0])
    jobs.failed(job, "NonFiniteLoss: epoch 2: the self loss is not finite")
    trial = study.trials[0]
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert trial.user_attrs == {FAILURE: "NonFiniteLoss: epoch 2: the self loss is not finite"}
    assert jobs.states == {0: "failed"}
    assert jobs.next().name == "trial1"
    assert SearchJobs(study, never).next().name == "trial1", "a failed trial is not run again; trial 1 is under way"


def test_nan_never_reaches_optuna(make_study, monkeypatch):
    """A trial that breaks in each epoch: no value, no RUNNING zombie, and the sampler goes on without it."""
    told = []
    monkeypatch.setattr(optuna.Trial, "report", lambda self, value, step: told.append(value))
    study = make_study(trials=5)
    jobs = SearchJobs(study, never)
    while job := jobs.next():
        jobs.failed(job, "NonFiniteLoss: epoch 1")
    assert told == []
    assert [(t.state, t.values) for t in study.trials] == [(TrialState.FAIL, None)] * 5


def test_epochs_that_come_twice_count_once(make_study):
    """A retry brings back what its checkpoint holds."""
    study = make_study()
    jobs = SearchJobs(study, never)
    job = jobs.next()
    records = history(job, 3)
    for record in [records[0], records[1], records[0], records[1], records[1], records[2]]:
        assert jobs.report(job, record) is None
    assert [r["epoch"] for r in study.epochs("search")] == [1, 2, 3]
    assert study.trials[0].intermediate_values == {r["epoch"]: r[OBJECTIVE] for r in records}
    assert jobs.spent.epochs == 3
    assert jobs.spent.gpu_hours == 0


def crash_at(monkeypatch, where: str, count: int, *, before: bool) -> None:
    """Let the driver die around the `count`-th call of one of its writes."""
    owner, name = {
        "epochs.jsonl": (Study, "log_epoch"),
        "report": (optuna.Trial, "report"),
        "stopped": (optuna.Trial, "set_user_attr"),
        "tell": (optuna.Study, "tell"),
        "ask": (optuna.Study, "ask"),
    }[where]
    original, calls = getattr(owner, name), []

    def dying(self, *args, **kwargs):
        calls.append(name)
        if len(calls) == count and before:
            raise CrashError
        result = original(self, *args, **kwargs)
        if len(calls) == count:
            raise CrashError
        return result

    monkeypatch.setattr(owner, name, dying)


CRASHES = [
    *[("epochs.jsonl", n, before) for n in (1, 6, 20) for before in (True, False)],
    *[("report", n, before) for n in (1, 4, 6, 13) for before in (True, False)],
    *[("stopped", n, before) for n in (1, 3) for before in (True, False)],
    *[("tell", n, before) for n in (1, 5) for before in (True, False)],
    *[("ask", n, before) for n in (1, 7) for before in (True, False)],
]


@pytest.mark.parametrize(("where", "count", "before"), CRASHES)
def test_a_crash_anywhere_changes_nothing(make_study, undisturbed, monkeypatch, where, count, before):
    """With one worker: the same suggestions, decisions and records, and no epoch is trained twice."""
    workers = Workers()
    study = make_study("crashed", trials=12)
    crash_at(monkeypatch, where, count, before=before)
    with pytest.raises(CrashError):
        workers.run(SearchJobs(study, never))
    monkeypatch.undo()
    reopened = make_study("crashed", trials=12)
    jobs = SearchJobs(reopened, never)
    workers.run(jobs)
    expected, alone = undisturbed
    assert story(reopened) == story(expected)
    assert sorted(workers.trained) == sorted(alone.trained)
    whole = SearchJobs(expected, never)
    assert jobs.rungs.values == whole.rungs.values
    assert list(jobs.rungs.values[1]) == list(whole.rungs.values[1]), "in the order of arrival"
    assert jobs.best == whole.best


def test_a_crash_while_the_sampler_is_asked(make_study, undisturbed, monkeypatch):
    """Half of a trial's values were written: the others are asked for, not silently the base's."""
    workers, study = Workers(), make_study("crashed", trials=12)
    original, calls = optuna.Trial._suggest, []

    def dying(self, name, distribution):
        calls.append(name)
        if len(calls) == 3 * 8 + 2:
            raise CrashError
        return original(self, name, distribution)

    monkeypatch.setattr(optuna.Trial, "_suggest", dying)
    with pytest.raises(CrashError):
        workers.run(SearchJobs(study, never))
    monkeypatch.undo()
    half = study.trials[8]
    assert list(half.params) == ["optim.lr"]
    reopened = make_study("crashed", trials=12)
    workers.run(SearchJobs(reopened, never))
    assert story(reopened) == story(undisturbed[0]), "the same sampler is asked again"


@pytest.mark.parametrize("most", [1, 5, 11])
@pytest.mark.parametrize("slots", [2, 3])
def test_restart_continues_what_ran(make_study, slots, most):
    """Several workers: unfinished trials first, under their own numbers; finished ones never again."""
    workers, study = Workers(), make_study(trials=10)
    with pytest.raises(CrashError):
        workers.run(SearchJobs(study, never), slots=slots, most=most)
    before = {t.number: t for t in study.trials}
    running = [f"trial{n}" for n, t in before.items() if t.state == TrialState.RUNNING]
    assert 1 <= len(running) <= slots
    started = len(workers.order)
    reopened = make_study(trials=10)
    jobs = SearchJobs(reopened, never)
    replayed = {(r["trial"], r["epoch"]): r[OBJECTIVE] for r in reopened.epochs() if r["epoch"] in jobs.rungs.values}
    assert {(t, e): v for e, rung in jobs.rungs.values.items() for t, v in rung.items()} == replayed
    assert jobs.spent.epochs == len(reopened.epochs())
    workers.run(jobs, slots=slots)
    assert workers.order[started : started + len(running)] == running
    assert not {f"trial{n}" for n, t in before.items() if t.state != TrialState.RUNNING} & set(workers.order[started:])
    assert len(workers.trained) == len(set(workers.trained)) == len(reopened.epochs())
    assert [t.number for t in reopened.trials] == list(range(10))
    assert TrialState.RUNNING not in {t.state for t in reopened.trials}


def test_searching_again_does_nothing(undisturbed):
    study, _ = undisturbed
    before = story(study)
    jobs = SearchJobs(Study.open(study.folder), never)
    assert jobs.exhausted()
    assert not jobs.stopping()
    assert jobs.next() is None
    assert story(Study.open(study.folder)) == before
    words = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "stopped"}
    assert jobs.states == {t.number: words[t.state] for t in study.trials}


def test_more_trials_extend(make_study, undisturbed):
    """5 trials, then 12: the same as 12 at once."""
    workers = Workers()
    for trials in (5, 12):
        study = make_study("extended", trials=trials)
        workers.run(SearchJobs(study, never))
        assert len(study.trials) == trials
    assert story(study) == story(undisturbed[0])
    assert workers.trained == undisturbed[1].trained


def test_gpu_hours_end_the_search(make_study):
    """Half a second an epoch on half a GPU: over both sittings together."""
    epochs = 7
    limit = {"resources": {"gpu": 0.5}, "budget": {"gpu_hours": epochs * 0.5 * 0.5 / 3600}, "trials": 50}
    workers, study = Workers(), make_study(**limit)
    with pytest.raises(CrashError):
        workers.run(SearchJobs(study, never), most=4)
    jobs = SearchJobs(make_study(**limit), never)
    assert not jobs.stopping()
    workers.run(jobs)
    assert len(workers.trained) == epochs
    assert jobs.stopping()
    assert jobs.exhausted()
    assert jobs.next() is None
    assert jobs.spent.gpu_hours == pytest.approx(limit["budget"]["gpu_hours"])
    more = SearchJobs(make_study(**{**limit, "budget": {"gpu_hours": 1.0}}), never)
    assert more.next() is not None, "a larger budget goes on"
    elsewhere = make_study(**limit)
    elsewhere.plan = dataclasses.replace(
        elsewhere.plan, resources=dataclasses.replace(elsewhere.plan.resources, gpu=0.125)
    )
    assert SearchJobs(elsewhere, never).stopping(), "each epoch counts with the share that it had"


def test_wall_ends_the_search(make_study, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tune.search.trials.time.monotonic", lambda: now[0])
    jobs = SearchJobs(make_study(budget={"wall": "1m"}), never)
    jobs.spent.started = now[0]
    job = jobs.next()
    now[0] += 59
    assert not jobs.stopping()
    now[0] += 1
    assert jobs.stopping()
    assert jobs.exhausted()
    assert jobs.next() is None
    assert jobs.report(job, history(job, 1)[0]) is None, "what still arrives is written down"
    assert len(jobs.study.epochs()) == 1
    assert jobs.study.trials[0].state == TrialState.RUNNING, "and goes on another time"


def test_interrupted(make_study):
    asked = [False]
    jobs = SearchJobs(make_study(), lambda: asked[0])
    assert jobs.next() is not None
    assert not jobs.exhausted()
    asked[0] = True
    assert jobs.stopping()
    assert jobs.exhausted()
    assert jobs.next() is None
    assert [t.state for t in jobs.study.trials] == [TrialState.RUNNING]


def test_checkpoints_of_ended_trials_are_removed(make_study):
    jobs = SearchJobs(make_study(), never)
    done, broken, running = jobs.next(), jobs.next(), jobs.next()
    for job in (done, broken, running):
        Path(job.checkpoint).parent.mkdir(exist_ok=True)
        Path(job.checkpoint).touch()
    jobs.report(done, history(done, 1)[0])
    jobs.finished(done, None)
    jobs.failed(broken, "x")
    assert [Path(job.checkpoint).exists() for job in (done, broken, running)] == [False, False, True]
