"""Every published layout, in every kind of pickle, gives the corpus that its dialogues are."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lfvd.data.corpus import SPLITS, Corpus, CorpusError
from lfvd.data.datasets import IEMOCAP_CLASSES, MELD_CLASSES
from lfvd.data.importers import ImportOptions, import_files
from lfvd.data.importers.pickles import UnsafePickleError
from tests.helpers.layouts import DUMPS, IEMOCAP_LAYOUTS, LAYOUTS, TRUE_WIDTHS, Invented, invented, write


def read(paths: list[Path], **options) -> tuple[Corpus, pd.DataFrame, list[str]]:
    corpus, sentences, found = import_files(paths, ImportOptions(**options))
    corpus.check("corpus")
    return corpus, sentences, found


def expected_text(layout: str, data: Invented) -> np.ndarray:
    if layout in ("I12", "I10", "M13", "M14", "M11"):
        return sum(data.rows(layer).astype(np.float64) for layer in data.text) / 4
    return data.rows(data.text[1 if layout == "E" else 0])


FEATURES = {"I10": "l", "M11": "l", "M9": "la", "J1": "l", "M7": "l"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path):
    data = invented("iemocap" if layout in IEMOCAP_LAYOUTS else "meld", widths=TRUE_WIDTHS[layout])
    files, given = write(layout, tmp_path / "files", data), {}
    if layout == "M7":  # has no features of its own
        np.save(tmp_path / "text.npy", data.rows(data.text[0]))
        given = {"l": str(tmp_path / "text.npy")}
    corpus, sentences, found = read(files, features=given)
    name = "MELD" if data.meld else "IEMOCAP"
    assert any(line.endswith(f": layout {layout} of {name}") for line in found)
    assert corpus.info.name == name
    assert corpus.info.classes == (MELD_CLASSES if data.meld else IEMOCAP_CLASSES)
    assert corpus.info.length_bins == ((5, 13) if data.meld else (43, 59))
    keys = sorted(data.labels)
    assert np.diff(corpus.offset).tolist() == [len(data.labels[key]) for key in keys]
    assert corpus.speaker.tolist() == data.rows(data.voices).tolist()
    assert sentences["sentence"].tolist() == [t for key in keys for t in data.sentences[key]]
    assert sentences["position"].tolist() == [i for key in keys for i in range(len(data.labels[key]))]
    label, dialogues = data.rows(data.labels), tuple(map(str, keys))
    if layout in ("J", "J1"):
        counts = {"train": len(data.train), "dev": len(data.valid), "test": len(data.test)}
        dialogues = tuple(f"{split}_{i}" for split, count in counts.items() for i in range(count))
        label = np.where(sentences["position"] % 4 == 3, -1, label)
        assert (label == -1).any()
    assert corpus.info.dialogues == dialogues
    assert corpus.label.tolist() == label.tolist()
    assert "".join(corpus.features) == FEATURES.get(layout, "lav")
    expected = {"l": expected_text(layout, data), "a": data.rows(data.audio), "v": data.rows(data.visual)}
    for modality, flat in corpus.features.items():
        np.testing.assert_allclose(flat, expected[modality], rtol=1e-6, atol=1e-7)
    splits = [[key for key, s in zip(keys, corpus.split, strict=True) if SPLITS[s] == split] for split in SPLITS]
    if layout in ("I9", "I12"):  # carved out of train
        assert (sorted(splits[0] + splits[1]), len(splits[1])) == (sorted(data.train + data.valid), 1)
    else:  # named, or told by number
        assert splits[:2] == [sorted(data.train), sorted(data.valid)]
    assert splits[2] == sorted(data.test)
    assert ("carve_seed" in corpus.info.options) == (layout in ("I9", "I12"))


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("lists", [False, True], ids=["arrays", "lists"])
def test_pickles_of_all_ages(dump, lists, tmp_path):
    data = invented("meld")
    plain, plain_sentences, _ = read(write("M13", tmp_path / "a", data, dump=DUMPS["protocol4"]))
    other, sentences, _ = read(write("M13", tmp_path / "b", data, dump=DUMPS[dump], lists=lists))
    assert other.content_hash() == plain.content_hash()
    pd.testing.assert_frame_equal(sentences, plain_sentences)


def test_features_by_modality_of_iemocap(tmp_path):
    """E with a Speakers.pkl of I9's shape: its features give way to those of the files by modality."""
    data = invented("iemocap")
    write("E", tmp_path, data)
    corpus, _, found = read([tmp_path])
    assert [line.split(": layout ")[1] for line in found] == ["E of IEMOCAP"] * 3 + ["I9 of IEMOCAP"]
    np.testing.assert_array_equal(corpus.features["l"], data.rows(data.text[1]))
    (tmp_path / "TextFeatures.pkl").unlink()
    np.testing.assert_array_equal(read([tmp_path])[0].features["l"], data.rows(data.text[0]))


