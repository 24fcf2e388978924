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
from lfvd.data.importers import MELD_CLASSES, ImportOptions, import_files, repaired, write_sentences
from lfvd.data.importers.meld_csv import MELD_COLUMNS
from lfvd.files import InputError

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


def write_csv(folder: Path, split: str, rows: list[tuple]) -> None:
    columns = ["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / f"{split}_sent_emo.csv", index_label="Sr No.")


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


def import_meld(folder: Path, *, features: dict, **options) -> tuple[Corpus, pd.DataFrame]:
    named = {modality: str(file) for modality, file in features.items()}
    return import_files([folder], ImportOptions(features=named, **options))[:2]


def read(folder: Path, **features) -> tuple[Corpus, pd.DataFrame]:
    return import_meld(folder, features=features or {"l": folder / "text.npz"})


def test_small_import(folder):
    corpus, sentences = read(folder, l=folder / "text.npz", a="simulated")
    assert corpus.problems() == []
    assert corpus.info.name == "MELD"
    assert corpus.info.classes == MELD_CLASSES
    assert corpus.info.dialogues == ("0", "61", "1039", "1153", "1154")
    assert corpus.info.length_bins == (5, 13)
    assert corpus.label.tolist() == [0, 4, 6, 2, 1, 5, 3, 4]
    assert corpus.speaker.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert corpus.offset.tolist() == [0, 3, 4, 6, 7, 8]
    assert corpus.split.tolist() == [0, 0, 1, 2, 2]
    np.testing.assert_array_equal(corpus.features["l"], np.concatenate(list(parts().values())).astype(np.float32))
    assert corpus.features["a"].shape == (8, 300)
    assert sentences["sentence"].tolist() == ["Hello’s", "None", "Why, though?", "Hm.", "One", "Two", "Three", "Four"]
    assert sentences["dialogue"].tolist() == ["0", "0", "0", "61", "1039", "1039", "1153", "1154"]
    assert sentences["position"].tolist() == [0, 1, 2, 0, 0, 1, 0, 0]


def test_origin_is_recorded(folder):
    corpus, _ = import_meld(folder, features={"v": "simulated", "l": folder / "text.npz"}, seed=7)
    assert list(corpus.features) == ["l", "v"]
    assert corpus.info.simulated == ("visual",)
    assert corpus.info.options == {"layout": "MELD CSV", "seed": 7}
    assert set(corpus.info.sources) == {"train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo.csv", "text.npz"}
    digest = hashlib.sha256((folder / "text.npz").read_bytes()).hexdigest()
    assert corpus.info.sources["text.npz"] == digest
    assert str(folder) not in repr(corpus.info)
    assert read(folder)[0].info.options == {"layout": "MELD CSV"}


def test_feature_files_of_one_name_are_both_recorded(folder):
    (folder / "other").mkdir()
    np.savez(folder / "other" / "text.npz", **parts(width=5))
    corpus, _ = read(folder, l=folder / "text.npz", a=folder / "other" / "text.npz")
    assert {"text.npz", "audio/text.npz"} < set(corpus.info.sources)
    assert corpus.widths(["l", "a"]) == {"l": 3, "a": 5}


def test_simulated_features_follow_the_seed(folder):
    one, again, other = (
        import_meld(folder, features={"a": "simulated", "v": "simulated"}, seed=s)[0] for s in (1, 1, 2)
    )
    assert one.content_hash() == again.content_hash() != other.content_hash()
    assert one.features["a"][:, :10].tolist() != one.features["v"][:, :10].tolist()


def test_sentences_stand_beside_the_corpus(folder, tmp_path):
    corpus, sentences = read(folder)
    corpus.save(tmp_path / "out" / "text.safetensors")
    path = write_sentences(sentences, tmp_path / "out" / "text.safetensors")
    assert path == tmp_path / "out" / "text.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), sentences)
    assert sorted(p.name for p in path.parent.iterdir()) == ["text.parquet", "text.safetensors"]


def test_failed_sentences_leave_the_old_ones(folder, tmp_path, monkeypatch):
    _, sentences = read(folder)
    path = write_sentences(sentences, tmp_path / "c.safetensors")
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sentences(sentences.iloc[:1], tmp_path / "c.safetensors")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["c.parquet"]


CP1252 = "".join(text for i in range(256) if (text := bytes([i]).decode("cp1252", errors="ignore")))


@given(st.text(alphabet=CP1252))
def test_repair_undoes_the_wrong_reading(text):
    assert repaired(text.encode("cp1252").decode("latin1")) == text
    assert repaired(text) == text


def assert_refused(folder: Path, text: str, **features) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$") as caught:
        read(folder, **features)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ({}, "holds no features, but a corpus needs some: give a file with --language, --audio or --visual"),
        (
            {"l": "simulated"},
            "language features cannot be simulated for MELD, only audio and visual ones of MELD and IEMOCAP: use `lfvd simulate`",
        ),
    ],
)
def test_features_that_cannot_be(folder, features, text):
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{folder}: {text}')}$"):
        import_meld(folder, features=features)


