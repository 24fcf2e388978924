"""A finished study whose files are damaged: every command answers as before, or refuses in one sentence that names the file."""

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import invented
from tune.cli import main
from tune.search.confirmation import ConfirmJobs, ranking
from tune.search.trials import SearchJobs
from tune.study.checksums import DamagedError
from tune.study.study import BASELINE, Study, study_lock

RECORDS = ("journal.log", "epochs.jsonl", "confirm.jsonl", "faults.jsonl", "test_looks.jsonl", "checksums.json")
FILES = (*RECORDS, "plan.yaml", "driver.lock")


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda text: text[: int(share * len(text))]


def flip(seed: int) -> Callable[[bytes], bytes]:
    """One bit of one byte."""

    def damage(text: bytes) -> bytes:
        rng = np.random.default_rng(seed)
        place = int(rng.integers(len(text)))
        return text[:place] + bytes([text[place] ^ 1 << int(rng.integers(8))]) + text[place + 1 :]

    return damage


def nulls(text: bytes) -> bytes:
    middle = len(text) // 2
    return text[:middle] + b"\0" * min(512, len(text) - middle) + text[middle + 512 :]


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda text: b"".join(change(text.splitlines(keepends=True)))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda text: b"",
    "zeroed": lambda text: b"\0" * len(text),
    "cut early": cut(0.23),
    "cut late": cut(0.87),
    "a byte short": lambda text: text[:-1],
    "nulls": nulls,
    "garbage after": lambda text: text + b"\xff\x00{]",
    "half a line after": lambda text: text + text[: min(30, len(text.partition(b"\n")[0]))],
    "null line after": lambda text: text + b"\0" * 512 + b"\n",
    "first line lost": lines(lambda all: all[1:]),
    "a line lost": lines(lambda all: all[: len(all) // 2] + all[len(all) // 2 + 1 :]),
    "last line lost": lines(lambda all: all[:-1]),
    "first half lost": lines(lambda all: all[len(all) // 2 :]),
    "last half lost": lines(lambda all: all[: len(all) // 2]),
    "last line doubled": lines(lambda all: [*all, all[-1]]),
    "a line doubled": lines(lambda all: [*all[: len(all) // 2 + 1], *all[len(all) // 2 :]]),
    "lines swapped": lines(lambda all: [*all[-2:], *all[1:-2], all[0]]),
    **{f"a bit flipped {seed}": flip(seed) for seed in range(4)},
}

CASES = [
    (name, damage) for name in FILES for damage in ("deleted", *DAMAGES) if name != "driver.lock" or damage == "deleted"
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one study, which a session ended in order."""
    folder = tmp_path_factory.mktemp("damage") / "study"
    with study_lock(folder):
        study = invented.whole(
            folder,
            trials=9,
            scheduler={"kind": "asha", "grace_epochs": 1, "reduction": 3, "max_epochs": 5},
            confirm={"folds": 0, "finalists": 2, "seeds": [0, 1, 2], "race": False},
        )
        for trial in (2, 3, 5):
            study.log_fault("the worker was lost", "continued", stage="search", trial=trial, seed=1)
    for path in (folder / "predictions").glob("*-test.npz"):  # drawing intervals of them takes long
        path.unlink()
    return folder.parent


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "driver.lock"}


def run(command: str, results: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of a command on the study, in this process."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), contextlib.suppress(SystemExit):
        code = 0
        try:
            main([command, "study", "--results", str(results)])
        except SystemExit as end:
            code = int(end.code or 0)
    out = re.sub(r"--data \S+", "--data DATA", printed.getvalue())  # where it lies is of no account
    return code, out.replace(str(results), "RESULTS"), errors.getvalue()


def resume(folder: Path) -> tuple[list[str], list[object]]:
    """What a session does first → its warnings, and what it found; it must have nothing left to run or to evaluate."""
    with study_lock(folder) as warnings:
        found = Study.open(folder)
        study = Study.start(folder, found.plan, found.data, {})
        assert SearchJobs(study, invented.never).exhausted()
        assert ConfirmJobs(study, invented.never).exhausted()
        assert study.test_scores().keys() >= {ranking(study)[0].trial, BASELINE}
        return warnings, told(study)


def told(study: Study) -> list[object]:
    trials = [(t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs) for t in study.trials]
    runs = sorted(study.confirmed(), key=lambda run: (run["trial"], run["seed"]))
    return [trials, study.epochs(), runs, study.test_log.evaluations(), study.plan, study.data.fingerprint]


@pytest.fixture(scope="module")
def answers(finished: Path) -> dict[str, object]:
    commands = {command: run(command, finished) for command in ("status", "best")}
    assert [code for code, _, _ in commands.values()] == [0, 0]
    return {**commands, "told": told(Study.open(finished / "study"))}


@pytest.mark.parametrize(("name", "damage"), CASES, ids=[f"{name}: {damage}" for name, damage in CASES])
def test_damage(finished, answers, tmp_path, name, damage):
    results = shutil.copytree(finished, tmp_path / "results")
    folder = results / "study"
    path = folder / name
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    before = content(folder)
    sentence = rf"lfvd-tune: {re.escape(str(folder))}/[\w.]+(, line \d+)?: .*: (restore|run) .*\n"
    for command in ("status", "best"):
        code, out, errors = run(command, results)
        if code == 0:
            assert (out, errors) == answers[command][1:]
        else:
            assert (code, out) == (2, "")
            assert re.fullmatch(sentence, errors)
        assert content(folder) == before, "a reading command writes nothing"
    again = shutil.copytree(results, tmp_path / "resumed") / "study"
    with contextlib.suppress(DamagedError):
        warnings, found = resume(again)
        assert found == answers["told"]
        assert warnings or code == 0
    code, out, errors = run("repair", results)
    if code:
        assert (code, out) == (2, "")
        assert re.fullmatch(sentence, errors)
        assert content(folder) == before, "nothing was changed"
        return
    kept = {path.name.partition(".damaged-")[0]: path.read_bytes() for path in folder.glob("*.damaged-1")}
    assert kept.items() <= before.items()
    now = content(folder)
    assert all(file in kept or file == "checksums.json" for file in before if now[file] != before[file])
    assert all(f"{file}: " in out for file in kept)
    assert run("best", results)[1] == answers["best"][1]
    warnings, found = resume(folder)
    assert found[2:] == answers["told"][2:]
    assert found == answers["told"] or "gone" in out or "another order" in out