@pytest.mark.parametrize("kind", ["numbers", "text", "list"])
def test_speakers_as_they_come(kind, tmp_path):
    (file,) = write("I9", tmp_path, invented("iemocap"), dump=pickle.dumps)
    items = list(pickle.loads(file.read_bytes()))
    speakers = {key: np.array([7, 3, 7, 7, 3, 2][: len(part)]) for key, part in items[1].items()}
    as_they_come = {
        "numbers": lambda part: part,
        "text": lambda part: part.astype(str),
        "list": lambda part: part.tolist(),
    }
    items[1] = {key: as_they_come[kind](part) for key, part in speakers.items()}
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
    valid = [tuple(read(files, carve_seed=seed)[0].split) for seed in (*range(8), 0)]
    assert valid[0] == valid[-1]
    assert len(set(valid)) > 1
    half, _, _ = read(files, valid_fraction=0.5)
    assert np.bincount(half.split).tolist() == [3, 2, 1]
    assert half.info.options == {"layout": "I9", "valid_fraction": 0.5, "carve_seed": 0}


def test_join_of_text_and_the_rest(tmp_path):
    """Text and validation ids of I10, audio and visual of I9, in either order."""
    data = invented("iemocap")
    files = write("I10", tmp_path, data) + write("I9", tmp_path, data)
    for paths in (files, files[::-1]):
        corpus, _, _ = read(paths)
        np.testing.assert_allclose(corpus.features["l"], expected_text("I10", data), rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(corpus.features["v"], data.rows(data.visual))
        assert [corpus.info.dialogues[i] for i in corpus.indices("valid")] == data.valid
        assert corpus.info.sources == {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in paths}


def test_real_pickle_gives_the_corpus_of_the_csvs(meld_folder):
    features = {"l": str(meld_folder / "minilm.npz"), "a": "simulated"}
    corpus, _, found = read([meld_folder / "cosmic_meld.pkl"], features=features)
    assert found[0].endswith("layout M7 of MELD")
    assert corpus.content_hash() == read([meld_folder], features=features)[0].content_hash()


# What is wrong with a file is said, with dialogue and item.


def put(items: list, at: int, key, i: int, value) -> None:
    items[at][key] = list(items[at][key])
    items[at][key][i] = value


LABELS = "0 to 6 (neutral, surprise, fear, sadness, joy, disgust, anger), or -1 for none"
BAD = {
    "audio short": (lambda x: x[7][61].pop(), ": dialogue 61 has 2 labels, but 1 audio vectors: one of each is needed"),
    "audio gone": (lambda x: x[7].pop(61), ": dialogue 61 has 2 labels, but no audio vectors: one of each is needed"),
    "layer short": (
        lambda x: x[5][61].pop(),
        ": dialogue 61 has 2 labels, but 1 language vectors: one of each is needed",
    ),
    "speakers short": (lambda x: x[1][61].pop(), ": dialogue 61 has 2 labels, but 1 speakers: one of each is needed"),
    "sentences short": (lambda x: x[9][61].pop(), ": dialogue 61 has 2 labels, but 1 sentences: one of each is needed"),
    "dialogue twice": (
        lambda x: x[2].update({"61": x[2][61]}),
        ": labels has dialogue 61 twice, but must have it once: remove one",
    ),
    "in two splits": (
        lambda x: x[11].append(59),
        ": dialogue 59 is in train and in test, but must be in one: correct it",
    ),
    "in no split": (
        lambda x: x[10].remove(59),
        ": dialogue 59 is in no split (and 0 more such): correct the ids of the splits",
    ),
    "split without data": (
        lambda x: x[10].append(77),
        ": dialogue 77 is in a split, but has no utterances (and 0 more such): correct the ids of the splits",
    ),
    "width": (
        lambda x: put(x, 8, 61, 1, np.zeros(9)),
        ": visual of dialogue 61, utterance 1 is a ndarray of shape (9,), but must be 3 wide as others: use one extractor for all",
    ),
    "label": (
        lambda x: put(x, 2, 61, 1, 7),
        f": label of dialogue 61, utterance 1 is 7, but must be a label of MELD, {LABELS}: correct it",
    ),
    "one-hot": (
        lambda x: put(x, 1, 61, 1, [0] * 9),
        ": speaker of dialogue 61, utterance 1 is a list, but must be a one-hot vector, with a single 1: correct it",
    ),
    "speaker": (
        lambda x: put(x, 1, 61, 1, " "),
        ": speaker of dialogue 61, utterance 1 is ' ', but must name the speaker: fill it in",
    ),
    "no vector": (
        lambda x: put(x, 7, 61, 1, "text"),
        ": audio of dialogue 61, utterance 1 is 'text', but must be a vector of numbers: extract it again",
    ),
    "sentence": (
        lambda x: put(x, 9, 61, 0, 3),
        ": sentence of dialogue 61, utterance 0 is 3, but must be text: correct it",
    ),
    "no labels": (
        lambda x: x[2].update({61: []}),
        ": dialogue 61 has no list of labels, or an empty one: leave the dialogue out",
    ),
    "no dict": (
        lambda x: x.__setitem__(7, 3),
        ": audio is 3, but must be a dict by dialogue: see the README's table of layouts",
    ),
    "other length": (
        lambda x: x.extend([{}, {}]),
        ": holds 15 items, but known layouts have 7, 9, 10, 11, 12, 13, 14: import a table with .npy files",
    ),
}


@pytest.mark.parametrize(("change", "text"), BAD.values(), ids=BAD.keys())
def test_broken_file(change, text, tmp_path):
    (file,) = write("M13", tmp_path, invented("meld"), dump=pickle.dumps)
    items = list(pickle.loads(file.read_bytes()))
    for values in items[:10]:
        values[61] = (list(values[61]) * 2)[:2]
    change(items)
    file.write_bytes(pickle.dumps(items))
    with pytest.raises(CorpusError) as caught:
        import_files([file], ImportOptions())
    assert str(caught.value) == f"{file}{text}"


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
    one, two = (write(layout, tmp_path, invented("iemocap"), dump=pickle.dumps)[0] for layout in ("I9", "I10"))
    items, key = pickle.loads(two.read_bytes()), "Ses02F_impro01"
    items[1][key][0] = (items[1][key][0] + 1) % 6
    two.write_bytes(pickle.dumps(items))
    with pytest.raises(CorpusError) as caught:
        read([one, two])
    assert str(caught.value) == (
        f"dialogue {key}, utterance 0 has other labels in {one} and {two}: name files of one data set"
    )
    for values in items[:7]:
        del values[key]
    two.write_bytes(pickle.dumps(items))
    with pytest.raises(CorpusError) as caught:
        read([one, two])
    assert str(caught.value) == (
        f"dialogue {key} is in {one} and not in {two} (and 0 more such): name files of the same data set"
    )


def test_small_file_that_announces_much(tmp_path):
    """One vector many times over costs a few bytes each in the pickle."""
    of, data = {str(key): [np.zeros(4000, np.float32)] * 2000 for key in range(100)}, invented("iemocap")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(({}, {}, data.labels, of, {}, {}, {}, data.train, data.test)))
    with pytest.raises(UnsafePickleError, match="takes far more memory than its size, which no feature file does"):
        read([tmp_path / "x.pkl"])
