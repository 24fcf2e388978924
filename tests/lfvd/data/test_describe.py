"""`describe` says what is in a corpus, in at most 100 columns, and warns of what is odd."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from lfvd.data.corpus import Corpus
from lfvd.data.describe import describe, warnings
from lfvd.data.importers import ImportOptions, import_files
from lfvd.data.simulate import simulate


def printed(corpus: Corpus, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(describe(corpus))
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    """Cells of the first line that begins with a name."""
    lines = [line.split() for line in text.splitlines()]
    return next(cells[1:] for cells in lines if cells[:1] == [name])


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    made = simulate("meld", seed=0, dialogues=14, widths={"l": 4, "v": 2})
    label, language = made.label.copy(), made.features["l"].copy()
    label[:2] = -1
    language[:3] = 0.0
    return replace(
        made,
        info=replace(made.info, simulated=("visual",), sources={"text.npz": "0123456789abcdef" * 4}),
        features={**made.features, "l": language},
        label=label,
    )


def test_tables(corpus):
    text = printed(corpus)
    utterances = [int(row(text, "utterances")[i]) for i in range(4)]
    assert row(text, "dialogues") == ["10", "1", "3", "14"]
    assert utterances == [*np.bincount(np.repeat(corpus.split, np.diff(corpus.offset))), len(corpus.label)]
    assert row(text, "unlabelled")[0] == f"{200 / utterances[0]:.1f}"
    neutral = [int(cell) for cell in row(text, "neutral")[:4]]
    assert neutral[3] == sum(neutral[:3]) == (corpus.label == 0).sum()
    zero = f"{300 / len(corpus.label):.1f}"
    assert row(text, "language") == ["4", zero, "%", "0", "%", "imported"]
    assert row(text, "audio") == ["–", "–", "–", "absent"]
    assert row(text, "visual") == ["2", "0", "%", "0", "%", "simulated"]
    assert "simulated: visual" in text.splitlines()[0]
    assert "text.npz  sha256 0123456789ab…" in text
    assert "seed = 0" in text
    assert "1-5, 6-13, 14 and more" in text
    assert "none: not saved yet" in text


@pytest.mark.parametrize("counts", [{"language": 20, "smell": 3}, {"language": "many"}, "many", {"language": [1]}])
def test_share_of_missing_values(corpus, counts):
    """Of all values, as the import counted them; a file may say anything there."""
    text = printed(replace(corpus, info=replace(corpus.info, options={"nan_to_zero": counts})))
    share = f"{2000 / corpus.features['l'].size:.1f}" if counts == {"language": 20, "smell": 3} else "0"
    assert row(text, "language")[3:] == [share, "%", "imported"]


def test_dialogues(corpus):
    """Lengths 1 to 5, one to three speakers."""
    length = np.array([1, 2, 3, 4, 5])
    total = int(length.sum())
    small = replace(
        corpus,
        info=replace(corpus.info, dialogues=tuple("abcde")),
        features={"l": np.ones((total, 1), np.float32)},
        label=np.zeros(total, np.int64),
        speaker=np.concatenate([np.arange(n) % 3 for n in length]),
        offset=np.concatenate([[0], np.cumsum(length)]),
        split=np.array([0, 0, 0, 1, 2]),
    )
    table = printed(small).split("Dialogues")[1]
    assert row(table, "utterances") == ["1", "2", "3", "4", "5", "3.0"]
    assert row(table, "speakers") == ["1", "2", "3", "3", "3", "2.4"]


@pytest.mark.parametrize("width", [80, 100])
def test_fits_the_terminal(corpus, width, tmp_path):
    text = printed(corpus.save(tmp_path / "c.safetensors"), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert corpus.content_hash() in text


def test_markup_in_names_is_harmless(corpus):
    info = replace(corpus.info, name="[bold]x", classes=tuple(f"[red]{c}" for c in corpus.info.classes))
    text = printed(replace(corpus, info=info))
    assert "[bold]x" in text
    assert "[red]neutral" in text


def test_warnings(corpus):
    full = simulate("meld", seed=0, widths={"v": 1})
    assert warnings(full) == []
    named = replace(corpus, info=replace(corpus.info, name="MELD"))
    assert warnings(replace(full, info=replace(full.info, name="MELD"))) == []
    assert "9989/1109/2610 as published" in warnings(named)[0]
    assert "Warning: MELD has" in printed(named)
    assert "there are no utterances in valid, test" in " ".join(warnings(corpus.restricted("train")))
    silent = replace(full, label=np.where(full.label == 2, 0, full.label))
    assert warnings(silent) == ["train has no utterance of fear: a model cannot learn what it never sees"]


def test_real_meld(meld_folder):
    features = {"l": str(meld_folder / "minilm.npz"), "a": "simulated"}
    corpus, *_ = import_files([meld_folder], ImportOptions(features=features))
    text = printed(corpus, width=80)
    assert warnings(corpus) == []
    assert row(text, "utterances") == ["9,989", "1,109", "2,610", "13,708"]
    assert row(text, "dialogues") == ["1,038", "114", "280", "1,432"]
    assert row(text, "speakers") == ["1", "2", "2", "3", "9", "2.7"]
    assert row(text, "audio")[-1] == "simulated"
    assert row(text, "language") == ["384", "0", "%", "0", "%", "imported"]


def test_warnings_of_iemocap(corpus):
    full = simulate("iemocap", seed=0, widths={"v": 1})
    named = replace(full, info=replace(full.info, name="IEMOCAP"))
    assert warnings(named) == []
    fewer = named.restricted("train", "test")
    assert (
        f"IEMOCAP has {len(fewer.label) - 1623}/1623 utterances in train and valid/test, but 5810/1623 as published"
        in (" ".join(warnings(fewer)))
    )


@pytest.mark.parametrize("name", ["meld", "iemocap"])
def test_labels_in_another_order(name):
    full = simulate(name, seed=0, widths={"v": 1})
    named = replace(full, info=replace(full.info, name=name.upper()))
    swapped = replace(named, label=np.where(named.label < 2, 1 - named.label, named.label))
    found = warnings(swapped)
    assert found
    assert all("as published" in text and text.endswith("the labels may be in another order") for text in found)


def test_dialogues_of_each_length(corpus):
    length = np.diff(corpus.offset)
    counts = (length <= 5).sum(), ((length > 5) & (length <= 13)).sum(), (length > 13).sum()
    assert "1-5, 6-13, 14 and more utterances: {}/{}/{} dialogues".format(*counts) in printed(corpus)
