"""The canonical file: what goes in comes out, what is wrong is refused in one sentence, what fails leaves nothing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from lfvd.data.corpus import FORMAT, SPLITS, Corpus, CorpusError, CorpusInfo


def make(lengths=(2, 1, 3, 2), split=(0, 0, 1, 2), widths=(("l", 3), ("a", 2)), seed=0) -> Corpus:
    """Random features; labels 0, 1, 2, 0, … with the first utterance unlabelled."""
    rng, total = np.random.default_rng(seed), sum(lengths)
    label = np.arange(total) % 3
    label[0] = -1
    return Corpus(
        info=CorpusInfo(
            name="tiny é",
            classes=("calm", "glad", "sad"),
            dialogues=tuple(f"d{i}" for i in range(len(lengths))),
            simulated=("audio",),
            sources={"a.npz": "0f"},
            options={"seed": 3},
            length_bins=(5, 13),
        ),
        features={m: rng.standard_normal((total, w)).astype(np.float32) for m, w in widths},
        label=label,
        speaker=np.concatenate([np.arange(n) % 2 for n in lengths]),
        offset=np.concatenate([[0], np.cumsum(lengths)]),
        split=np.array(split),
    )


def arrays_of(corpus: Corpus) -> dict[str, np.ndarray]:
    small = {name: getattr(corpus, name) for name in ("label", "speaker", "offset", "split")}
    return {**corpus.features, **small}


def assert_equal(one: Corpus, other: Corpus) -> None:
    assert one.info == other.info
    assert arrays_of(one).keys() == arrays_of(other).keys()
    for name, array in arrays_of(one).items():
        assert array.dtype == arrays_of(other)[name].dtype
        np.testing.assert_array_equal(array, arrays_of(other)[name])


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    widths=st.dictionaries(st.sampled_from("lav"), st.integers(1, 5), min_size=1),
    seed=st.integers(0, 99),
)
def test_round_trip(tmp_path_factory, lengths, widths, seed):
    split = [i % 3 for i in range(len(lengths))]
    corpus = make(lengths, split, tuple(widths.items()), seed)
    path = tmp_path_factory.mktemp("trip") / "c.safetensors"
    saved, _ = corpus.save(path), corpus.save(path.with_name("again"))
    assert path.read_bytes() == path.with_name("again").read_bytes()
    opened = Corpus.open(path)
    assert_equal(corpus, opened)
    assert opened.fingerprint == saved.fingerprint == opened.content_hash()
    assert opened.widths(list(widths)) == widths


def test_fingerprint_tells_contents_apart():
    base = make()
    label = base.label.copy()
    label[1] = 0
    changed = [
        make(seed=1),
        replace(base, label=label),
        replace(base, split=base.split[::-1].copy()),
        replace(base, info=replace(base.info, classes=("calm", "glad", "low"))),
        replace(base, features={"l": base.features["l"]}),
        replace(base, features={"l": base.features["l"], "v": base.features["a"]}),
    ]
    assert len({c.content_hash() for c in [base, *changed]}) == len(changed) + 1
    assert base.content_hash() == make().content_hash()


def test_features_are_mapped_privately(tmp_path):
    """The pages are the file's own, shared by all trials of a machine; writing to them does not reach the file."""
    path = tmp_path / "c.safetensors"
    make().save(path)
    before = path.read_bytes()
    corpus = Corpus.open(path)
    if Path("/proc/self/maps").is_file():
        assert str(path) in Path("/proc/self/maps").read_text()
    corpus.label[0] = 2
    corpus.features["l"][:] = 7.0
    assert path.read_bytes() == before
    assert Corpus.open(path).label[0] == -1


def test_a_new_file_does_not_change_an_open_corpus(tmp_path):
    path = tmp_path / "c.safetensors"
    make().save(path)
    opened = Corpus.open(path)
    make(lengths=(9,), split=(0,), seed=5).save(path)
    assert_equal(opened, make())


