"""What MLflow shall hold: looks that read only what is new come to what one look at everything does."""

import json

import numpy as np
import pytest
from optuna.trial import TrialState

from lfvd.files import InputError, write_yaml
from tests.tune.tracking.test_mlflow_writer import (
    SEEDS,
    STATES,
    begin,
    confirm,
    finish,
    held,
    look,
    record,
    start,
    train,
)
from tune.search.samplers import training_seed
from tune.study.study import Study
from tune.tracking.mlflow_runs import SHORT, Projection, Run, runs_of
from tune.tracking.mlflow_writer import default_uri, sync

# The import of mlflow.store: SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    """One database for all tests: making its tables takes seconds."""
    return default_uri(tmp_path_factory.mktemp("mlflow"))


class Busy:
    """A study to which anything may happen next."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.rng = study, np.random.default_rng(seed)
        self.running: dict[int, tuple] = {}
        self.confirming: dict[tuple[int, int], int] = {}

    def act(self) -> None:
        """One thing, at random."""
        acts = [self.begin, self.train, self.train, self.train, self.fault, self.finish, self.confirm, self.confirm]
        acts[self.rng.integers(len(acts))]()

    def begin(self) -> None:
        trial = begin(self.study)
        self.running[trial.number] = (trial, 0)

    def pick(self) -> int | None:
        return int(self.rng.choice(list(self.running))) if self.running else None

    def train(self) -> None:
        if (number := self.pick()) is not None:
            trial, epochs = self.running[number]
            train(self.study, trial, [0.4 + 0.01 * epochs], first=epochs + 1)
            self.running[number] = (trial, epochs + 1)

    def fault(self) -> None:
        number = self.pick()
        seed = None if number is None else training_seed(self.study.plan.sampler, number, taken=SEEDS)
        where = {} if number is None else {"stage": "search", "trial": number, "seed": seed}
        self.study.append_fault(f"worker {self.rng.integers(2)} died", "continued", **where)

    def finish(self) -> None:
        if (number := self.pick()) is not None:
            finish(self.study, self.running.pop(number)[0], STATES[self.rng.integers(3)])

    def confirm(self) -> None:
        ended = [t.number for t in self.study.trials if t.state == TrialState.COMPLETE][:2]
        if not ended:
            return
        key = (int(self.rng.choice(ended)), int(self.rng.choice(SEEDS)))
        done = self.confirming.get(key, 0)
        if done < 3:
            self.study.append_epoch("confirm", *key, record(done + 1, 0.5, 0.5))
            self.confirming[key] = done + 1
        elif done == 3:
            self.study.append_confirmed(
                {"trial": key[0], "seed": key[1], "best_epoch": 3, "val/wf1": 0.5, "seconds": 4.5}
            )
            self.confirming[key] = 4
        elif self.rng.integers(4) == 0:
            look(self.study, key[0])
            write_yaml(self.study.folder / "best.yaml", {"provenance": {"trial": key[0]}})


def by_key(runs: list[Run]) -> dict[str, Run]:
    assert len({run.key for run in runs}) == len(runs), "a run is there twice"
    return {run.key: run for run in runs}


@pytest.mark.parametrize("seed", range(4))
def test_looks_now_and_then_come_to_one_look_at_all(tmp_path, tiny_corpus, seed):
    """Looks at random moments, by the driver's own study and by one that is opened anew; live and at rest."""
    busy = Busy(start(tmp_path / "study", tiny_corpus), seed)
    projection, seen = Projection(busy.study), {}
    for _ in range(120):
        busy.act()
        if busy.rng.integers(4) == 0:
            live = bool(busy.rng.integers(4))
            found = projection.runs(live=live)
            assert not {run.key for run in found} & {key for key, run in seen.items() if run.final}
            seen |= by_key(found)
            whole = by_key(runs_of(Study.open(busy.study.folder), live=live))
            assert seen == whole
            assert all(run.parent is None or run.parent in list(whole)[:i] for i, run in enumerate(whole.values()))
    assert {run.status for run in seen.values() if run.final} == {"FINISHED", "FAILED"}
    assert any("faults" in run.tags for run in seen.values())
    assert {key for key in projection.epochs if key[0] == "search"} <= {
        ("search", n, training_seed(busy.study.plan.sampler, n, taken=SEEDS)) for n in busy.running
    }, "records of what has ended are not kept"


