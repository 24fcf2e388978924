"""`lfvd-tune repair`: what is rebuilt, what is said to be gone, and what is refused."""

import re
from pathlib import Path

import pytest

from tests.helpers import invented
from tune.search.confirmation import ConfirmJobs, ranking
from tune.search.trials import SearchJobs
from tune.study.jsonl import parse
from tune.study.lock import LockedError, hold_lock
from tune.study.repair import CannotRepairError, repair
from tune.study.study import Study, study_lock

PLAN = {
    "trials": 5,
    "scheduler": {"kind": "none", "max_epochs": 4},
    "confirm": {"folds": 0, "finalists": 2, "seeds": [0, 1], "race": False},
}


@pytest.fixture
def confirmed(tmp_path) -> Study:
    """Searched and confirmed; test was not evaluated yet."""
    with study_lock(tmp_path / "study"):
        study = invented.begin(tmp_path / "study", **PLAN)
        invented.search(study, failing=(), by_hand=None)
        invented.confirm(study)
    return study


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def damage(path: Path, *numbers: int) -> None:
    """Flip a bit in the middle of these lines."""
    lines = lines_of(path)
    for number in numbers:
        middle = len(lines[number]) // 2
        lines[number] = lines[number][:middle] + bytes([lines[number][middle] ^ 2]) + lines[number][middle + 1 :]
    path.write_bytes(b"".join(lines))


def test_nothing_is_damaged(confirmed):
    before = {path: path.read_bytes() for path in confirmed.folder.iterdir() if path.is_file()}
    assert repair(confirmed.folder, Study.open) == ["nothing is damaged"]
    assert {path: path.read_bytes() for path in confirmed.folder.iterdir() if path.is_file()} == before


def test_epochs_that_are_gone(confirmed):
    path = confirmed.folder / "epochs.jsonl"
    lines = lines_of(path)
    damage(path, 1, 6)
    gone = [parse(lines[number]) for number in (1, 6)]
    told = "; ".join(f"epoch {each['epoch']} of trial {each['trial']}" for each in gone)
    old = path.read_bytes()
    assert repair(confirmed.folder, Study.open) == [
        f"epochs.jsonl: {len(lines) - 2} of {len(lines)} lines are kept; gone: {told}",
        "epochs.jsonl: the old file is kept as epochs.jsonl.damaged-1",
        "checksums.json: the old file is kept as checksums.json.damaged-1",
    ]
    assert path.with_name("epochs.jsonl.damaged-1").read_bytes() == old
    assert Study.open(confirmed.folder).epochs() == [parse(line) for i, line in enumerate(lines) if i not in (1, 6)]
    damage(path, 0)
    assert "epochs.jsonl: the old file is kept as epochs.jsonl.damaged-2" in repair(confirmed.folder, Study.open)


def test_epochs_of_a_run_that_were_swapped(confirmed):
    path = confirmed.folder / "epochs.jsonl"
    before = lines_of(path)
    path.write_bytes(b"".join([before[2], before[1], before[0], *before[3:]]))
    said = repair(confirmed.folder, Study.open)
    assert said[0].endswith("lines are kept; no epoch is gone, but they may have another order")
    assert lines_of(path) == before


def test_a_run_that_is_not_over_goes_on_before_its_gap(tmp_path):
    """Its checkpoint brings back what follows."""
    with study_lock(tmp_path / "study"):
        study = invented.begin(tmp_path / "study", **PLAN)
        invented.search(study, epochs=7, failing=(), by_hand=None)
    damage(study.folder / "epochs.jsonl", 5)
    assert "gone: all after epoch 1 of trial 1" in repair(study.folder, Study.open)[0]
    assert [(r["trial"], r["epoch"]) for r in Study.open(study.folder).epochs()] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 1),
    ]
    with study_lock(study.folder):
        study = invented.begin(study.folder, **PLAN)
        invented.search(study, failing=(), by_hand=None)
    assert [r["epoch"] for r in study.epochs() if r["trial"] == 1] == [1, 2, 3, 4]


def test_confirmed_runs_are_rebuilt_from_their_epochs(confirmed):
    before, order = confirmed.confirmed(), ranking(confirmed)
    damage(confirmed.folder / "confirm.jsonl", 1)
    said = repair(confirmed.folder, Study.open)
    name = f"trial {before[1]['trial']}, seed {before[1]['seed']}"
    assert said[0].endswith(f"6 of 6 lines are kept; rebuilt from epochs.jsonl: {name}")
    study = Study.open(confirmed.folder)
    assert ranking(study) == order
    assert all(run in before for run in study.confirmed())


def test_a_confirmed_run_that_is_lost_runs_again(confirmed):
    run = confirmed.confirmed()[1]
    confirmed.paths.weights(run["trial"], run["seed"]).unlink()
    damage(confirmed.folder / "confirm.jsonl", 1)
    assert repair(confirmed.folder, Study.open)[0].startswith("confirm.jsonl: 5 of 6 lines are kept")
    assert ConfirmJobs(Study.open(confirmed.folder), invented.never).race.pending_runs == ((run["trial"], run["seed"]),)


def test_test_is_never_evaluated_again(confirmed):
    """A ranking that may be another one would have another winner evaluated."""
    with study_lock(confirmed.folder):
        study = Study.open(confirmed.folder)
        invented.predict(study)
    run = study.confirmed()[1]
    confirmed.paths.weights(run["trial"], run["seed"]).unlink()
    damage(confirmed.folder / "confirm.jsonl", 1)
    with pytest.raises(
        CannotRepairError, match=r"confirm\.jsonl: lacks 1 lines that cannot be rebuilt, and another ranking"
    ):
        repair(confirmed.folder, Study.open)
    (confirmed.folder / "test_looks.jsonl").unlink()
    with pytest.raises(
        CannotRepairError, match=r"test_looks\.jsonl: is damaged, and no other file holds what was evaluated"
    ):
        repair(confirmed.folder, Study.open)


def test_the_journal_cannot_be_rebuilt(confirmed):
    damage(confirmed.folder / "journal.log", 7)
    before = {path: path.read_bytes() for path in confirmed.folder.iterdir() if path.is_file()}
    with pytest.raises(CannotRepairError) as error:
        repair(confirmed.folder, Study.open)
    assert str(error.value) == (
        f"{confirmed.folder / 'journal.log'}: is damaged, and no other file holds the values of the trials: restore it from "
        "a copy; nothing was changed"
    )
    assert {path: path.read_bytes() for path in confirmed.folder.iterdir() if path.is_file()} == before


def test_what_follows_the_journal_is_removed(confirmed):
    path = confirmed.folder / "journal.log"
    before = path.read_bytes()
    path.write_bytes(before + lines_of(path)[1])
    assert re.match(
        r"journal\.log: what follows line \d+, the last that the study wrote", repair(confirmed.folder, Study.open)[0]
    )
    assert path.read_bytes() == before
    assert SearchJobs(Study.open(confirmed.folder), invented.never).exhausted()


@pytest.mark.parametrize("text", [None, b"", b"{}\n"])
def test_checksums_are_written_anew(confirmed, text):
    path = confirmed.folder / "checksums.json"
    before = path.read_bytes()
    path.unlink()
    if text is not None:
        path.write_bytes(text)
    what = "is missing" if text is None else "is damaged"
    assert repair(confirmed.folder, Study.open)[0] == f"checksums.json: {what}: written anew"
    assert path.read_bytes() == before


def test_beside_a_session(confirmed):
    with hold_lock(confirmed.folder), pytest.raises(LockedError):
        repair(confirmed.folder, Study.open)
