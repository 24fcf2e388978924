"""Every published layout, in every kind of pickle, gives the corpus that its dialogues are."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lfvd.data.corpus import SPLITS, Corpus, CorpusError
from lfvd.data.importers import IEMOCAP_CLASSES, MELD_CLASSES, ImportOptions, import_files
from lfvd.data.importers.pickles import UnsafePickleError
from tests.helpers.layouts import DUMPS, IEMOCAP_LAYOUTS, LAYOUTS, MELD_IDS, TRUE_WIDTHS, Invented, invented, write


def read(paths: list[Path], **options) -> tuple[Corpus, pd.DataFrame, list[str]]:
    corpus, sentences, found = import_files(paths, ImportOptions(**options))
    assert corpus.problems() == []
    return corpus, sentences, found


def data_of(layout: str) -> Invented:
    return invented("iemocap" if layout in IEMOCAP_LAYOUTS else "meld", widths=TRUE_WIDTHS[layout])


def expected_text(layout: str, data: Invented) -> np.ndarray:
    if layout in ("I12", "I10", "M13", "M14", "M11"):
        return sum(data.rows(layer).astype(np.float64) for layer in data.text) / 4
    return data.rows(data.text[1 if layout == "E" else 0])


FEATURES = {"I10": "l", "M11": "l", "M9": "la", "J1": "l", "M7": ""}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path):
    data = data_of(layout)
    files = write(layout, tmp_path, data)
    given = {}
    if layout == "M7":  # has no features of its own
        np.save(tmp_path / "text.npy", data.rows(data.text[0]))
        given = {"features": {"l": str(tmp_path / "text.npy")}}
    corpus, sentences, found = read(files, **given)
    assert corpus.info.name == ("MELD" if data.meld else "IEMOCAP")
    assert corpus.info.classes == (MELD_CLASSES if data.meld else IEMOCAP_CLASSES)
    assert corpus.info.length_bins == ((5, 13) if data.meld else (43, 59))
    assert np.diff(corpus.offset).tolist() == [len(data.labels[key]) for key in sorted(data.labels)]
    assert corpus.speaker.tolist() == data.rows(data.voices).tolist()
    assert sentences["sentence"].tolist() == [t for key in sorted(data.labels) for t in data.sentences[key]]
    assert sentences["position"].tolist() == [i for key in sorted(data.labels) for i in range(len(data.labels[key]))]
    if layout in ("J", "J1"):
        assert corpus.info.dialogues == tuple(
            f"{split}_{i}"
            for split, ids in (("train", data.train), ("dev", data.valid), ("test", data.test))
            for i in range(len(ids))
        )
        unlabelled = sentences["position"].to_numpy() % 4 == 3
        assert unlabelled.any()
        np.testing.assert_array_equal(corpus.label, np.where(unlabelled, -1, data.rows(data.labels)))
    else:
        assert corpus.info.dialogues == tuple(str(key) for key in sorted(data.labels))
        assert corpus.label.tolist() == data.rows(data.labels).tolist()
    assert "".join(corpus.features) == (FEATURES.get(layout, "lav") or "l")
    for modality, rows in {
        "l": expected_text(layout, data),
        "a": data.rows(data.audio),
        "v": data.rows(data.visual),
    }.items():
        if modality in corpus.features:
            np.testing.assert_allclose(corpus.features[modality], rows, rtol=1e-6, atol=1e-7)
    named = any(f"layout {layout}, for it is " in line for line in found)
    assert named, found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits(layout, tmp_path):
    """MELD's by number where train holds valid too; IEMOCAP's own, or carved out of train."""
    data = data_of(layout)
    features = {}
    if layout == "M7":
        np.save(tmp_path / "text.npy", data.rows(data.text[0]))
        features = {"l": str(tmp_path / "text.npy")}
    corpus, _, _ = read(write(layout, tmp_path / "files", data), features=features)
    splits = [
        [key for key, s in zip(sorted(data.labels), corpus.split, strict=True) if SPLITS[s] == name] for name in SPLITS
    ]
    if layout in ("I9", "I12"):
        assert sorted(splits[0] + splits[1]) == sorted(data.train + data.valid)
        assert len(splits[1]) == 1
        assert splits[2] == data.test
        assert corpus.info.options["carve_seed"] == 0
    else:
        assert splits == [sorted(data.train), sorted(data.valid), sorted(data.test)]
        assert "carve_seed" not in corpus.info.options


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("lists", [False, True], ids=["arrays", "lists"])
def test_pickles_of_all_ages(dump, lists, tmp_path):
    data = invented("meld")
    plain, plain_sentences, _ = read(write("M13", tmp_path / "a", data, dump=DUMPS["protocol4"]))
    other, sentences, _ = read(write("M13", tmp_path / "b", data, dump=DUMPS[dump], lists=lists))
    assert other.content_hash() == plain.content_hash()
    pd.testing.assert_frame_equal(sentences, plain_sentences)


def test_python2_pickle_is_one():
    """The writer of old pickles writes what Python reads as such, and old opcodes."""
    value = ({"a": "x" * 300, 1: [True, 2.5, "caf\xe9"]}, np.arange(3.0), np.array([[1]], np.int32))
    content = DUMPS["python2"](value)
    assert b"numpy.core.multiarray\n_reconstruct" in content
    assert b"X" not in content.replace(b"x", b"")[:20]
    loaded = pickle.loads(content, encoding="latin1")
    assert loaded[0] == value[0]
    np.testing.assert_array_equal(loaded[1], value[1])
    np.testing.assert_array_equal(loaded[2], value[2])


def test_features_by_modality_of_iemocap(tmp_path):
    """E with a Speakers.pkl of I9's shape: its features give way to those of the files by modality."""
    data = invented("iemocap")
    write("E", tmp_path, data)
    corpus, _, found = read([tmp_path])
    assert corpus.info.name == "IEMOCAP"
    assert [line.split(": layout ")[1][:2] for line in found] == ["E,", "E,", "E,", "I9"]
    np.testing.assert_array_equal(corpus.features["l"], data.rows(data.text[1]))
    (tmp_path / "TextFeatures.pkl").unlink()
    np.testing.assert_array_equal(read([tmp_path])[0].features["l"], data.rows(data.text[0]))