@pytest.mark.parametrize("split", list(ROWS))
def test_missing_csv(folder, split):
    file = folder / f"{split}_sent_emo.csv"
    file.unlink()
    names = "train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv"
    assert_refused(folder, f"{file}: there is no such file: name a folder that holds {names}")


@pytest.mark.parametrize("column", MELD_COLUMNS)
def test_missing_column(folder, column):
    file = folder / "dev_sent_emo.csv"
    pd.read_csv(file).drop(columns=column).to_csv(file, index=False)
    names = ", ".join(MELD_COLUMNS)
    assert_refused(folder, f"{file}: there is no column `{column}`, but it must have {names}: add it")


EMOTIONS = ", ".join(MELD_CLASSES)
BAD_ROWS = {
    "emotion": (
        ("x", "Di", "happy", 0, 1),
        f"`Emotion` is 'happy', but must be one of {EMOTIONS}: correct it",
    ),
    "no emotion": (("x", "Di", "", 0, 1), f"`Emotion` is '', but must be one of {EMOTIONS}: correct it"),
    "speaker": (("x", " ", "joy", 0, 1), "`Speaker` is '', but must name the speaker: fill it in"),
    "dialogue": (
        ("x", "Di", "joy", "1.5", 1),
        "`Dialogue_ID` is '1.5', but must be a whole number from 0 to 113: correct it",
    ),
    "dialogue of the next split": (
        ("x", "Di", "joy", 114, 0),
        "`Dialogue_ID` is '114', but must be a whole number from 0 to 113: correct it",
    ),
    "huge dialogue": (
        ("x", "Di", "joy", 10**30, 0),
        f"`Dialogue_ID` is '1{'0' * 30}', but must be a whole number from 0 to 113: correct it",
    ),
    "utterance": (
        ("x", "Di", "joy", 0, -3),
        "`Utterance_ID` is '-3', but must be a whole number from 0 up: correct it",
    ),
    "utterance twice": (
        ("x", "Di", "joy", 0, 0),
        "`Utterance_ID` is '0', but must be above the one before it in the dialogue: sort the file and its features",
    ),
}


@pytest.mark.parametrize(("row", "text"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_row(folder, row, text):
    write_csv(folder, "dev", [ROWS["dev"][0], row])
    assert_refused(folder, f"{folder}/dev_sent_emo.csv, row 2: {text}")


def test_dialogue_in_two_pieces(folder):
    write_csv(folder, "test", [("x", "Di", "joy", d, u) for d, u in ((0, 0), (1, 0), (0, 1))])
    text = "row 3: `Dialogue_ID` is '0', but must not come back after another dialogue: sort the file and its features"
    assert_refused(folder, f"{folder}/test_sent_emo.csv, {text}")


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
    file = folder / "bad.npz"
    np.savez(file, **arrays)
    assert_refused(folder, f"{file}{text}", a=file)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, np.float16), (-np.inf, np.float16), (1e300, np.float64)])
def test_values_that_are_not_finite(folder, value, dtype):
    part = parts(dtype=dtype)["dev"]
    part[1, 2] = value
    np.savez(folder / "bad.npz", **{**parts(), "dev": part})
    text = (
        f"{folder}: audio features of dialogue 1039, utterance 1 are NaN or infinite (and of 0 more utterances), "
        "but must be finite: correct them, or say --nan-to-zero"
    )
    assert_refused(folder, text, a=folder / "bad.npz")


