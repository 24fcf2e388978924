"""The plain way in: a table of utterances with arrays in its order of rows; JSON files; the command."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lfvd.data.corpus import Corpus, CorpusError
from lfvd.data.importers import ImportOptions, import_files, json_files
from lfvd.data.importers.json_files import json_items
from lfvd.extract.sources import read_source
from lfvd.files import InputError
from tests.helpers.layouts import invented, write

TABLE = pd.DataFrame(
    [
        ("b", 1, "Ann", "calm", "train", "Yes."),
        ("a", 0, "Cy", "glad", "train", "No."),
        ("b", 0, "Bob", "", "train", "Is it?"),
        ("c", 0, "Cy", "sad", "test", "None"),
        ("b", 2, "Bob", "glad", "train", "Why\x85"),
        ("d", 0, "Ann", "calm", "dev", "So."),
    ],
    columns=["dialogue", "position", "speaker", "label", "split", "text"],
)
ORDER = [2, 0, 4, 1, 3, 5]
ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    TABLE.to_csv(tmp_path / "own.csv", index=False)
    np.save(tmp_path / "text.npy", ROWS)
    return tmp_path


def read(
    folder: Path, table: str = "own.csv", *, classes=(), text="text.npy", **options
) -> tuple[Corpus, pd.DataFrame]:
    features = {"l": str(folder / text)}
    corpus, sentences, _ = import_files([folder / table], ImportOptions(features=features, **options), classes=classes)
    return corpus, sentences


@pytest.mark.parametrize("kind", ["csv", "parquet", "numbers"])
def test_table(folder, kind):
    if kind == "numbers":
        TABLE.assign(label=[0, 1, -1, 2, 1, 0]).to_csv(folder / "own.csv", index=False)
    # Columns of lists are no one's; gaps and categories come as text.
    odd = TABLE.assign(score=[[1, 2]] * 6, label=TABLE["label"].astype("category").replace("", None))
    odd.to_parquet(folder / "own.parquet")
    name = "own.parquet" if kind == "parquet" else "own.csv"
    corpus, sentences = read(folder, name, classes=("calm", "glad", "sad") if kind == "numbers" else ())
    corpus.check("corpus")
    assert corpus.info.classes == ("calm", "glad", "sad")
    assert corpus.info.dialogues == ("b", "a", "c", "d")
    assert corpus.label.tolist() == [-1, 0, 1, 1, 2, 0]
    assert corpus.speaker.tolist() == [0, 1, 0, 0, 0, 0]
    assert corpus.split.tolist() == [0, 0, 2, 1]
    np.testing.assert_array_equal(corpus.features["l"], ROWS[ORDER])
    assert sentences["sentence"].tolist() == ["Is it?", "Yes.", "Why…", "No.", "None", "So."]


def test_arrays_by_split_follow_the_rows_of_the_split(folder):
    of = TABLE["split"].to_numpy()
    np.savez(folder / "text.npz", **{split: ROWS[of == split] for split in ("train", "dev", "test")})
    np.testing.assert_array_equal(read(folder, text="text.npz")[0].features["l"], ROWS[ORDER])
    np.savez(folder / "one.npz", ROWS)
    np.testing.assert_array_equal(read(folder, text="one.npz")[0].features["l"], ROWS[ORDER])


def test_classes_by_name(folder):
    TABLE.assign(label=["joy", "neutral", "ang", "sad", "sur", "fear"]).to_csv(folder / "own.csv", index=False)
    assert read(folder)[0].info.classes == ("ang", "fear", "joy", "neutral", "sad", "sur")
    table = pd.concat([TABLE, TABLE.iloc[:1].assign(position=3)])
    table["label"] = ["joy", "neutral", "ang", "sad", "sur", "fear", "dis"]
    table.to_csv(folder / "own.csv", index=False)
    np.save(folder / "text.npy", np.zeros((7, 2)))
    corpus, _ = read(folder)
    assert corpus.info.name == "MELD"
    assert corpus.label.tolist() == [6, 4, 1, 5, 0, 3, 2]


BAD_TABLES = {
    "column": (
        TABLE.drop(columns="label"),
        ": there is no column `label`, but it must have dialogue, speaker, label, split",
    ),
    "speaker": (TABLE.assign(speaker=["", *"bcdef"]), ", row 1: `speaker` is '', but must not be empty: fill it in"),
    "split": (
        TABLE.assign(split="all"),
        ", row 1: `split` is 'all', but must be train, valid (or dev) or test: correct it",
    ),
    "two splits": (
        TABLE.assign(split=["train", "train", "test", "test", "train", "dev"]),
        ", row 3 (dialogue b): `split` is 'test', but the dialogue began in another split, and must lie in one: correct it",
    ),
    "position": (
        TABLE.assign(position=["x", *"01234"]),
        ", row 1: `position` is 'x', but must be a number: correct it",
    ),
    "position twice": (
        TABLE.assign(position=0),
        ", row 3 (dialogue b): `position` is '0', but must stand once in a dialogue: correct it",
    ),
    "no labels": (TABLE.assign(label=""), ", row 1: no row has a `label`, but some must: fill it in"),
    "no rows": (TABLE.iloc[:0], ": has no rows, but must have at least one: fill it"),
    "class": (TABLE, ", row 4: `label` is 'sad', but must be one of calm, glad: correct it"),
}


@pytest.mark.parametrize(("table", "text"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_table(folder, table, text):
    table.to_csv(folder / "own.csv", index=False)
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{folder}/own.csv{text}')}"):
        read(folder, classes=("calm", "glad") if "row 4" in text else ())


def test_labels_that_are_none(folder):
    """Sentences in the column of labels; a number too long for Python to print."""
    rows = {"dialogue": range(1001), "speaker": "A", "label": [f"l{i}" for i in range(1001)], "split": "train"}
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)
    np.save(folder / "text.npy", np.zeros((1001, 1)))
    with pytest.raises(CorpusError, match="there are 1001 classes, but at most 1000 are read: check the labels"):
        read(folder)[0].save(folder / "c.safetensors")
    TABLE.assign(label=["9" * 5000, *"abcde"]).to_csv(folder / "own.csv", index=False)
    np.save(folder / "text.npy", ROWS)
    assert "9" * 5000 in read(folder)[0].info.classes


PARQUETS = {
    "rows": ({"dialogue": "d", "label": "joy"}, 5_000_000, r"more than \d+ values or \d+ MB are announced in"),
    "text": ({"dialogue": "d", "label": "x" * 1_000_000}, 10_000, r"more than \d+ values or \d+ MB are announced in"),
}


@pytest.mark.parametrize(("values", "rows", "text"), PARQUETS.values(), ids=PARQUETS.keys())
@pytest.mark.parametrize("reader", ["import", "extract"])
def test_parquet_that_would_fill_memory(tmp_path, values, rows, text, reader):
    """A value of a column costs next to nothing where it is the one before again."""
    numbers = pa.array(np.zeros(rows, np.int32))
    columns = {name: pa.DictionaryArray.from_arrays(numbers, pa.array([value])) for name, value in values.items()}
    file = tmp_path / "own.parquet"
    pq.write_table(pa.table(columns), file, compression="zstd", store_schema=False)
    assert file.stat().st_size < 100_000
    with pytest.raises(InputError, match=rf"^{re.escape(str(file))}: is not a table .*{text}"):
        read_source(file) if reader == "extract" else import_files([file], ImportOptions())


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a,b\n1,"2', b"PAR1garbagePAR1"])
@pytest.mark.parametrize("name", ["own.csv", "own.parquet"])
def test_not_a_table(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(
        CorpusError, match=rf"^{re.escape(f'{folder}/{name}')}: (is not a table|there is no column|has no rows)"
    ):
        read(folder, name)
    pq.write_table(pa.table([pa.array(["d"])] * 2, ["dialogue", "dialogue"]), folder / "b.parquet")
    with pytest.raises(CorpusError, match="two columns have the same name"):
        read(folder, "b.parquet")


BAD_ARRAYS = {
    "rows": (ROWS[:5], " has 5 rows, but there are 6 utterances: extract the features from those"),
    "vector": (ROWS[:, 0], " has shape (6,), but must be [rows, width]: reshape it"),
    "text": (np.array([["a"]] * 6), " holds <U1, but must hold real numbers: convert it to float32"),
    "no width": (ROWS[:, :0], " has shape (6, 0), but must be [rows, width]: reshape it"),
    "objects": (np.array([[{}]] * 6), ": is not a .npy or .npz of plain arrays (Array can't be memory-mapped"),
}


@pytest.mark.parametrize(("array", "text"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_array(folder, array, text):
    np.save(folder / "text.npy", array)
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{folder}/text.npy{text}')}"):
        read(folder)


def test_carve_of_a_table(folder):
    TABLE[TABLE["split"] != "dev"].to_csv(folder / "own.csv", index=False)
    np.save(folder / "text.npy", ROWS[:5])
    assert sorted(read(folder)[0].split.tolist()) == [0, 1, 2]


# JSON.

SAID = '{"speaker": "a", "label": 1, "cls": [1]}'
BAD_JSON = {
    "no list": ("{}", "is cut off, damaged or not a JSON list of dialogues (it is no list): fetch the file again"),
    "cut": ('[[{"text"', "not a JSON list of dialogues (Expecting ':' delimiter"),
    "deep": ("[" * 100_000, "not a JSON list of dialogues (maximum recursion depth exceeded"),
    "more": (f"[[{SAID}]] x", "(something stands behind the list)"),
    "no comma": (f"[[{SAID}] [{SAID}]]", "(an item has no comma behind it)"),
    "keys": ('[[{"text": "a"}]]', "dialogue 0, utterance 0 is a dict, but must have the keys `speaker` and `cls`"),
    "cls": (f"[[{SAID.replace('[1]', '5')}]]", "dialogue 0, utterance 0, `cls` is 5, but must be a vector of numbers"),
    "parts": (
        f"[[{SAID.replace('[1]', '[[1], [1], [1], [1]]')}]]",
        "`cls` is a list, but must have at most three parts",
    ),
    "huge": (f"[[{SAID.replace('[1]', '[1' + '0' * 400 + ']')}]]", "`cls`: holds a number too large for a feature"),
    "label": (
        f"[[{SAID.replace('1,', '7,')}]]",
        "the label is 7, but must be a name or one of the 7 numbers of label_vocab.pkl beside the file",
    ),
    "label name": (
        f"[[{SAID.replace('1,', chr(34) + 'x' + chr(34) + ',')}]]",
        "utterance 0 is 'x', but must be a label of news, 0 to 6 (joy, neutral, ang, surprise, sadness, fear, disgust)",
    ),
    "no labels": (
        f"[[{SAID.replace('1,', 'null,')}]]",
        "news: no utterance has a label, but some must: use the published",
    ),
    "NaN": (f"[[{SAID.replace('[1]', '[NaN]')}]]", "are NaN or infinite"),
    "widths": (
        f"[[{SAID}, {SAID.replace('[1]', '[1, 2]')}]]",
        "utterance 1 is a ndarray of shape (2,), but must be 1 wide",
    ),
}


@pytest.mark.parametrize(("content", "text"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json(content, text, tmp_path):
    (folder,) = write("J1", tmp_path / "news", invented("meld"))
    for file in folder.glob("*.feature"):
        file.write_text(content)
    with pytest.raises(CorpusError) as caught:
        import_files([folder], ImportOptions())
    assert text in str(caught.value)


@pytest.mark.parametrize("chunk", [4, 7, 100, 10_000])
def test_json_is_read_in_pieces(tmp_path, monkeypatch, chunk):
    """Whatever stands at their ends; NaN and spaces too."""
    monkeypatch.setattr(json_files, "CHUNK", chunk)
    items = [[1, -2.5e-3, 12345678], "é, ]", [{"a": [None, True]}], 17, [float("inf")]]
    for indent in (None, 3):
        (tmp_path / "x.json").write_text(f" \n {json.dumps(items, indent=indent, ensure_ascii=False)} \n ", "utf-8")
        assert list(json_items(tmp_path / "x.json")) == items


def test_longest_dialogue_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "CHUNK", 10)
    monkeypatch.setattr(json_files, "MAX_DIALOGUE", 1000)
    (tmp_path / "x.json").write_text(f"[{json.dumps([0.5] * 100)}, {json.dumps(['x' * 9000])}]")
    items = json_items(tmp_path / "x.json")
    assert next(items) == [0.5] * 100
    with pytest.raises(CorpusError, match="Unterminated string"):
        next(items)


def test_json_of_two_kinds_in_one_folder(tmp_path):
    """Their dialogues would have the same numbers."""
    for layout in ("J", "J1"):
        write(layout, tmp_path, invented("meld"))
    text = (
        r"dev_data_roberta_mm\.json\.feature: is of the same split as dev_data_roberta\.json\.feature: name the files"
    )
    with pytest.raises(CorpusError, match=text):
        import_files([tmp_path], ImportOptions())
    corpus, _, _ = import_files([*tmp_path.glob("*_mm.json.feature")], ImportOptions())
    assert "".join(corpus.features) == "lav"


def test_labels_of_other_data(tmp_path):
    """Names that are neither data set's are classes of their own, in the order of the vocabulary."""
    (folder,) = write("J1", tmp_path / "news", invented("meld"))
    (folder / "label_vocab.pkl").write_bytes(pickle.dumps({"itos": ["<pad>", *"gfedcba"], "stoi": {}}))
    for file in folder.glob("*.feature"):
        dialogues = json.loads(file.read_text())
        for utterance in (u for d in dialogues for u in d if "label" in u):
            utterance["label"] = 1 + utterance["label"] % 3
        file.write_text(json.dumps(dialogues))
    corpus, _, _ = import_files([folder], ImportOptions())
    assert corpus.info.classes == ("g", "f", "e")
    assert corpus.info.name == "news"
    assert set(corpus.label.tolist()) == {-1, 0, 1, 2}