@pytest.mark.parametrize("kind", ["numbers", "text", "list"])
def test_speakers_as_they_come(kind, tmp_path):
    (file,) = write("I9", tmp_path, invented("iemocap"), dump=pickle.dumps)
    items = list(pickle.loads(file.read_bytes()))
    items[1] = {key: np.array([7, 3, 7, 7, 3, 2][: len(part)]) for key, part in items[1].items()}
    items[0] = {key: np.arange(len(part)) for key, part in items[0].items()}
    if kind != "numbers":
        items[1] = {key: part.astype(str) for key, part in items[1].items()}
    if kind == "list":
        items[1] = {key: part.tolist() for key, part in items[1].items()}
    file.write_bytes(pickle.dumps(items))
    corpus, _, _ = read([file])
    for start, end in zip(corpus.offset, corpus.offset[1:], strict=False):
        assert corpus.speaker[start:end].tolist() == [0, 1, 0, 0, 1, 2][: end - start]


def test_text_layers(tmp_path):
    data = invented("iemocap")
    files = write("I12", tmp_path, data)
    layers = [data.rows(layer) for layer in data.text]
    by_name = {name: read(files, text_layers=name)[0] for name in ("mean", "first", "concat")}
    np.testing.assert_allclose(by_name["mean"].features["l"], np.mean(layers, axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(by_name["first"].features["l"], layers[0])
    np.testing.assert_array_equal(by_name["concat"].features["l"], np.concatenate(layers, axis=1))
    assert [c.info.options["text_layers"] for c in by_name.values()] == list(by_name)


def test_carve_follows_the_seed(tmp_path):
    files = write("I9", tmp_path, invented("iemocap"))
    valid = [tuple(read(files, carve_seed=seed)[0].split) for seed in range(8)]
    assert valid[0] == tuple(read(files, carve_seed=0)[0].split)
    assert len(set(valid)) > 1
    half, _, _ = read(files, valid_fraction=0.5)
    assert np.bincount(half.split).tolist() == [3, 2, 1]
    assert half.info.options == {"layout": "I9", "valid_fraction": 0.5, "carve_seed": 0}


def test_join_of_text_and_the_rest(tmp_path):
    """Text and validation ids of I10, audio and visual of I9, in either order."""
    data = invented("iemocap")
    files = write("I10", tmp_path, data) + write("I9", tmp_path, data)
    for paths in (files, files[::-1]):
        corpus, _, found = read(paths)
        np.testing.assert_allclose(corpus.features["l"], expected_text("I10", data), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(corpus.features["v"], data.rows(data.visual))
        assert (corpus.split == 1).sum() == 1
        assert corpus.info.dialogues[int(np.argmax(corpus.split == 1))] == data.valid[0]
        assert len(found) == 2
        assert corpus.info.sources == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in paths}


def test_reason_is_said(tmp_path):
    (file,) = write("M9", tmp_path, invented("meld"))
    assert read([file])[2] == [
        f"{file}: layout M9, for it is 9 items, item 6 no dict, whole numbers for dialogue ids: MELD"
    ]


# The published data.


def test_real_pickle_gives_the_corpus_of_the_csvs(meld_folder):
    features = {"l": str(meld_folder / "minilm.npz"), "a": "simulated"}
    expected, expected_sentences = read([meld_folder], features=features)[:2]
    corpus, sentences, found = read([meld_folder / "cosmic_meld.pkl"], features=features)
    assert "layout M7" in found[0]
    assert corpus.content_hash() == expected.content_hash()
    plain = sentences["sentence"].str.replace("\xa0", " ")  # the CSVs have plain spaces in place of hard ones
    assert plain.tolist() == expected_sentences["sentence"].tolist()


# What is wrong with a file is said, with dialogue and item.


def broken(tmp_path: Path, change, layout: str = "M13", **options) -> str:
    """What is said of a file of a layout after a change to its items."""
    (file,) = write(layout, tmp_path, invented("meld" if layout[0] == "M" else "iemocap"), dump=pickle.dumps)
    items = list(pickle.loads(file.read_bytes()))
    change(items)
    file.write_bytes(pickle.dumps(items))
    with pytest.raises(CorpusError) as caught:
        import_files([file], ImportOptions(**options))
    assert str(caught.value).startswith(str(file)), caught.value
    return str(caught.value).removeprefix(str(file))


def cut(items: list, at: int, key) -> None:
    items[at][key] = items[at][key][:-1]


def put(items: list, at: int, key, i: int, value) -> None:
    items[at][key] = list(items[at][key])
    items[at][key][i] = value


BAD = {
    "audio short": (lambda x: cut(x, 7, 61), ": audio of dialogue 61: has 1 vectors, but 2 labels: extract it again"),
    "audio gone": (lambda x: x[7].pop(61), ": audio of dialogue 61: has no vectors, but 2 labels: extract it again"),
    "layer short": (
        lambda x: cut(x, 5, 61),
        ": language of dialogue 61: has 1 vectors, but 2 labels: extract it again",
    ),
    "speakers short": (lambda x: cut(x, 1, 61), ": dialogue 61 has 2 labels, but 1 speakers: one of each is needed"),
    "id twice": (
        lambda x: put(x, 0, 61, 1, "61_0"),
        ": dialogue 61, utterance 1 has the id 61_0 of one before: remove one of them",
    ),
    "dialogue twice": (
        lambda x: x[2].update({"61": x[2][61]}),
        ": labels has a dialogue id twice, as text and as number: keep one",
    ),
    "in two splits": (
        lambda x: x[11].append(59),
        ": dialogue 59 is in train and in test, but must be in one: correct it",
    ),
    "twice in a split": (
        lambda x: x[10].append(59),
        ": train ids names dialogue 59 twice, but must name it once: remove one",
    ),
    "in no split": (
        lambda x: x[10].remove(59),
        ": dialogue 59 is in no split (and 0 more such): correct the ids of the splits",
    ),
    "split without data": (
        lambda x: x[10].append(77),
        ": dialogue 77 is in a split, but has no utterances (and 0 more such): correct the ids of the splits",
    ),
    "NaN": (
        lambda x: put(x, 8, 61, 1, np.array([0, np.nan, 0])),
        ": visual features of dialogue 61, utterance 1 are NaN or infinite (and of 0 more utterances), but must be finite: "
        "correct them, or say --nan-to-zero",
    ),
    "width": (
        lambda x: put(x, 8, 61, 1, np.zeros(9)),
        ": visual of dialogue 61, utterance 1: is 9 wide, but others are 3: use one extractor for all",
    ),
    "label": (
        lambda x: put(x, 2, 61, 1, 7),
        ": label of dialogue 61, utterance 1: is 7, but MELD has the labels 0 to 6 (neutral, surprise, fear, sadness, joy, "
        "disgust, anger), or -1 for none: correct it",
    ),
    "one-hot": (
        lambda x: put(x, 1, 61, 1, [0] * 9),
        ": speaker of dialogue 61, utterance 1: the one-hot vector has 0 entries, but must have a single 1: correct it",
    ),
    "no vector": (
        lambda x: put(x, 7, 61, 1, "text"),
        ": audio of dialogue 61, utterance 1: is a str, but must be a vector of numbers: extract it again",
    ),
    "sentence": (
        lambda x: put(x, 9, 61, 0, 3),
        ": sentence of dialogue 61, utterance 0: is a int, but must be text: correct it",
    ),
    "no labels": (
        lambda x: x[2].update({61: []}),
        ": dialogue 61 has no list of labels, or an empty one: leave the dialogue out",
    ),
    "no dict": (
        lambda x: x.__setitem__(7, 3),
        ": audio is a int, but must be a dict by dialogue: see the README's table of layouts",
    ),
}


@pytest.mark.parametrize(("change", "text"), BAD.values(), ids=BAD.keys())
def test_broken_file(change, text, tmp_path):
    def changed(items: list) -> None:
        for values in items[:10]:
            values[61] = (list(values[61]) * 2)[:2]
        items[0][61] = ["61_0", "61_1"]
        change(items)

    assert broken(tmp_path, changed) == text


def test_other_lengths_of_the_tuple(tmp_path):
    text = broken(tmp_path, lambda items: items.append({}), "M14")
    assert text == (
        ": holds 15 items, but known layouts have 7, 9, 10, 11, 12, 13, 14: import it as a table of utterances with .npy files"
    )


def test_nan_to_zero_is_counted(tmp_path):
    (file,) = write("I9", tmp_path, invented("iemocap"), dump=pickle.dumps)
    items = list(pickle.loads(file.read_bytes()))
    items[4]["Ses01F_impro01"][0, :2] = np.nan, np.inf
    items[5]["Ses01F_impro01"] = items[5]["Ses01F_impro01"].astype(np.float64)
    items[5]["Ses01F_impro01"][0, 0] = 1e300
    file.write_bytes(pickle.dumps(items))
    corpus, _, _ = read([file], nan_to_zero=True)
    assert corpus.info.options["nan_to_zero"] == {"audio": 2, "visual": 1}
    assert corpus.features["a"][0].tolist() == [0, 0, *items[4]["Ses01F_impro01"][0, 2:].tolist()]
    assert corpus.features["v"][0, 0] == 0


def test_sources_of_different_data(tmp_path):
    (one,) = write("I9", tmp_path, invented("iemocap"), dump=pickle.dumps)
    (two,) = write("I10", tmp_path, invented("iemocap"), dump=pickle.dumps)
    items = pickle.loads(two.read_bytes())
    items[1]["Ses02F_impro01"][0] = (items[1]["Ses02F_impro01"][0] + 1) % 6
    two.write_bytes(pickle.dumps(items))
    text = f"dialogue Ses02F_impro01, utterance 0 has other labels in {one} and {two}: name files of one data set"
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$"):
        read([one, two])
    for values in items[:7]:
        del values["Ses02F_impro01"]
    two.write_bytes(pickle.dumps(items))
    text = f"dialogue Ses02F_impro01 is in {one} and not in {two} (and 0 more such): name files of the same data set"
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$"):
        read([one, two])


def test_small_file_that_announces_much(tmp_path):
    """One vector, or one list of labels, many times over costs a few bytes each in the pickle."""
    data, vector = invented("iemocap"), np.zeros(4000, np.float32)
    for name, labels, parts in (
        ("vectors.pkl", [0] * 2000, [vector] * 2000),
        ("labels.pkl", [0] * 1_000_000, [vector]),
    ):
        of = {key: {"labels": labels, "parts": parts} for key in [*data.labels, *map(str, range(100))]}
        items = ({}, {}, {k: v["labels"] for k, v in of.items()}, {k: v["parts"] for k, v in of.items()})
        (tmp_path / name).write_bytes(pickle.dumps((*items, {}, {}, {}, list(data.train + data.valid), data.test)))
        with pytest.raises(UnsafePickleError, match="takes far more memory than its size, which no feature file does"):
            read([tmp_path / name])


@pytest.mark.parametrize("key", MELD_IDS[4:6])
def test_meld_validation_is_told_by_number(key, tmp_path):
    corpus, _, _ = read(write("M10", tmp_path, invented("meld")))
    assert corpus.split[corpus.info.dialogues.index(str(key))] == 1
