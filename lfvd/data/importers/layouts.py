"""Pickled feature files, told apart by their structure: tuples or lists of a known length, and dicts.

What an item of a tuple means follows from how many there are, for 9 and 10 also from what kind of thing one of them is. Pickles
hold text, audio, visual in this order, whatever the loaders of the projects return.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfvd.data.corpus import CorpusError
from lfvd.data.datasets import IEMOCAP, MELD, Dataset
from lfvd.data.importers.source import SPLIT_NAMES, FeatureSource, Values, bad_value, by_dialogue, dialogue_ids

LAYOUTS = {
    "I9": "ids speakers labels text audio visual sentences train test",
    "I12": "ids speakers labels text text2 text3 text4 audio visual sentences train test",
    "I10": "speakers labels text text2 text3 text4 sentences train test valid",
    "M9": "ids speakers labels text audio sentences train test sentiments",
    "M10": "ids speakers labels text audio visual sentences train test more",
    "M13": "ids speakers labels text text2 text3 text4 audio visual sentences train test more",
    "M14": "ids speakers labels sentiments text text2 text3 text4 audio visual sentences train test more",
    "M11": "speakers labels sentiments text text2 text3 text4 sentences train test valid",
    "M7": "speakers labels sentiments sentences train test valid",
}
"""Layout of a tuple or list → its items; `ids` of utterances, `sentiments` and `more` are not read."""
_PARTS = {"text": "l", "audio": "a", "visual": "v"}
MODALITY_FILES = {"text": "l", "language": "l", "audio": "a", "visual": "v", "video": "v"}
"""How the file of one modality (layout E) begins, in lower case → modality."""


def pickle_source(value: Any, file: Path) -> FeatureSource:
    """The content of a pickle as a source. Raises CorpusError for what is unknown, and for items that are not what they should be."""
    if isinstance(value, list | tuple):
        return _tuple_source(value, file)
    if isinstance(value, dict) and {"train", "test"} <= set(value) <= set(SPLIT_NAMES):
        return _split_dict_source(value, file)
    if isinstance(value, dict):
        return feature_source(value, file)
    raise bad_value(str(file), value, "be a tuple, list or dict: see the README's table of layouts")


def _tuple_source(value: Sequence[Any], file: Path) -> FeatureSource:
    layout = _recognised(value, file)
    named = dict(zip(LAYOUTS[layout].split(), value, strict=True))
    read = {
        name: by_dialogue(item, f"{file}: {name}")
        for name, item in named.items()
        if name not in ("ids", "train", "valid", "test", "sentiments", "more")
    }
    dataset = _dataset(read["labels"], f"{file}: labels")
    layers = {m: tuple(v for name, v in read.items() if name.rstrip("234") == part) for part, m in _PARTS.items()}
    return FeatureSource(
        layout=layout,
        files=(file,),
        dataset=dataset,
        features={m: parts for m, parts in layers.items() if parts and parts[0]},
        splits={s: dialogue_ids(named[s], f"{file}: {s} ids") for s in ("train", "valid", "test") if s in named},
        labels=read["labels"],
        speakers=read["speakers"],
        sentences=read["sentences"],
    )


def _recognised(value: Sequence[Any], file: Path) -> str:
    size = len(value)
    if size == 9:
        return "I9" if isinstance(value[6], dict) else "M9"
    if size == 10:
        return "I10" if isinstance(value[9], list | tuple | set) else "M10"
    lengths = {len(names.split()): layout for layout, names in LAYOUTS.items()}
    if size not in lengths:
        known = ", ".join(map(str, sorted(lengths)))
        raise CorpusError(f"{file}: holds {size} items, but known layouts have {known}: import a table with .npy files")
    return lengths[size]


def _dataset(ids: Collection[str], where: str) -> Dataset:
    """MELD numbers its dialogues, IEMOCAP names them."""
    if not ids:
        raise CorpusError(f"{where}: there is no dialogue, but must be at least one: fetch the file again")
    return MELD if all(i.isdecimal() for i in ids) else IEMOCAP


def _split_dict_source(value: Mapping[str, Any], file: Path) -> FeatureSource:
    """C: {train, dev, test} → list of dialogues, each a dict with vid, speakers, labels, audio, visual, text, sentence."""
    found: dict[str, Values] = {name: {} for name in ("labels", "speakers", "sentence", *_PARTS)}
    splits: dict[str, tuple[str, ...]] = {}
    for split, dialogues in value.items():
        if not isinstance(dialogues, list | tuple):
            raise bad_value(f"{file}: {split}", dialogues, "be a list of dialogues: export it so")
        for i, dialogue in enumerate(dialogues):
            if not isinstance(dialogue, dict) or not {"vid", "speakers", "labels"} <= set(dialogue):
                where, rule = f"{file}: {split}, dialogue {i}", "be a dict with vid, speakers and labels: export it so"
                raise bad_value(where, dialogue, rule)
        ids = dialogue_ids([dialogue["vid"] for dialogue in dialogues], f"{file}: {split}")
        for key, dialogue in zip(ids, dialogues, strict=True):
            for name in found.keys() & dialogue.keys():
                found[name][key] = dialogue[name]
        if ids or SPLIT_NAMES[split] != "valid":
            splits[SPLIT_NAMES[split]] = ids
    return FeatureSource(
        layout="C",
        files=(file,),
        dataset=_dataset(found["labels"], str(file)),
        features={m: (found[name],) for name, m in _PARTS.items() if found[name]},
        splits=splits,
        labels=found["labels"],
        speakers=found["speakers"],
        sentences=found["sentence"],
    )


def feature_source(value: Any, file: Path, modality: str | None = None) -> FeatureSource:
    """E: dialogue id → vectors of one modality, told by the file's name where `modality` is not given. Raises CorpusError."""
    chosen = modality or next((m for start, m in MODALITY_FILES.items() if file.name.lower().startswith(start)), None)
    if chosen is None:
        text = "holds features of one modality, but does not say which: give it with --language, --audio or --visual"
        raise CorpusError(f"{file}: {text}")
    values = by_dialogue(value, str(file))
    return FeatureSource(
        layout="E",
        files=(file,),
        dataset=_dataset(values, str(file)),
        features={chosen: (values,)},
    )
