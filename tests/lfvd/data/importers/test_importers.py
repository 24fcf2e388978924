"""MELD's CSVs → Corpus: the real ones where they are at hand, small invented ones for all that can be wrong."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfvd.data.corpus import SPLITS, Corpus, CorpusError
from lfvd.data.datasets import MELD, MELD_CLASSES, repaired
from lfvd.data.importers import ImportOptions, import_files, write_sentences

ROWS = {
    "train": [
        ("Hello\x92s", "Ann", "neutral", 0, 0),
        ("None", "Bob", "joy", 0, 1),
        ("Why, though?", "Ann", "Anger", 0, 3),
        ("Hm.", "Bob", "fear", 61, 0),
    ],
    "dev": [("One", "Cy", "surprise", 0, 0), ("Two", "Di", "disgust", 0, 1)],
    "test": [("Three", "Bob", "sadness", 0, 0), ("Four", "Ann", "joy", 1, 0)],
}
COLUMNS = ["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"]


def write_csv(folder: Path, split: str, rows: list[tuple]) -> None:
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / f"{split}_sent_emo.csv", index_label="Sr No.")


def parts(width: int = 3, dtype: type = np.float16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {split: rng.standard_normal((len(rows), width)).astype(dtype) for split, rows in ROWS.items()}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "meld"
    folder.mkdir()
    for split, rows in ROWS.items():
        write_csv(folder, split, rows)
    np.savez(folder / "text.npz", **parts())
    return folder


def read(folder: Path, features: dict | None = None, **options) -> tuple[Corpus, pd.DataFrame]:
    named = {m: str(file) for m, file in ({"l": folder / "text.npz"} if features is None else features).items()}
    return import_files([folder], ImportOptions(features=named, **options))[:2]


def assert_refused(folder: Path, text: str, **features) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$"):
        read(folder, features or None)


def test_small_import(folder):
    corpus, sentences = read(folder, {"v": "simulated", "l": folder / "text.npz"}, seed=7)
    corpus.check("corpus")
    assert (corpus.info.name, corpus.info.classes, corpus.info.length_bins) == ("MELD", MELD_CLASSES, (5, 13))
    assert corpus.info.dialogues == ("0", "61", "1039", "1153", "1154")
    assert corpus.label.tolist() == [0, 4, 6, 2, 1, 5, 3, 4]
    assert corpus.speaker.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert corpus.offset.tolist() == [0, 3, 4, 6, 7, 8]
    assert corpus.split.tolist() == [0, 0, 1, 2, 2]
    assert list(corpus.features) == ["l", "v"]
    np.testing.assert_array_equal(corpus.features["l"], np.concatenate(list(parts().values())).astype(np.float32))
    assert corpus.features["v"].shape == (8, 342)
    assert sentences["sentence"].tolist() == ["Hello’s", "None", "Why, though?", "Hm.", "One", "Two", "Three", "Four"]
    assert sentences["dialogue"].tolist() == ["0", "0", "0", "61", "1039", "1039", "1153", "1154"]
    assert sentences["position"].tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    assert corpus.info.simulated == ("visual",)
    assert corpus.info.options == {"layout": "MELD CSV", "seed": 7}
    assert set(corpus.info.sources) == {"train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv", "text.npz"}
    assert corpus.info.sources["text.npz"] == hashlib.sha256((folder / "text.npz").read_bytes()).hexdigest()
    assert str(folder) not in repr(corpus.info)


def test_rows_may_stand_in_any_order(folder):
    """Features go with their rows."""
    expected = read(folder)[0]
    write_csv(folder, "train", [ROWS["train"][i] for i in (0, 3, 2, 1)])
    np.savez(folder / "other.npz", **{**parts(), "train": parts()["train"][[0, 3, 2, 1]]})
    assert read(folder, {"l": folder / "other.npz"})[0].content_hash() == expected.content_hash()


def test_feature_files_of_one_name_are_both_recorded(folder):
    (folder / "other").mkdir()
    np.savez(folder / "other" / "text.npz", **parts(width=5))
    corpus, _ = read(folder, {"l": folder / "text.npz", "a": folder / "other" / "text.npz"})
    assert {"text.npz", "4/text.npz"} < set(corpus.info.sources)
    assert corpus.widths(["l", "a"]) == {"l": 3, "a": 5}


def test_simulated_features_follow_the_seed(folder):
    one, again, other = (read(folder, {"a": "simulated", "v": "simulated"}, seed=s)[0] for s in (1, 1, 2))
    assert one.content_hash() == again.content_hash() != other.content_hash()
    assert one.features["a"][:, :10].tolist() != one.features["v"][:, :10].tolist()


def test_failed_sentences_leave_the_old_ones(folder, tmp_path, monkeypatch):
    _, sentences = read(folder)
    path = write_sentences(sentences, tmp_path / "c.safetensors")
    pd.testing.assert_frame_equal(pd.read_parquet(path), sentences)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sentences(sentences.iloc[:1], tmp_path / "c.safetensors")
    pd.testing.assert_frame_equal(pd.read_parquet(path), sentences)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["c.parquet"]


CP1252 = "".join(text for i in range(256) if (text := bytes([i]).decode("cp1252", errors="ignore")))


@given(st.text(alphabet=CP1252))
def test_repair_undoes_the_wrong_reading(text):
    assert repaired(text.encode("cp1252").decode("latin1")) == text
    assert repaired(text) == text


def test_features_that_cannot_be(folder):
    with pytest.raises(
        CorpusError, match=f"^{folder}: holds no features, but must: give a file with --language, --audio"
    ):
        read(folder, {})
    text = "language features cannot be simulated for MELD, only audio and visual ones of MELD and IEMOCAP"
    assert_refused(folder, f"{folder}: {text}: use `lfvd simulate`", l="simulated")
    assert_refused(folder, f"{folder}/no.npz: there is no such file: check the path", l=folder / "no.npz")


def test_missing_file_and_column(folder):
    file = folder / "dev_sent_emo.csv"
    pd.read_csv(file).drop(columns="Emotion").to_csv(file, index=False)
    names = "Dialogue_ID, Utterance_ID, Speaker, Emotion, Utterance"
    assert_refused(folder, f"{file}: there is no column `Emotion`, but it must have {names}: add it")
    file.unlink()
    assert_refused(folder, f"{file}: there is no such file: name a table, or a folder of MELD's three CSVs")


BAD_ROWS = {
    "emotion": (
        ("x", "Di", "glad", 0, 1),
        f": `Emotion` is 'glad', but must be one of {', '.join(MELD_CLASSES)}: correct it",
    ),
    "speaker": (("x", " ", "joy", 0, 1), ": `Speaker` is '', but must not be empty: fill it in"),
    "dialogue": (("x", "Di", "joy", "1.5", 1), ": `Dialogue_ID` is '1.5', but must be a whole number: correct it"),
    "next split": (
        ("x", "Di", "joy", 114, 5),
        " (dialogue 1153): `split` is 'test', but the dialogue began in another split, and must lie in one: correct it",
    ),
    "utterance": (("x", "Di", "joy", 0, "-"), ": `Utterance_ID` is '-', but must be a number: correct it"),
    "twice": (
        ("x", "Di", "joy", 0, 0),
        " (dialogue 1039): `Utterance_ID` is '0', but must stand once in a dialogue: correct it",
    ),
}


@pytest.mark.parametrize(("row", "text"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_row(folder, row, text):
    write_csv(folder, "dev", [ROWS["dev"][0], row])
    where = "test_sent_emo.csv, row 1" if "1153" in text else "dev_sent_emo.csv, row 2"
    assert_refused(folder, f"{folder}/{where}{text}")


BAD_ARRAYS = {
    "missing key": (
        {k: v for k, v in parts().items() if k != "dev"},
        ": there is no key `valid`, but it must hold train, valid, test, or one array: add it",
    ),
    "rows": (
        {**parts(), "dev": np.zeros((5, 3))},
        ": `valid` has 5 rows, but there are 2 utterances: extract the features from those",
    ),
    "widths": (
        {**parts(), "dev": np.zeros((2, 4))},
        ": the widths are [3, 4], but must be equal: use one extractor for all",
    ),
}


@pytest.mark.parametrize(("arrays", "text"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_features(folder, arrays, text):
    """Damaged and hostile files: test_hostile."""
    np.savez(folder / "bad.npz", **arrays)
    assert_refused(folder, f"{folder}/bad.npz{text}", a=folder / "bad.npz")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float16), (-np.inf, np.float16), (1e300, np.float64)])
def test_values_that_are_not_finite(folder, value, dtype):
    """Refused, or zero where asked; counted, and nothing else is changed."""
    changed = parts(dtype=dtype)
    changed["dev"][1, 2] = value
    np.savez(folder / "bad.npz", **changed)
    text = (
        f"{folder}: audio features of dialogue 1039, utterance 1 are NaN or infinite (and of 0 more utterances), "
        "but must be finite: correct them, or say --nan-to-zero"
    )
    assert_refused(folder, text, a=folder / "bad.npz")
    corpus, _ = read(folder, {"l": folder / "bad.npz"}, nan_to_zero=True)
    changed["dev"][1, 2] = 0.0
    np.testing.assert_array_equal(corpus.features["l"], np.concatenate(list(changed.values())).astype(np.float32))
    assert corpus.info.options["nan_to_zero"] == {"language": 1}


# The published data.


@pytest.fixture(scope="module")
def meld(meld_folder) -> tuple[Corpus, pd.DataFrame]:
    return read(meld_folder, {"l": meld_folder / "minilm.npz", "a": "simulated", "v": "simulated"})


def test_published_counts(meld, meld_folder):
    corpus, _ = meld
    for split in SPLITS:
        counts = np.bincount(corpus.label[corpus.rows(split)])
        assert (len(corpus.indices(split)), tuple(counts)) == MELD.published[split,]
    assert corpus.info.dialogues == tuple(str(i) for i in range(1433) if i != 60)
    length = np.diff(corpus.offset)
    speakers = np.array([part.max() + 1 for part in np.split(corpus.speaker, corpus.offset[1:-1])])
    assert (length.max(), (length == 1).sum(), (speakers == 1).sum(), speakers.max()) == (33, 88, 123, 9)
    with np.load(meld_folder / "minilm.npz") as arrays:
        flat = np.concatenate([arrays[key] for key in ("train", "dev", "test")])
    np.testing.assert_array_equal(corpus.features["l"], flat.astype(np.float32))
    assert corpus.widths(["l", "a", "v"]) == {"l": 384, "a": 300, "v": 342}


def test_csv_and_pickle_agree(meld, meld_folder):
    """Labels, speakers, splits and repaired sentences equal those of the pickle in circulation (layout M7)."""
    corpus, sentences = meld
    with (meld_folder / "cosmic_meld.pkl").open("rb") as file:
        speakers, emotions, _, texts, train, test, valid = pickle.load(file, encoding="latin1")
    spans = list(zip(corpus.info.dialogues, corpus.offset, corpus.offset[1:], strict=False))
    assert {int(i) for i, _, _ in spans} == set(emotions)
    for i, start, end in spans:
        assert corpus.label[start:end].tolist() == list(emotions[int(i)])
        assert corpus.speaker[start:end].tolist() == np.argmax(speakers[int(i)], axis=1).tolist()
    for split, ids in (("train", train), ("valid", valid), ("test", test)):
        assert {int(corpus.info.dialogues[d]) for d in corpus.indices(split)} == set(ids)
    raw = [text for i, _, _ in spans for text in texts[int(i)]]
    assert sum(bool(re.search("[\x80-\x9f]", text)) for text in raw) == 3741
    plain = [repaired(text).replace("\xa0", " ") for text in raw]  # the CSVs have plain spaces in place of hard ones
    assert plain == sentences["sentence"].tolist()
    assert not sentences["sentence"].str.contains("[\x80-\x9f]").any()