def test_missing_feature_file(folder):
    assert_refused(folder, f"{folder}/no.npz: there is no such file: check the path", l=folder / "no.npz")


class Bomb:
    """Would leave a file if it were ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def not_npz(file: Path, kind: str, bomb: Bomb) -> None:
    if kind == "objects":
        np.savez(file, **{**parts(), "dev": np.array([[bomb], [bomb]], dtype=object)})
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(bomb))
    elif kind == "broken member":
        np.savez_compressed(file, **parts(width=200))
        content = bytearray(file.read_bytes())
        content[200:400] = bytes(200)
        file.write_bytes(content)
    else:
        file.mkdir()


@pytest.mark.parametrize("kind", ["objects", "pickle", "broken member", "folder"])
def test_not_an_npz_of_plain_arrays(folder, kind):
    """More such files: test_hostile."""
    file, trace = folder / "bad.npz", folder / "trace"
    not_npz(file, kind, Bomb(trace))
    text = (
        rf"^{re.escape(str(file))}: is not a \.npy or \.npz of plain arrays \(.+\): write it with numpy.save or savez$"
    )
    with pytest.raises(CorpusError, match=text):
        read(folder, l=file)
    assert not trace.exists()


# The published data.


@pytest.fixture(scope="module")
def meld(meld_folder) -> tuple[Corpus, pd.DataFrame]:
    features = {"l": meld_folder / "minilm.npz", "a": "simulated", "v": "simulated"}
    return import_meld(meld_folder, features=features)


def utterances(corpus: Corpus, split: str) -> np.ndarray:
    return np.repeat(corpus.split == SPLITS.index(split), np.diff(corpus.offset))


PUBLISHED = {
    "train": (1038, [4710, 1205, 268, 683, 1743, 271, 1109]),
    "valid": (114, [470, 150, 40, 111, 163, 22, 153]),
    "test": (280, [1256, 281, 50, 208, 402, 68, 345]),
}


@pytest.mark.parametrize("split", PUBLISHED)
def test_published_counts(meld, split):
    corpus, _ = meld
    dialogues, classes = PUBLISHED[split]
    assert len(corpus.indices(split)) == dialogues
    assert np.bincount(corpus.label[utterances(corpus, split)]).tolist() == classes


def test_published_dialogues(meld):
    corpus, _ = meld
    assert corpus.info.dialogues == tuple(str(i) for i in range(1433) if i != 60)
    length = np.diff(corpus.offset)
    speakers = np.array([corpus.speaker[a:b].max() + 1 for a, b in zip(corpus.offset, corpus.offset[1:], strict=False)])
    assert length.max() == 33
    assert (length == 1).sum() == 88
    assert (speakers == 1).sum() == 123
    assert corpus.split[speakers == 9].tolist() == [0]
    assert speakers.max() == 9


def test_published_features(meld, meld_folder, tmp_path):
    corpus, _ = meld
    with np.load(meld_folder / "minilm.npz") as arrays:
        flat = np.concatenate([arrays[key] for key in ("train", "dev", "test")])
    np.testing.assert_array_equal(corpus.features["l"], flat.astype(np.float32))
    assert corpus.widths(["l", "a", "v"]) == {"l": 384, "a": 300, "v": 342}
    assert corpus.info.simulated == ("audio", "visual")
    corpus.save(tmp_path / "m.safetensors")
    assert Corpus.open(tmp_path / "m.safetensors").info == corpus.info


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


def test_published_sentences_are_clean(meld):
    _, sentences = meld
    assert len(sentences) == 13708
    assert not sentences["sentence"].str.contains("[\x80-\x9f]").any()
    assert sentences["sentence"][0].startswith("also I was the point person on my company’s")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_values_become_zero_where_asked(folder, value):
    """As clips that could not be read are; counted, and nothing else is changed."""
    npz = folder / "holey.npz"
    part = parts()["dev"]
    part[1, 2] = value
    np.savez(npz, **{**parts(), "dev": part})
    corpus, _ = import_meld(folder, features={"l": npz}, nan_to_zero=True)
    expected = np.concatenate([parts()[key].astype(np.float32) for key in ("train", "dev", "test")])
    expected[len(parts()["train"]) + 1, 2] = 0.0
    assert np.array_equal(corpus.features["l"], expected)
    assert corpus.info.options["nan_to_zero"] == {"language": 1}