@pytest.mark.parametrize("splits", [("train",), ("valid",), ("train", "valid"), ("train", "valid", "test")])
def test_restricted_hides_the_other_splits(splits):
    corpus = make()
    part = corpus.restricted(*splits)
    part.check("part")
    assert part.fingerprint == corpus.fingerprint
    assert set(part.split) == {SPLITS.index(s) for s in splits}
    rows = np.isin(np.repeat(corpus.split, np.diff(corpus.offset)), part.split)
    for modality, flat in corpus.features.items():
        np.testing.assert_array_equal(part.features[modality], flat[rows])
        hidden = {row.tobytes() for row in flat[~rows]}
        memory = part.features[modality] if part.features[modality].base is None else part.features[modality].base
        assert hidden.isdisjoint(row.tobytes() for row in memory)
    np.testing.assert_array_equal(part.label, corpus.label[rows])
    np.testing.assert_array_equal(part.speaker, corpus.speaker[rows])
    kept = [corpus.info.dialogues[i] for i in range(len(corpus.split)) if corpus.split[i] in part.split]
    assert list(part.info.dialogues) == kept


def test_restricted_to_a_split_without_dialogues():
    assert make(split=(0, 0, 0, 0)).restricted("test").features["l"].shape == (0, 3)


def test_batch_gathers_dialogues():
    corpus = make()
    batch = corpus.batch([2, 1], ["l"])
    assert batch.length.tolist() == [3, 1]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.label.tolist() == [corpus.label[3:6].tolist(), [corpus.label[2], -1, -1]]
    np.testing.assert_array_equal(batch.features["l"][0], corpus.features["l"][3:6])
    assert not batch.features["l"][1, 1:].any()


def test_missing_modality():
    text = (
        "the corpus tiny é has no visual features, but `data.modalities` names v: "
        "import them, or use `--set data.modalities=l,a`"
    )
    with pytest.raises(CorpusError, match=f"^{re.escape(text)}$"):
        make().widths(["l", "v"])


def changed(**arrays) -> Corpus:
    return replace(make(), **arrays)


def with_label(value: int) -> Corpus:
    label = make().label
    label[2] = value
    return changed(label=label)


def with_info(**values) -> Corpus:
    return changed(info=replace(make().info, **values))


BAD = {
    "label too large": (
        with_label(3),
        "dialogue d1, utterance 0 has label 3, but labels are 0 to 2, or -1 for none: correct it in the source",
    ),
    "label too small": (
        with_label(-2),
        "dialogue d1, utterance 0 has label -2, but labels are 0 to 2, or -1 for none: correct it in the source",
    ),
    "empty dialogue": (
        changed(offset=np.array([0, 2, 2, 6, 8])),
        "dialogue d1 has no utterance: leave it out of the source",
    ),
    "offset beyond the end": (
        changed(offset=np.array([0, 2, 3, 6, 9])),
        "`offset` must run from 0 to 8, the number of utterances",
    ),
    "duplicate ids": (
        with_info(dialogues=("d0", "d1", "d1", "d3")),
        "two dialogues have the same name: rename one in the source",
    ),
    "too few ids": (
        with_info(dialogues=("d0",)),
        "`offset` has 5 rows, but must have 2; `split` has 4 rows, but must have 1",
    ),
    "unknown split": (changed(split=np.array([0, 0, 1, 3])), "`split` must be 0 (train), 1 (valid) or 2 (test)"),
    "no modality": (changed(features={}), "there is no modality: import at least one of language, audio, visual"),
    "rows missing": (changed(speaker=np.zeros(7, np.int64)), "`speaker` has 7 rows, but must have 8"),
    "wrong type": (
        changed(features={"l": np.zeros((8, 2))}),
        "`language` is float64 with 2 axes, but must be float32 with 2",
    ),
    "NaN": (
        changed(features={"a": np.array([[0.0]] * 4 + [[np.nan]] + [[0.0]] * 2 + [[np.inf]], np.float32)}),
        "audio features of dialogue d2, utterance 1 are NaN or infinite (and of 1 more utterances), "
        "but must be finite: correct them in the source",
    ),
}


