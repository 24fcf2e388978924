"""The command as its user meets it: what it prints, how it ends, and one plain sentence for each kind of bad input."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lfvd.cli import main
from lfvd.config import Config
from tests.helpers.plans import TINY
from tests.helpers.run_folders import contents, csv_rows

SETTINGS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def trained(tiny_file, tmp_path_factory):
    """A run of `lfvd train` with one seed: its folder and what was printed."""
    out, printed = tmp_path_factory.mktemp("cli") / "run", io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        main(["train", "meld", "--data", str(tiny_file), *SETTINGS, "--out", str(out)])
    assert not end.value.code
    return out, printed.getvalue()


def test_train_prints_lines_and_tables(trained, tiny_file):
    out, printed = trained
    lines = printed.splitlines()
    for epoch, line in enumerate(lines[:4], start=1):
        number = r"\d+\.\d\d"
        assert re.fullmatch(rf"seed 0  epoch {epoch}/4  loss \d+\.\d{{3}}  val W-F1 {number}  best {number} @\d", line)
    assert "TINY, validation split, 1 seed; SIMULATED: audio" in lines
    best = json.loads((out / "result.json").read_text(encoding="utf-8"))["seeds"]["0"]
    assert f"{100 * best['scores']['wf1']:.2f}" in printed
    assert f"{100 * best['scores']['f1/glad']:.2f}" in printed
    assert lines[-2:] == [
        f"wrote {out}: result.json, confusion_valid.png, curves.png, seed*/model.safetensors",
        f"next: lfvd evaluate {out} --data {tiny_file} --split test",
    ]
    assert max(map(len, lines[:-2])) <= 80


def test_evaluate_and_predict(trained, tiny_file, tmp_path, lfvd):
    out, _ = trained
    code, printed, err = lfvd("evaluate", out, "--data", tiny_file, "--split", "test")
    assert (code, err) == (0, "")
    assert "TINY, test split, 1 seed; SIMULATED: audio" in printed
    assert printed.endswith(f"wrote {out / 'test.json'} and {out / 'confusion_test.png'}\n")
    csv = tmp_path / "p.csv"
    csv.write_text("old")
    assert lfvd("predict", out, "--data", tiny_file, "--out", csv) == (
        0,
        f"wrote {csv}: 7 utterances; SIMULATED: audio\n",
        "",
    )
    assert len(csv_rows(csv)) == 7


def test_other_data_of_the_same_shape_are_allowed_with_a_note(trained, tiny_file, tiny_corpus, tmp_path, lfvd):
    features = {m: x + np.float32(1) for m, x in tiny_corpus.features.items()}
    other = tmp_path / "other.safetensors"
    fingerprint = replace(tiny_corpus, features=features).save(other).fingerprint
    code, _, err = lfvd("predict", trained[0], "--data", other, "--out", tmp_path / "p.csv")
    assert (code, err) == (
        0,
        f"lfvd: note: {trained[0]} was trained on TINY {tiny_corpus.fingerprint[:12]}, "
        f"these data are TINY {fingerprint[:12]}\n",
    )


def test_simulate_then_describe(tmp_path, lfvd):
    file = tmp_path / "d.safetensors"
    code, out, err = lfvd("simulate", "--like", "iemocap", "--dialogues", 6, "--seed", 1, "--out", file)
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {file}: IEMOCAP (simulated), 6 dialogues, ")
    assert out.splitlines()[0].endswith("; SIMULATED: language, audio, visual")
    assert out.splitlines()[1] == f"next: lfvd describe {file}"
    code, out, _ = lfvd("describe", file)
    assert code == 0
    assert "frustrated" in out


@pytest.mark.slow
def test_import(meld_folder, tmp_path, lfvd):
    file = tmp_path / "meld.safetensors"
    argv = ["import", meld_folder, "--language", meld_folder / "minilm.npz", "--visual", "simulated", "--out", file]
    code, out, err = lfvd(*argv)
    assert (code, err) == (0, "")
    layout, wrote = out.splitlines()[:2]
    assert layout == f"{meld_folder}: layout MELD CSV of MELD"
    assert wrote == (
        f"wrote {file} and {file.with_suffix('.parquet')}: MELD, 1432 dialogues, 13708 utterances; SIMULATED: visual"
    )


def test_options_are_part_of_the_config(tiny_file, tmp_path, lfvd):
    extra = ["--patience", 7, "--device", "cpu", "--seeds", "3,5"]
    code, _, _ = lfvd("train", "meld", "--data", tiny_file, *SETTINGS, *extra, "--out", tmp_path / "r")
    assert code == 0
    expected = Config.from_yaml("meld").with_values({**TINY, "run.patience": 7})
    assert Config.from_yaml(tmp_path / "r" / "config.yaml") == expected
    assert sorted(p.name for p in (tmp_path / "r").glob("seed*")) == ["seed3", "seed5"]


SEEDS = "but must be different whole numbers from 0 to 4294967295: try --seeds 0,1,2"


@pytest.mark.parametrize(
    ("config", "extra", "sentence"),
    [
        (
            "meld",
            "--set model.heds=2 --set optim.lr=-1",
            "--set: there is no key `model.heds`: did you mean `model.heads`?; "
            "the value of `optim.lr` is -1.0, but must be above 0 and at most 1",
        ),
        (
            "meld",
            "--set model.heads",
            "--set model.heads: has no `=`, but must be KEY=VALUE: as in --set model.heads=8",
        ),
        ("meld", "--set model.heads=2 --set model.heads=4", "--set: the key `model.heads` is given twice: keep one"),
        ("meld", "--set model.heads=[", "--set model.heads=[: the value is not valid YAML: quote it"),
        ("meld", "--set model.heads=", "--set: the value of `model.heads` is None, but must be a whole number"),
        (
            "meld",
            "--patience -1",
            "command line: the value of `run.patience` is -1, but must be at least 0 and at most 100000",
        ),
        ("meld", "--seeds 0,0", f"the value of `--seeds` is 0,0, {SEEDS}"),
        ("meld", "--seeds a", f"the value of `--seeds` is a, {SEEDS}"),
        ("meld", "--seed -1", f"the value of `--seed` is -1, {SEEDS}"),
        ("meld", "--seed 1 --seeds 1,2", "--seed and --seeds are both given: keep one"),
        ("c.yaml", "", "c.yaml: there is no key `modle`: did you mean `model`?"),
        ("medl", "", "medl: there is no such file or preset: name a YAML file or one of iemocap, meld"),
    ],
)
def test_bad_config(config, extra, sentence, tiny_file, tmp_path, monkeypatch, lfvd):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("modle: {heads: 4}\n", encoding="utf-8")
    done = lfvd("train", config, "--data", tiny_file, *extra.split(), "--out", "run")
    assert done == (2, "", f"lfvd: {sentence}\n")
    assert list(contents(tmp_path)) == ["c.yaml"]


@pytest.mark.parametrize(
    "command",
    ["train meld --out out", "evaluate {run}", "predict {run} --out out", "describe"],
    ids=["train", "evaluate", "predict", "describe"],
)
def test_bad_data(command, trained, tiny_file, tmp_path, monkeypatch, lfvd):
    """One sentence, and nothing written; test_corpus.py has a sentence for each kind of bad file."""
    monkeypatch.chdir(tmp_path)
    Path("cut").write_bytes(tiny_file.read_bytes()[:-100])
    before, argv = contents(trained[0]), command.format(run=trained[0]).split()
    code, printed, err = lfvd(*argv, *([] if command == "describe" else ["--data"]), "cut")
    assert (code, printed) == (2, "")
    assert re.fullmatch(r"lfvd: cut: is not a whole safetensors file \(.*\): import it again\n", err)
    assert list(contents(tmp_path)) == ["cut"]
    assert contents(trained[0]) == before


def test_failed_simulate_and_import_keep_the_old_file(tmp_path, lfvd):
    file = tmp_path / "old.safetensors"
    file.write_text("old")
    code, out, err = lfvd("simulate", "--like", "meld", "--dialogues", 1, "--out", file)
    assert (code, out) == (2, "")
    assert err.startswith("lfvd: the value of `dialogues` is 1, but must be at least 3")
    code, out, err = lfvd("import", tmp_path, "--language", tmp_path / "none.npz", "--out", file)
    assert (code, out) == (2, "")
    assert err.startswith("lfvd: ")
    assert err.count("\n") == 1
    assert contents(tmp_path) == {"old.safetensors": b"old"}


def test_out_that_cannot_be_written(trained, tiny_file, tmp_path, lfvd):
    sentence = f"lfvd: {tmp_path}: Is a directory: check the path, its rights and the disk\n"
    assert lfvd("predict", trained[0], "--data", tiny_file, "--out", tmp_path) == (2, "", sentence)
    code, out, err = lfvd("predict", trained[0], "--data", tiny_file, "--out", tiny_file / "p.csv")
    assert (code, out) == (2, "")
    assert err.startswith(f"lfvd: {tiny_file}")
    assert list(tmp_path.parent.glob(f".{tmp_path.name}*")) == []


def test_training_that_diverges(tiny_corpus, tmp_path, lfvd):
    huge = np.random.default_rng(0).choice([-3e38, 3e38], tiny_corpus.features["l"].shape).astype(np.float32)
    replace(tiny_corpus, features={**tiny_corpus.features, "l": huge}).save(tmp_path / "huge.safetensors")
    raw = ["--set", "data.standardise=false", "--out", tmp_path / "run"]
    code, out, err = lfvd("train", "meld", "--data", tmp_path / "huge.safetensors", *SETTINGS, *raw)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"lfvd: seed 0, epoch 1, batch 1 of 2: the classification loss is not finite: lower .*\n", err)


@pytest.mark.parametrize("argv", [["train", "--bogus"], ["train"], ["trian"], ["evaluate", "x", "--split", "dev"]])
def test_usage_errors(argv, lfvd):
    code, out, err = lfvd(*argv)
    assert (code, out) == (2, "")
    assert "Error: " in err
    assert not re.search("[╭─│]|Traceback", err)
