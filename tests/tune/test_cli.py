"""`lfvd-tune` as a user has it: a whole search, again, interrupted, and one sentence for whatever is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.files import read_yaml, write_yaml
from tests.helpers.plans import PLAN
from tests.helpers.soundness import assert_sound
from tune.cli import main
from tune.search.trials import BY_HAND, STOPPED
from tune.study.study import Study

COMMAND = str(Path(sys.executable).with_name("lfvd-tune"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A simulated corpus of few dialogues and narrow features."""
    from lfvd.data.simulate import simulate

    path = tmp_path_factory.mktemp("data") / "small.safetensors"
    simulate("meld", seed=0, dialogues=16, widths={"l": 8, "a": 4}).save(path)
    return path


def plan(path: Path, **changes) -> Path:
    short = {"scheduler": {**PLAN["scheduler"], "max_epochs": 2}, "trials": 3}
    values = {**PLAN, **short, "confirm": {"folds": 0, "finalists": 1, "seeds": [0, 1]}, **changes}
    write_yaml(path, values)
    return path


def run(*argv: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run([COMMAND, *map(str, argv)], capture_output=True, text=True, env=environment)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def searched(data, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """Folder of results with the study `first`, searched in one go, and what the command said."""
    folder = tmp_path_factory.mktemp("searched")
    done = run("search", plan(folder / "plan.yaml"), "--data", data, "--name", "first", "--results", folder / "results")
    return folder / "results", done


def test_whole_search(searched, data):
    results, done = searched
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    study = results / "first"
    config = Config.from_yaml(study / "best.yaml")
    provenance = read_yaml(study / "best.yaml")["provenance"]
    assert provenance["data"]["simulated"] == ["language", "audio"]
    assert config.run.epochs == 2
    trials = {r["trial"] for r in lines(study / "epochs.jsonl") if r["stage"] == "search"}
    assert trials == {0, 1, 2}
    look, seen = lines(study / "test_looks.jsonl")
    assert list(seen) == ["scores", "crc"], "the look first, then what it saw"
    assert set(seen["scores"]) == {str(number) for number in look["trials"]}
    assert re.search(r"^search 3/3 trials, .* best trial \d \d+\.\d\d", done.stdout, re.MULTILINE)
    assert re.search(r"^confirmation over seeds: \d runs done, 0 pending", done.stdout, re.MULTILINE)
    assert "MELD (simulated); SIMULATED: language, audio" in done.stdout
    assert f"winner: trial {provenance['trial']}" in done.stdout
    assert f"written: {study}/best.yaml" in done.stdout.replace("\n", "")
    assert (
        f"  lfvd train {study}/best.yaml --data {os.path.relpath(data)} --seeds 0,1 --out runs/first"
        in done.stdout.splitlines()
    )
    assert f"MLflow: mlflow ui --backend-store-uri sqlite:///{results}/mlflow.db" in done.stdout.splitlines()


def test_status_and_best(searched, capsys):
    results, _ = searched
    for verb in ("status", "best"):
        with pytest.raises(SystemExit) as end:
            main([verb, "first", "--results", str(results)])
        out, err = capsys.readouterr()
        assert (end.value.code or 0, err) == (0, "")
        assert "MELD (simulated); SIMULATED: language, audio" in out
        if verb == "status":
            assert "search: 3 of 3 trials: 0 unfinished" in out
            assert "test evaluations: 1" in out
            assert re.search(r"^confirmation: \d runs over seeds$", out, re.MULTILINE)
            assert "noise: runs of one config spread W-F1 by" in out
        else:
            assert "written:" in out
            assert "winner: trial" in out
            assert re.search(r"^(The tuned config|No difference|The search found nothing)", out, re.MULTILINE)


def test_status_keeps_what_failed(make_study, capsys, monkeypatch):
    """A trial that failed stays in sight after a night of lost workers."""
    monkeypatch.setenv("COLUMNS", "200")
    study = make_study()
    study.log_fault("NonFiniteLoss: epoch 1", "failed", stage="search", trial=3, seed=1)
    for _ in range(20):
        study.log_fault("its node has died", "started again on another worker", stage="search", trial=1, seed=1)
    with pytest.raises(SystemExit):
        main(["status", study.name, "--results", str(study.folder.parent)])
    out = capsys.readouterr().out
    assert "8 of 21 faults (" in out
    assert out.count(" trial 3 failed: NonFiniteLoss: epoch 1\n") == 1
    assert out.count(" trial 1 started again on another worker: its node has died\n") == 7


@pytest.mark.slow
def test_confirm_alone(searched, data, tmp_path):
    """A study of which one run of the confirmation is missing, and all after it: `confirm` runs that one, and finds the same winner."""
    results = tmp_path / "results"
    shutil.copytree(searched[0], results)
    path = results / "first" / "confirm.jsonl"
    runs = lines(path)
    path.write_text("".join(json.dumps(run) + "\n" for run in runs[1:]))
    for name in ("test_looks.jsonl", "checksums.json"):
        (results / "first" / name).unlink()
    epochs = (results / "first" / "epochs.jsonl").read_text().count("\n")
    done = run("confirm", "first", "--results", results)
    assert (done.returncode, done.stderr) == (0, "")
    assert (results / "first" / "epochs.jsonl").read_text().count("\n") == epochs, "the epochs were written down before"

    def untimed(each: list[dict]) -> list[dict]:
        return sorted(({k: v for k, v in r.items() if k not in ("seconds", "crc")} for r in each), key=str)

    assert untimed(lines(path)) == untimed(runs)


TELLING = """
import os, sys
from tune.cli import main
from tune.study.study import Study
pipe, append = int(sys.argv.pop(1)), Study.log_epoch
def told(self, stage, trial, *rest):
    append(self, stage, trial, *rest)
    os.write(pipe, f"{stage} {trial}\\n".encode())
Study.log_epoch = told
main()
"""
"""`lfvd-tune`, with a line in a pipe for each epoch that is in epochs.jsonl."""


@contextmanager
def telling(*argv: object) -> Iterator[tuple[subprocess.Popen, Iterator[str]]]:
    """A command that runs → its process, and a line for each epoch; they end when the process does."""
    end, pipe = os.pipe()
    start = [sys.executable, "-c", TELLING, str(pipe), *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "pass_fds": [pipe]}
    with open(end) as epochs, subprocess.Popen(start, start_new_session=True, **pipes) as process:
        os.close(pipe)
        yield process, epochs


@pytest.mark.slow
def test_interrupted(data, tmp_path):
    """In the middle of the search: 130, the command to go on, with which it ends, each trial finished once."""
    settings = {
        "scheduler": {**PLAN["scheduler"], "max_epochs": 16, "grace_epochs": 8},
        "trials": 3,
        "confirm": {"folds": 0, "seeds": [0]},
    }
    argv = ["search", plan(tmp_path / "p.yaml", **settings), "--data", data, "--name", "cut"]
    argv += ["--results", tmp_path / "results"]
    study = tmp_path / "results" / "cut"
    with telling(*argv) as (process, epochs):
        assert [next(epochs, "") for _ in range(3)][-1], process.communicate()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes too
        out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    told = out[out.index("winding down: everything is saved") :].splitlines()
    assert told[-2:] == ["interrupted; to go on:", f"  lfvd-tune resume cut --results {tmp_path / 'results'}"]
    before = lines(study / "epochs.jsonl")
    assert before
    assert not (study / "best.yaml").exists()
    done = run(*told[-1].split()[1:])
    assert (done.returncode, done.stderr) == (0, "")
    epochs = lines(study / "epochs.jsonl")
    assert epochs[: len(before)] == before
    keys = [(r["stage"], r["trial"], r["seed"], r["epoch"]) for r in epochs]
    assert len(keys) == len(set(keys))
    searched = {t: [r["epoch"] for r in epochs if r["stage"] == "search" and r["trial"] == t] for t in range(3)}
    assert all(seen == list(range(1, len(seen) + 1)) and len(seen) in (8, 16) for seen in searched.values()), searched
    assert "search 3/3 trials" in done.stdout


@pytest.mark.slow
def test_from_another_shell(data, tmp_path):
    """A second driver is refused; prune ends a trial, stop the driver; resume extends, and all is sound."""
    settings = {
        "scheduler": {"kind": "none", "max_epochs": 300},
        "resources": {"max_concurrent": 1},
        "trials": 2,
        "confirm": {"folds": 0, "finalists": 1, "seeds": [0]},
    }
    results = ["--results", tmp_path]
    argv = ["search", plan(tmp_path / "p.yaml", **settings), "--data", data, "--name", "two", *results]
    study = tmp_path / "two"
    with telling(*argv) as (driver, epochs):
        assert [next(epochs, "") for _ in range(2)][-1], driver.communicate()
        asked = run("prune", "two", 0, *results)
        assert (asked.returncode, asked.stdout) == (0, "trial 0 ends after its current epoch\n"), asked.stderr
        assert "search 1\n" in epochs, driver.communicate()
        second = run(*argv)
        assert second.returncode == 2
        assert f"another driver is at work on this study (process {driver.pid} on" in second.stderr
        assert f"driver: process {driver.pid} on" in run("status", "two", *results).stdout
        stopped = run("stop", "two", *results)
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stdout.startswith(f"asked the driver (process {driver.pid} on ")
        assert (driver.communicate()[1], driver.returncode) == ("", 130)
    assert run("stop", "two", *results).returncode == 1
    found = Study.open(study)
    assert [t.user_attrs.get(STOPPED) for t in found.trials] == [BY_HAND, None]
    assert run("prune", "two", 1, *results).stdout == "trial 1 is ended\n"
    again = run("prune", "two", 1, *results)
    assert again.returncode == 2
    assert again.stderr == f"lfvd-tune: {study}: trial 1 is stopped: name an unfinished one (none)\n"
    done = run("resume", "two", "--trials", 3, *results)
    assert (done.returncode, done.stderr) == (0, "")
    found = assert_sound(study)
    assert [t.user_attrs.get(STOPPED) for t in found.trials] == [BY_HAND, BY_HAND, None]
    assert not list((study / "checkpoints").iterdir())


@pytest.mark.slow
def test_every_trial_fails(data, tmp_path):
    """Features that no training survives: 1, the first error, and no best.yaml."""
    corpus = Corpus.open(data)
    huge = {m: np.where(x < 0, -3e38, 3e38).astype(np.float32) for m, x in corpus.features.items()}
    path = tmp_path / "huge.safetensors"
    Corpus(**{**vars(corpus), "features": huge}).save(path)
    fixed = {**PLAN["set"], "data.standardise": False}
    argv = ["search", plan(tmp_path / "p.yaml", set=fixed), "--data", path, "--name", "bad", "--results", tmp_path]
    done = run(*argv)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.fullmatch(
        rf"lfvd-tune: {tmp_path}/bad: no trial beside the baseline came to a result; the first error: NonFiniteLoss: epoch 1, batch \d of \d: "
        r"the \w+ loss is not finite: lower .*\n",
        done.stderr,
    )
    assert "3 failed" in done.stdout
    assert not (tmp_path / "bad" / "best.yaml").exists()
    assert not (tmp_path / "bad" / "test_looks.jsonl").exists()
    told = run("status", "bad", "--results", tmp_path).stdout
    for name in ("trial 0 (baseline)", "trial 1", "trial 2"):
        assert f" {name} failed: NonFiniteLoss: epoch 1, batch " in told


@pytest.mark.slow
def test_a_running_cluster(address, data, tmp_path, monkeypatch):
    """`--address auto`, as on a node of `ray up` or KubeRay: where RAY_ADDRESS leads, and not on a Ray of its own."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    argv = ["search", plan(tmp_path / "p.yaml", resources={"gpu": 0.5}), "--data", data, "--name", "there"]
    done = run(*argv, "--results", tmp_path, "--address", "auto")  # the GPUs are numbers that only that cluster has
    assert (done.returncode, done.stderr) == (0, "")
    assert "Ray counts 2 GPUs on 127.0.0.2" in done.stdout
    assert (tmp_path / "there" / "best.yaml").is_file()


def fails(capsys, *argv: object) -> str:
    """The one sentence of a command that exits 2."""
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert out == ""
    assert err.startswith("lfvd-tune: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removeprefix("lfvd-tune: ").rstrip("\n")


@pytest.mark.parametrize(
    ("corpus", "changes", "text"),
    [
        (
            "gone.safetensors",
            {},
            "gone.safetensors: there is no such file: make it with `lfvd import` or `lfvd simulate`",
        ),
        ("notes.txt", {}, "notes.txt: is not a whole safetensors file ("),
        (
            None,
            {"set": {**PLAN["set"], "data.modalities": "l,v"}},
            "the corpus MELD (simulated) has no visual features",
        ),
        (None, {"trials": 0}, "p.yaml: the value of `trials` is 0"),
    ],
)
def test_a_plan_or_data_that_do_not_fit(tmp_path, data, capsys, corpus, changes, text):
    """One sentence, and no folder is made."""
    (tmp_path / "notes.txt").write_text("no corpus")
    path = plan(tmp_path / "p.yaml", **changes)
    argv = ["search", path, "--data", tmp_path / corpus if corpus else data, "--results", tmp_path / "r"]
    assert text in fails(capsys, *argv)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "a\\b", ""])
def test_name_that_is_no_name(tmp_path, data, capsys, name):
    argv = ["search", plan(tmp_path / "p.yaml"), "--data", data, "--name", name, "--results", tmp_path / "r"]
    if name:
        assert fails(capsys, *argv) == (
            f"--name {name!r}: must be a plain name, since it becomes a folder in {tmp_path}/r: leave out slashes"
        )
        assert not (tmp_path / "r").exists()
    assert "must be a plain name" in fails(capsys, "status", name, "--results", tmp_path)


@pytest.mark.parametrize("verb", ["status", "best", "confirm", "sync"])
def test_unknown_study(searched, capsys, verb):
    results, _ = searched
    assert fails(capsys, verb, "secnod", "--results", results) == (
        f"{results}/secnod: there is no such study: there are first"
    )


def test_data_of_the_study_are_gone(searched, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(searched[0], results)
    frozen = read_yaml(results / "first" / "plan.yaml")
    frozen["data"]["path"] = str(tmp_path / "moved.safetensors")
    write_yaml(results / "first" / "plan.yaml", frozen)
    assert "moved.safetensors: there is no such file" in fails(capsys, "confirm", "first", "--results", results)


def test_results_that_cannot_be_written(tmp_path, data, capsys):
    (tmp_path / "file").write_text("")
    argv = ["search", plan(tmp_path / "p.yaml"), "--data", data, "--name", "x", "--results", tmp_path / "file"]
    assert re.fullmatch(r".*: Not a directory: check the path, its rights and the disk", fails(capsys, *argv))


def test_best_before_the_confirmation(searched, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(searched[0], results)
    for name in ("confirm.jsonl", "test_looks.jsonl", "checksums.json"):
        (results / "first" / name).unlink()
    with pytest.raises(SystemExit) as end:
        main(["best", "first", "--results", str(results)])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"lfvd-tune: {results}/first: is not confirmed yet: run `lfvd-tune confirm first`\n"
    )


SLOW = {"ray", "torch", "optuna", "mlflow", "numpy", "pandas"}


def test_help_imports_nothing_slow():
    code = "import runpy, sys\nsys.argv = ['', '--help']\ntry:\n    runpy.run_module('tune', run_name='__main__')\n"
    code += "except SystemExit as end:\n    assert not end.code\n"
    code += "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & SLOW
    assert done.stdout.lstrip().startswith("Usage: lfvd-tune "), "`python -m tune` is the same command"
    for verb in ("search", "confirm", "best", "status", "sync", "doctor"):
        assert re.search(rf"^ +{verb} +[A-Z]", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(("package", "install"), [("ray", "ray[tune]"), ("optuna", "optuna"), ("mlflow", "mlflow")])
def test_a_package_that_is_missing(tmp_path, capsys, monkeypatch, package, install):
    error = ModuleNotFoundError(f"No module named '{package}.tune'", name=f"{package}.tune")
    monkeypatch.setattr("tune.cli.app", Mock(side_effect=error))
    assert fails(capsys, "status", "x") == f"the package {package} is not installed: run `pip install '{install}'`"


def test_a_platform_that_is_not_posix(capsys, monkeypatch):
    monkeypatch.setattr("tune.cli.os", Mock())
    assert fails(capsys, "--help") == ("needs Linux or macOS, for its file locks and signals: on Windows run it in WSL")
