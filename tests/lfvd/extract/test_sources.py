"""Where the utterances and their clips are found, and the file that the features go to; no extra is needed."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lfvd.extract.sources import read_source
from lfvd.extract.work import Clip
from lfvd.files import InputError
from lfvd.terminal import progress_bar

TEXTS = {"train": ["We can\x92t\x85", "None"], "dev": ["ok"], "test": ["yes", "no"]}


@pytest.fixture
def meld(tmp_path):
    for split, texts in TEXTS.items():
        rows = "".join(f'"{text}",Joy,{i},3\n' for i, text in enumerate(texts))
        file = tmp_path / "meld" / f"{split}_sent_emo.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"Utterance,Emotion,Dialogue_ID,Utterance_ID\n{rows}", encoding="utf-8")
    return tmp_path / "meld"


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def table(tmp_path: Path, **columns: list[object]) -> Path:
    file = tmp_path / "own.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def test_meld_texts_and_features_by_split(meld, tmp_path):
    source = read_source(meld)
    assert source.texts() == ["We can’t…", "None", "ok", "yes", "no"]
    assert source.train() == (["We can’t…", "None"], ["joy", "joy"])
    features = np.arange(10, dtype=np.float32).reshape(5, 2)
    source.save(tmp_path / "f.npz", features)
    with np.load(tmp_path / "f.npz") as saved:
        found = {key: saved[key].tolist() for key in saved}
    assert found == {k: features[i:j].tolist() for k, i, j in (("train", 0, 2), ("dev", 2, 3), ("test", 3, 5))}


@pytest.mark.parametrize(
    ("train", "dev", "test"),
    [("train", "dev", "test"), ("train_splits", "dev_splits_complete", "output_repeated_splits_test")],
)
def test_meld_clips_by_name(meld, tmp_path, train, dev, test):
    there = f"{train}/dia0_utt3.mp4", f"{dev}/dia0_utt3.wav", f"{test}/dia0_utt3.mp4", f"{test}/dia1_utt3.mkv"
    files = touch(tmp_path / "clips", *there, f"{train}/._dia1_utt3.mp4")[:4]
    files.insert(1, tmp_path / "clips" / train / "dia1_utt3.mp4")
    assert read_source(meld).clips(tmp_path / "clips") == [Clip(file=file) for file in files]


def test_table_clips_and_features(tmp_path):
    file = table(tmp_path, file=["a.mp4", "b.mp4", "a.mp4"], start=["0", "1.5", ""], end=["", "2", "0.25"])
    source, (a, b) = read_source(file), (tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert source.clips(None) == [Clip(file=a), Clip(file=b, start=1.5, end=2.0), Clip(file=a, end=0.25)]
    assert source.clips(tmp_path / "x")[0].file == tmp_path / "x" / "a.mp4"
    source.save(tmp_path / "f.npy", np.eye(3, dtype=np.float32))
    assert np.array_equal(np.load(tmp_path / "f.npy"), np.eye(3))


def test_a_parquet_table_with_numbers_and_gaps(tmp_path):
    file = tmp_path / "own.parquet"
    pd.DataFrame({"file": ["a", "b"], "start": [0.5, None], "text": ["x", None]}).to_parquet(file)
    source = read_source(file)
    assert source.clips(None) == [Clip(file=tmp_path / "a", start=0.5), Clip(file=tmp_path / "b")]
    assert source.texts() == ["x", ""]


def test_train_leaves_out_other_splits_and_unlabelled(tmp_path):
    labels = ["joy", "", "-1", "joy", "fear"]
    file = table(tmp_path, text=list("abcde"), split=["train", "train", "train", "valid", "train"], label=labels)
    assert read_source(file).train() == (["a", "e"], ["joy", "fear"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"file": ["a"], "start": ["1"], "end": ["1"]},
            "row 1: `start` is 1 and `end` 1, but start must be at least 0 and below",
        ),
        ({"file": ["a", "b"], "start": ["0", "-1"]}, "row 2: `start` is -1 and `end` inf"),
        (
            {"file": ["a", "b"], "end": ["1", "soon"]},
            "row 2: the value of `end` is 'soon', but must be a number of seconds",
        ),
        ({"start": ["1"]}, "there is no column `file`, but it must have one: add it"),
    ],
)
def test_bad_tables_are_refused(tmp_path, columns, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_source(table(tmp_path, **columns)).clips(None)


def test_bad_sources_are_refused(meld, tmp_path):
    source, words = read_source(meld), read_source(table(tmp_path, text=["x"], split=["test"], label=["joy"]))
    touch(tmp_path / "twice", *(f"{split}/dia0_utt3.mp4" for split in TEXTS), "train/dia0_utt3.wav")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not all")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "train_sent_emo.csv").write_text("Utterance\nhi\n", encoding="utf-8")
    for refused, message in (
        (lambda: source.clips(None), "the clips are not named: give their folder with --clips"),
        (lambda: source.clips(tmp_path), "no folder train or train_splits in it"),
        (lambda: source.clips(tmp_path / "twice"), "dia0_utt3.mp4 has the same name"),
        (lambda: source.check_out(Path("f.npy")), "must end in .npz for .*meld: try f.npz"),
        (lambda: words.check_out(Path("f.npz")), "must end in .npy"),
        (words.train, "the split train has no labelled utterance"),
        (lambda: read_source(tmp_path / "nothing.csv"), "nothing.csv: there is no such file"),
        (lambda: read_source(tmp_path / "x.parquet"), "x.parquet: is not a table"),
        (lambda: read_source(tmp_path / "half"), "train_sent_emo.csv: there is no column `Emotion`"),
    ):
        with pytest.raises(InputError, match=message):
            refused()


def test_progress_in_a_file_is_a_line_a_tenth(capsys):
    with progress_bar("clips", 40) as done:
        for count in range(41):
            done(count)
    assert capsys.readouterr().out.split("\n")[:-1] == [f"clips {count}/40" for count in range(0, 41, 4)]


@pytest.mark.parametrize(("command", "package"), [("language", "transformers"), ("audio", "av"), ("visual", "av")])
def test_without_the_extra_a_sentence_names_it(command, package, monkeypatch, lfvd):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentence = f"the package `{package}` is not installed, but is needed here: pip install 'lfvd[features]'"
    assert lfvd("extract", command, "somewhere", "--out", "f.npz") == (2, "", f"lfvd: {sentence}\n")