def test_known_trials_are_left_out_once_they_have_ended(tmp_path, tiny_corpus):
    study = start(tmp_path / "study", tiny_corpus)
    trials = [begin(study), begin(study)]
    for trial in trials:
        train(study, trial, [0.5])
    finish(study, trials[0], TrialState.COMPLETE)
    [run] = Projection(study, known={0, 1}).runs(live=True)
    assert (run.key, len(run.epochs)) == ("trial1", 1), "a run that MLflow has ended, but not the study, is told again"


def test_half_a_line_and_a_damaged_one(tmp_path, tiny_corpus):
    study = start(tmp_path / "study", tiny_corpus)
    train(study, begin(study), [0.4])
    path, projection = study.folder / "epochs.jsonl", Projection(study)
    line = json.dumps({**json.loads(path.read_text()), "epoch": 2})
    steps = []
    for piece in (line[:30], line[30:], "\n", "{]\n"):
        with path.open("a") as file:
            file.write(piece)
        if piece == "{]\n":
            with pytest.raises(InputError, match=r"epochs\.jsonl, line 3: is damaged"):
                projection.runs(live=True)
        else:
            steps.append([r["epoch"] for r in projection.runs(live=True)[0].epochs])
    assert steps == [[1], [1], [1, 2]]


def test_faults_are_told_where_there_are_any(tmp_path, tiny_corpus, uri):
    """Each reason once, on one line, cut short; of a trial, of a confirmed run; what belongs to none is in no run."""
    study = start(tmp_path / "faulty", tiny_corpus)
    for trial in (begin(study), begin(study)):
        train(study, trial, [0.5])
    seed = training_seed(study.plan.sampler, 1, taken=SEEDS)
    for reason in ("worker\n  killed", "no room", "worker\n  killed", "x" * 999):
        study.append_fault(reason, "continued", stage="search", trial=1, seed=seed)
    finish(study, trial, TrialState.COMPLETE)
    confirm(study, 1, 0, [0.5])
    confirm(study, 1, 3, [0.5])
    study.append_fault("node lost", "continued", stage="confirm", trial=1, seed=3)
    study.append_fault("the driver died", "going on")
    sync(study, uri)
    tags = {name: run.data.tags.get("faults") for name, run in held(uri, "faulty").items()}
    assert tags == {
        "trial 0 (baseline)": None,
        "trial 1": f"worker killed (2 times); no room; {'x' * SHORT}",
        "finalist: trial 1": None,
        "trial 1, seed 0": None,
        "trial 1, seed 3": "node lost",
    }


def test_what_has_ended_is_not_asked_for_again(tmp_path, tiny_corpus, uri, monkeypatch):
    """MLflow is asked once for all runs there, then for those only that may have changed."""
    from mlflow import MlflowClient

    study = start(tmp_path / "ended", tiny_corpus)
    for state in (*STATES, None):
        trial = begin(study)
        train(study, trial, [0.5])
        if state:
            finish(study, trial, state)
    sync(study, uri)
    asked, real = [], MlflowClient.search_runs

    def search(client, experiments, text, **options):
        asked.append(text)
        return real(client, experiments, text, **{**options, "max_results": 3})

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "search_runs", search)
        sync(study, uri)
    assert asked == ["tags.stage = 'search'"] * 2 + ["tags.`lfvd.key` = 'trial3'"], "two pages, then the unfinished one"
    assert len(held(uri, "ended")) == 4
