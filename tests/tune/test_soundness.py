"""The check that the tests of faults lean on: a sound study passes, and each kind of damage is seen."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from lfvd.data.corpus import Corpus
from tests.helpers.plans import start_study
from tests.helpers.soundness import assert_sound
from tests.helpers.workers import run_here
from tune.best import write_best
from tune.search.confirmation import ConfirmJobs
from tune.search.trials import SearchJobs
from tune.study.checksums import DamagedError
from tune.study.records import RecordFiles
from tune.tracking.mlflow_writer import default_uri, sync

# The import of mlflow.store: SQLAlchemy 2.1 deprecates a loader that MLflow 3.17 uses.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")]


@pytest.fixture(scope="module")
def sound(tmp_path_factory, tiny_file) -> Path:
    """A finished study, confirmed and sent to MLflow."""
    corpus, folder = Corpus.open(tiny_file), tmp_path_factory.mktemp("results") / "study"
    study = start_study(folder, corpus)
    (folder / "checkpoints").mkdir()
    for jobs in (SearchJobs, ConfirmJobs):
        run_here(jobs(study, lambda: False), corpus.restricted("train", "valid"))
    write_best(study, corpus)
    sync(study, default_uri(folder.parent))
    return folder


def test_a_sound_study(sound):
    assert len(assert_sound(sound).trials) == 6


def change_lines(name: str, change: Callable[[list[dict]], list[dict]]) -> Callable[[Path], None]:
    """Rewrite a file of JSON lines."""

    def damage(folder: Path) -> None:
        path = folder / name
        records = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
        # As if the session had written it so: otherwise the checksums tell of it, and nothing is left to be checked.
        (folder / "checksums.json").unlink()
        files = RecordFiles(folder)
        files.begin()
        files.end()

    return damage


def change_mlflow(statement: str) -> Callable[[Path], None]:
    """Run SQL on the database beside the study."""

    def damage(folder: Path) -> None:
        with closing(sqlite3.connect(folder.parent / "mlflow.db")) as database:
            assert database.execute(statement).rowcount > 0
            database.commit()

    return damage


def last_trial_first(records: list[dict]) -> list[dict]:
    """The order in which reports came decides what the rungs held."""
    last = max(r["trial"] for r in records if r["stage"] == "search")
    return sorted(records, key=lambda r: (r["stage"], r["trial"]) != ("search", last))


def without_the_last_end(entries: list[dict]) -> list[dict]:
    """The last trial is still running."""
    last = max(i for i, e in enumerate(entries) if e["op_code"] == 6)
    return [*entries[:last], *entries[last + 1 :]]


DAMAGE = {
    "an epoch twice": change_lines("epochs.jsonl", lambda records: [records[0], *records]),
    "an epoch lost": change_lines("epochs.jsonl", lambda records: records[1:]),
    "other rungs": change_lines("epochs.jsonl", last_trial_first),
    "a trial open": change_lines("journal.log", without_the_last_end),
    "a trial ended twice": change_lines("journal.log", lambda e: [*e, [x for x in e if x["op_code"] == 6][-1]]),
    "a run confirmed twice": change_lines("confirm.jsonl", lambda runs: [*runs, runs[0]]),
    "a run not confirmed": change_lines("confirm.jsonl", lambda runs: runs[1:]),
    "a zombie in MLflow": change_mlflow("update runs set status = 'RUNNING' where name = 'trial 3'"),
    "an epoch missing in MLflow": change_mlflow("delete from metrics where key = 'val/wf1_best' and step = 1"),
    "a trial missing in MLflow": change_mlflow("update tags set value = 'trial1' where value = 'trial2'"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen(sound, tmp_path, kind):
    shutil.copytree(sound.parent, tmp_path / "results")
    folder = tmp_path / "results" / sound.name
    DAMAGE[kind](folder)
    # A study does not open with a run that is confirmed twice, whatever its checksums say.
    refused = kind == "a run confirmed twice"
    with pytest.raises(DamagedError if refused else AssertionError, match="repeats trial" if refused else None):
        assert_sound(folder)