# Sources that are no sources.


def test_sources_that_are_none(folder, tmp_path):
    def refused(name: str, text: str, content: bytes | None = None, **options) -> None:
        if content is not None:
            (folder / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            import_files([folder / name], ImportOptions(), **options)
        assert str(caught.value) == f"{folder}/{name}: {text}"

    names = "--language or --audio or --visual"
    refused("text.npy", f"holds features of one modality: give it with {names}, and name a file of labels")
    refused("none.pkl", "there is no such file: check the path")
    text = "is a zip archive, as torch.save writes, and not a pickle: write it with pickle.dump"
    refused("zip.pkl", text, b"PK\x03\x04xxx")
    by_dialogue, name = pickle.dumps({"x": [[1.0]]}), "--language, --audio or --visual"
    refused("odd.pkl", f"holds features of one modality, but does not say which: give it with {name}", by_dialogue)
    text = "has no labels and speakers, only features: name the file of labels with it"
    refused("audio.pkl", text, by_dialogue)
    (file,) = write("M7", tmp_path, invented("meld"))
    refused(file.name, "holds no features, but must: give a file with --language, --audio or --visual")
    text = "--classes is for a table, and this has classes of its own: leave it out"
    refused(file.name, text, classes=("a",))
    with pytest.raises(CorpusError, match=r"^--valid-fraction is 1\.0, but must lie between 0 and 1: try 0\.1$"):
        ImportOptions(valid_fraction=1.0)


# The command.


def test_command(tmp_path, lfvd):
    (file,) = write("I9", tmp_path / "in", invented("iemocap"))
    out = tmp_path / "out" / "c.safetensors"
    argv = ("import", file, "--valid-fraction", 0.4, "--carve-seed", 3)
    code, text, err = lfvd(*argv, "--dry-run")
    assert (code, err) == (0, "")
    assert "Splits" in text
    assert not out.parent.exists()
    code, text, err = lfvd(*argv, "--out", out)
    assert (code, err) == (0, "")
    assert text.startswith(f"{file}: layout I9 of IEMOCAP\nwrote {out}")
    corpus = Corpus.load(out)
    assert corpus.info.options == {"layout": "I9", "valid_fraction": 0.4, "carve_seed": 3}
    assert np.bincount(corpus.split).tolist() == [3, 2, 1]
    code, text, err = lfvd(*argv)
    assert (code, text) == (2, "")
    assert err == "lfvd: --out: is missing, but says where the corpus goes: try --out data/corpus.safetensors\n"


def test_a_source_is_not_written_over(folder, lfvd):
    """The sentences' file has the name of the corpus, and so may have a table's."""
    TABLE.to_parquet(folder / "own.parquet")
    before = (folder / "own.parquet").read_bytes()
    argv = ("import", folder / "own.parquet", "--language", folder / "text.npy", "--out", folder / "own.safetensors")
    code, out, err = lfvd(*argv)
    assert (code, out) == (2, "")
    assert "its sentences would take the place of the source: choose another name\n" in err
    assert (folder / "own.parquet").read_bytes() == before


def test_dry_run_refuses_what_would_not_be_written(folder, lfvd):
    """Names that steer a terminal come from the file."""
    TABLE.assign(label=["\x1b[2J", *"abcde"]).to_csv(folder / "own.csv", index=False)
    code, out, err = lfvd("import", folder / "own.csv", "--language", folder / "text.npy", "--dry-run")
    assert code == 2
    assert "\x1b" not in out + err
    assert r"'\x1b[2J' holds characters that cannot be printed" in err


def test_old_sentences_go_where_there_are_none(folder, lfvd):
    TABLE.drop(columns="text").to_csv(folder / "own.csv", index=False)
    (folder / "c.parquet").write_text("old")
    argv = ("import", folder / "own.csv", "--language", folder / "text.npy", "--out", folder / "c.safetensors")
    assert lfvd(*argv)[0] == 0
    assert not (folder / "c.parquet").exists()
