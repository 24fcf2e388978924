"""Where the utterances and their clips are found, and the file that the features go to; no extra is needed."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lfvd.cli import main
from lfvd.extract.clips import Clip
from lfvd.extract.progress import bar
from lfvd.extract.sources import SourceError, missing, read_source

TEXTS = {"train": ["We can\x92t\x85", "None"], "dev": ["ok"], "test": ["yes", "no"]}


@pytest.fixture
def meld(tmp_path):
    for split, texts in TEXTS.items():
        rows = "".join(f'"{text}",Joy,{i},3\n' for i, text in enumerate(texts))
        file = tmp_path / "meld" / f"{split}_sent_emo.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"Utterance,Emotion,Dialogue_ID,Utterance_ID\n{rows}", encoding="utf-8")
    return tmp_path / "meld"


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def table(tmp_path: Path, **columns: list[object]) -> Path:
    file = tmp_path / "own.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def test_meld_rows_and_texts(meld):
    source = read_source(meld)
    assert source.texts() == ["We can’t…", "None", "ok", "yes", "no"]
    assert source.train() == (["We can’t…", "None"], ["joy", "joy"])


@pytest.mark.parametrize(
    "names", [("train", "dev", "test"), ("train_splits", "dev_splits_complete", "output_repeated_splits_test")]
)
def test_meld_clips_by_name(meld, tmp_path, names):
    train, dev, test = (tmp_path / "clips" / name for name in names)
    touch(
        train / "dia0_utt3.mp4",
        train / "._dia1_utt3.mp4",
        dev / "dia0_utt3.wav",
        test / "dia0_utt3.mp4",
        test / "dia1_utt3.mkv",
    )
    expected = [
        train / "dia0_utt3.mp4",
        train / "dia1_utt3.mp4",
        dev / "dia0_utt3.wav",
        test / "dia0_utt3.mp4",
        test / "dia1_utt3.mkv",
    ]
    assert read_source(meld).clips(tmp_path / "clips") == [Clip(file=file) for file in expected]


def test_meld_features_by_split(meld, tmp_path):
    features = np.arange(10, dtype=np.float32).reshape(5, 2)
    read_source(meld).save(tmp_path / "f.npz", features)
    with np.load(tmp_path / "f.npz") as saved:
        assert {key: saved[key].tolist() for key in saved} == {
            "train": features[:2].tolist(),
            "dev": features[2:3].tolist(),
            "test": features[3:].tolist(),
        }


def test_table_clips_and_features(tmp_path):
    file = table(tmp_path, file=["a.mp4", "b.mp4", "a.mp4"], start=["0", "1.5", ""], end=["", "2", "0.25"])
    source = read_source(file)
    clips = [
        Clip(file=tmp_path / "a.mp4"),
        Clip(file=tmp_path / "b.mp4", start=1.5, end=2.0),
        Clip(file=tmp_path / "a.mp4", end=0.25),
    ]
    assert source.clips(None) == clips
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


def test_missing_lists_the_clips():
    clips = [Clip(file=Path("a")), Clip(file=Path("b"), start=1.0, end=2.0), Clip(file=Path("c"))]
    listed = missing(clips, {2: "gone", 1: "broken"})
    assert listed[["file", "reason"]].to_numpy().tolist() == [["b", "broken"], ["c", "gone"]]
    assert listed.loc[0, ["start", "end"]].tolist() == [1.0, 2.0]


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
    with pytest.raises(SourceError, match=re.escape(message)):
        read_source(table(tmp_path, **columns)).clips(None)


def test_bad_sources_are_refused(meld, tmp_path):
    source = read_source(meld)
    with pytest.raises(SourceError, match="the clips are not named: give their folder with --clips"):
        source.clips(None)
    with pytest.raises(SourceError, match="no folder train or train_splits in it"):
        source.clips(tmp_path)
    touch(
        *(tmp_path / split / "dia0_utt3.mp4" for split in ("train", "dev", "test")),
        tmp_path / "train" / "dia0_utt3.wav",
    )
    with pytest.raises(SourceError, match=r"dia0_utt3.mp4 has the same name"):
        source.clips(tmp_path)
    with pytest.raises(SourceError, match=r"must end in .npz for .*meld: try f.npz"):
        source.check_out(Path("f.npy"))
    with pytest.raises(SourceError, match=r"must end in .npy"):
        read_source(table(tmp_path, text=["x"])).check_out(Path("f.npz"))
    with pytest.raises(SourceError, match="the split train has no labelled utterance"):
        read_source(table(tmp_path, text=["x"], split=["test"], label=["joy"])).train()
    with pytest.raises(SourceError, match=r"nothing.csv: cannot be read \(No such file or directory\)"):
        read_source(tmp_path / "nothing.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not all")
    with pytest.raises(SourceError, match=r"x.parquet: is not a table"):
        read_source(tmp_path / "x.parquet")
    (meld / "dev_sent_emo.csv").write_text("Utterance\nhi\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"dev_sent_emo.csv: there is no column `Emotion`"):
        read_source(meld)


def test_progress_in_a_file_is_a_line_a_tenth(capsys):
    with bar("clips", 40) as done:
        for count in range(41):
            done(count)
    assert capsys.readouterr().out.split("\n")[:-1] == [f"clips {count}/40" for count in range(0, 41, 4)]


@pytest.mark.parametrize(("command", "package"), [("language", "transformers"), ("audio", "av"), ("visual", "av")])
def test_without_the_extra_a_sentence_names_it(command, package, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["extract", command, "somewhere", "--out", "f.npz"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"lfvd: the package `{package}` is not installed, but is needed here: pip install 'lfvd[features]'\n"
    )