@pytest.mark.parametrize(("corpus", "text"), BAD.values(), ids=BAD.keys())
def test_a_bad_corpus_is_not_written(tmp_path, corpus, text):
    """And an existing file outlives it."""
    path = tmp_path / "c.safetensors"
    make().save(path)
    before = path.read_bytes()
    with pytest.raises(CorpusError, match=f"^{re.escape(f'{path}: {text}')}$"):
        corpus.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write(path: Path, header: dict[str, str] | None, drop: str = "", **arrays: np.ndarray) -> None:
    """A safetensors file past the checks of Corpus.save."""
    corpus = make()
    named = {
        "language": corpus.features["l"],
        **{k: v for k, v in arrays_of(corpus).items() if k not in "lav"},
        **arrays,
    }
    named.pop(drop, None)
    save_file(named, path, metadata=header)


def header_of(**changes) -> dict[str, str]:
    info = {"name": "x", "classes": ["a", "b", "c"], "dialogues": ["0", "1", "2", "3"]}
    values = {"version": 1, "fingerprint": "ff", "info": info, **changes}
    return {FORMAT: json.dumps({k: v for k, v in values.items() if v is not None})}


def assert_refused(path: Path, text: str) -> None:
    with pytest.raises(CorpusError, match=f"^{re.escape(str(path))}: {text}$") as caught:
        Corpus.open(path)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_file_by_hand_is_read(tmp_path):
    """Its header holds no code and no path of the machine."""
    write(tmp_path / "c", header_of())
    assert Corpus.open(tmp_path / "c").info.name == "x"
    make().save(tmp_path / "d")
    with safe_open(tmp_path / "d", framework="np") as file:
        assert list(file.metadata()) == [FORMAT]
        assert str(tmp_path) not in file.metadata()[FORMAT]


def test_missing_file(tmp_path):
    assert_refused(tmp_path / "no", "there is no such file: make it with `lfvd import` or `lfvd simulate`")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04]q\x00.", b"\xff" * 64, 4, 40, -1])
def test_foreign_or_truncated_file(tmp_path, content):
    path = tmp_path / "c"
    make().save(path)
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:content])
    assert_refused(path, r"is not a whole safetensors file \(.+\): import it again")


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_safetensors_of_another_kind(tmp_path, header):
    write(tmp_path / "c", header)
    assert_refused(tmp_path / "c", r"is not a corpus \(its header has no `lfvd-corpus`\): make one with `lfvd import`")


def test_file_of_another_version(tmp_path):
    write(tmp_path / "c", header_of(version=2))
    assert_refused(tmp_path / "c", "`version` is 2, but this release reads 1: import the data again")


@pytest.mark.parametrize(
    "header",
    [
        {FORMAT: "{"},
        {FORMAT: "[]"},
        header_of(version=None),
        header_of(info=None),
        header_of(fingerprint=None),
        header_of(info={"name": "x"}),
        header_of(info={"name": "x", "classes": ["a"], "dialogues": ["0"], "colour": "red"}),
    ],
)
def test_incomplete_header(tmp_path, header):
    write(tmp_path / "c", header)
    assert_refused(tmp_path / "c", r"its header or arrays are incomplete \(.+\): import the data again")


def test_incomplete_arrays(tmp_path):
    write(tmp_path / "lacks", header_of(), drop="split")
    write(tmp_path / "more", header_of(), smell=np.zeros(8))
    for name in ("lacks", "more"):
        assert_refused(tmp_path / name, r"its header or arrays are incomplete \(.+\): import the data again")


def test_inconsistent_file(tmp_path):
    write(tmp_path / "c", header_of(), label=np.full(8, 9), split=np.array([0, 0, 0, 5]))
    text = (
        "dialogue 0, utterance 0 has label 9, but labels are 0 to 2, or -1 for none: correct it in the source; "
        "`split` must be 0 (train), 1 (valid) or 2 (test)"
    )
    assert_refused(tmp_path / "c", re.escape(text))


def test_changed_content_is_refused(tmp_path):
    """A file whose arrays were edited by other means keeps its old fingerprint in the header."""
    path = tmp_path / "changed.safetensors"
    make().save(path)
    with safe_open(path, framework="np") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays["language"] = arrays["language"] + 1
    save_file(arrays, path, metadata=header)
    Corpus.open(path)
    with pytest.raises(CorpusError, match="its content does not match its `fingerprint`: import the data again"):
        Corpus.load(path)
