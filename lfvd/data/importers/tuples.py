"""Feature files that are one pickled tuple or list: I9 I12 I10 (IEMOCAP), M9 M10 M13 M14 M11 M7 (MELD).

What an item means follows from how many there are, for 9 and 10 also from what kind of thing one of them is. Pickles
hold text, audio, visual in this order, whatever the loaders of the projects return.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import IEMOCAP, MELD, Dataset
from lfvd.data.importers.source import FeatureSource, Values, by_dialogue, id_list, kind

_ROBERTA = ("text", "text2", "text3", "text4")
LAYOUTS: dict[str, tuple[str, ...]] = {
    "I9": ("ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test"),
    "I12": ("ids", "speakers", "labels", *_ROBERTA, "audio", "visual", "sentences", "train", "test"),
    "I10": ("speakers", "labels", *_ROBERTA, "sentences", "train", "test", "valid"),
    "M9": ("ids", "speakers", "labels", "text", "audio", "sentences", "train", "test", "sentiments"),
    "M10": ("ids", "speakers", "labels", "text", "audio", "visual", "sentences", "train", "test", "more"),
    "M13": ("ids", "speakers", "labels", *_ROBERTA, "audio", "visual", "sentences", "train", "test", "more"),
    "M14": (
        "ids",
        "speakers",
        "labels",
        "sentiments",
        *_ROBERTA,
        "audio",
        "visual",
        "sentences",
        "train",
        "test",
        "more",
    ),
    "M11": ("speakers", "labels", "sentiments", *_ROBERTA, "sentences", "train", "test", "valid"),
    "M7": ("speakers", "labels", "sentiments", "sentences", "train", "test", "valid"),
}
"""Layout → its items; `sentiments` and `more` are not read."""


def tuple_source(value: Sequence[Any], file: Path) -> FeatureSource:
    """A tuple or list of a known length. Raises CorpusError for another length and for items that are not what they should be."""
    layout, why = _recognised(value, file)
    named = dict(zip(LAYOUTS[layout], value, strict=True))

    def read(name: str) -> Values:
        return by_dialogue(named[name], f"{file}: {name}") if name in named else {}

    dataset = _dataset(named["labels"], file)
    features = {"l": tuple(read(n) for n in _ROBERTA if n in named), "a": (read("audio"),), "v": (read("visual"),)}
    return FeatureSource(
        layout=layout,
        why=f"{why}, {'whole numbers' if dataset is MELD else 'text'} for dialogue ids: {dataset.name}",
        files=(file,),
        dataset=dataset,
        labels=read("labels"),
        speakers=read("speakers"),
        sentences=read("sentences"),
        utterances=read("ids"),
        features={m: layers for m, layers in features.items() if layers and layers[0]},
        splits={s: id_list(named[s], f"{file}: {s} ids") for s in ("train", "valid", "test") if s in named},
    )


def _recognised(value: Sequence[Any], file: Path) -> tuple[str, str]:
    size = len(value)
    if size == 9:
        return ("I9", "9 items, item 6 a dict") if isinstance(value[6], dict) else ("M9", "9 items, item 6 no dict")
    if size == 10:
        ids = isinstance(value[9], list | tuple | set)
        return ("I10", "10 items, item 9 a list of ids") if ids else ("M10", f"10 items, item 9 a {kind(value[9])}")
    for layout, items in LAYOUTS.items():
        if len(items) == size:
            return layout, f"{size} items"
    lengths = ", ".join(str(n) for n in sorted({len(items) for items in LAYOUTS.values()}))
    raise CorpusError(
        f"{file}: holds {size} items, but known layouts have {lengths}: import it as a table of utterances with .npy files"
    )


def _dataset(labels: Any, file: Path) -> Dataset:
    """MELD numbers its dialogues, IEMOCAP names them."""
    ids = list(by_dialogue(labels, f"{file}: labels"))
    if not ids:
        raise CorpusError(f"{file}: labels are empty, but must have at least one dialogue: fetch the file again")
    return MELD if all(i.isdecimal() for i in ids) else IEMOCAP
