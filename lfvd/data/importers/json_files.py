"""Feature files J and J1: `{train,dev,test}_data_roberta*.json.feature`, with `label_vocab.pkl` and `speaker_vocab.pkl` beside.

A list of dialogues, each a list of {text, speaker, label, cls}; `cls` is [text, audio, visual] (J) or one flat vector of
text (J1). A label is a name, or a number of `label_vocab`, or absent: then the utterance is context, not a target.
The file is read one dialogue at a time, and its features are kept as float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.data.corpus import SPLITS, CorpusError
from lfvd.data.datasets import Dataset, dataset_of
from lfvd.data.importers.pickles import load_pickle
from lfvd.data.importers.source import SPLIT_NAMES, FeatureSource, Values, bad_value, vector
from lfvd.files import reason

CHUNK = 2**20
"""Characters that are read at a time."""
MAX_DIALOGUE = 2**25
"""Characters of the longest dialogue that is read, five times those of a published file's."""


def json_source(files: tuple[Path, ...]) -> FeatureSource:
    """The files of the splits as one source. Raises CorpusError for what is broken, unknown or misshapen."""
    of_split: dict[str, Path] = {}
    for file in files:
        split = SPLIT_NAMES.get(_prefix(file), "")
        if not split:
            raise CorpusError(f"{file}: its name must begin with train_, dev_ or test_ to say its split: rename it")
        if (other := of_split.setdefault(split, file)) is not file:
            raise CorpusError(f"{file}: is of the same split as {other.name}: name the files of one kind, no folder")
    folder = files[0].parent
    vocabulary = folder / "label_vocab.pkl"
    names = _names(vocabulary) if vocabulary.is_file() else ()
    parts: dict[str, Values] = {name: {} for name in ("label", "speaker", "text", "l", "a", "v")}
    splits = {}
    for split in sorted(of_split, key=SPLITS.index):
        file, ids = of_split[split], []
        for i, dialogue in enumerate(json_items(file)):
            ids.append(f"{_prefix(file)}_{i}")
            _add(parts, ids[-1], dialogue, names, where=f"{file}: dialogue {i}")
        splits[split] = tuple(ids)
    modalities = [m for m in "lav" if parts[m]]
    return FeatureSource(
        layout="J" if len(modalities) > 1 else "J1",
        files=(*(of_split[split] for split in splits), *([vocabulary] if names else [])),
        dataset=_dataset(parts["label"], names, folder),
        labels=parts["label"],
        speakers=parts["speaker"],
        sentences=parts["text"],
        features={m: (parts[m],) for m in modalities},
        splits=splits,
        ordered=True,
    )


def _prefix(file: Path) -> str:
    return file.name.split("_")[0].lower()


def json_items(file: Path) -> Iterator[Any]:
    """The items of a JSON list, each decoded once it is read whole. Raises CorpusError where the file is something else."""
    decoder, after = json.JSONDecoder(), re.compile(r"\s*([,\]])\s*")
    try:
        with file.open(encoding="utf-8") as opened:
            text, place, end = opened.read(CHUNK).lstrip(), 0, None
            if not text.startswith("["):
                raise ValueError("it is no list")
            text = text[1:].lstrip()
            while end is None or end[1] == ",":
                try:
                    item, stop = decoder.raw_decode(text, place)
                    end, problem = after.match(text, stop), ValueError("an item has no comma behind it")
                except json.JSONDecodeError as error:
                    end, problem = None, error
                if end is not None:
                    yield item
                    place = end.end()
                elif (more := opened.read(max(CHUNK, len(text)))) and len(text) - place < MAX_DIALOGUE:
                    text, place = (text[place:] + more).lstrip(), 0
                else:
                    raise problem
            if (text[place:] + opened.read(CHUNK)).strip():
                raise ValueError("something stands behind the list")
    except (ValueError, RecursionError) as error:
        why = f"is cut off, damaged or not a JSON list of dialogues ({reason(error)}): fetch the file again"
        raise CorpusError(f"{file}: {why}") from None


def _add(parts: dict[str, Values], key: str, dialogue: Any, names: tuple[str, ...], *, where: str) -> None:
    """Add the utterances of a dialogue to the values of each kind."""
    if not isinstance(dialogue, list) or not dialogue:
        raise bad_value(where, dialogue, "be a list of utterances: export it so")
    for i, utterance in enumerate(dialogue):
        here = f"{where}, utterance {i}"
        if not isinstance(utterance, dict) or not {"speaker", "cls"} <= utterance.keys():
            raise bad_value(here, utterance, "have the keys `speaker` and `cls`: export it so")
        cls = utterance["cls"]
        given = cls if isinstance(cls, list) and cls and isinstance(cls[0], list) else [cls]
        if len(given) > 3:
            raise bad_value(f"{here}: `cls`", cls, "have at most three parts, text, audio and visual: export it so")
        with np.errstate(over="ignore"):
            vectors = {m: vector(v, f"{here}, `cls`").astype(np.float32) for m, v in zip("lav", given, strict=False)}
        label = _label_name(utterance.get("label"), names, here)
        values = {"label": label, "speaker": utterance["speaker"], "text": utterance.get("text", ""), **vectors}
        for name, value in values.items():
            parts[name].setdefault(key, []).append(value)


def _names(vocabulary: Path) -> tuple[str, ...]:
    """Label names in the order of their numbers."""
    value = load_pickle(vocabulary)
    names = value.get("itos") if isinstance(value, dict) else None
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise bad_value(f"{vocabulary}: `itos`", names, "be the list of label names: use the file made with the data")
    return tuple(names)


def _label_name(label: Any, names: tuple[str, ...], where: str) -> str | None:
    """A label by name, None for none."""
    if label is None or label in ("", -1):
        return None
    if isinstance(label, str):
        return label
    if type(label) is not int or not 0 <= label < len(names):
        rule = f"be a name or one of the {len(names)} numbers of label_vocab.pkl beside the file: correct one of them"
        raise bad_value(f"{where}: the label", label, rule)
    return names[label]


def _dataset(labels: Values, names: tuple[str, ...], folder: Path) -> Dataset:
    """The data set that the labels are of; else one of their own, in the order of the vocabulary or the alphabet."""
    used = {label for of in labels.values() for label in of if label is not None}
    if not used:
        raise CorpusError(f"{folder}: no utterance has a label, but some must: use the published files")
    known = names or tuple(sorted(used))
    own = tuple(name for name in known if name in used or not used <= set(known))
    return dataset_of(used, names) or Dataset(name=folder.name or "own", classes=own)
