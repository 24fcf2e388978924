"""Feature files J and J1: `{train,dev,test}_data_roberta*.json.feature`, with `label_vocab.pkl` and `speaker_vocab.pkl` beside.

A list of dialogues, each a list of {text, speaker, label, cls}; `cls` is [text, audio, visual] (J) or one flat vector of
text (J1). A label is a name, or a number of `label_vocab`, or absent: then the utterance is context, not a target.
The file is read one dialogue at a time, and its features are kept as float32.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import Dataset, dataset_of
from lfvd.data.importers.pickles import json_items, load_pickle
from lfvd.data.importers.source import FeatureSource, Values, kind
from lfvd.data.importers.stand_ins import short_repr

_SPLITS = {"train": "train", "dev": "valid", "valid": "valid", "test": "test"}


def json_source(files: tuple[Path, ...]) -> FeatureSource:
    """The files of the splits as one source. Raises CorpusError for what is broken, unknown or misshapen."""
    files = tuple(sorted(files, key=lambda file: list(_SPLITS).index(_split(file))))
    for one, two in pairwise(files):
        if _SPLITS[_split(one)] == _SPLITS[_split(two)]:
            raise CorpusError(f"{two}: is of the same split as {one.name}: name the files of one kind, not the folder")
    vocabulary = files[0].parent / "label_vocab.pkl"
    names = _names(vocabulary) if vocabulary.is_file() else ()
    parts: dict[str, Values] = {name: {} for name in ("label", "speaker", "text", "l", "a", "v")}
    splits = {}
    for file in files:
        split = _split(file)
        ids = []
        for i, dialogue in enumerate(json_items(file)):
            ids.append(f"{split}_{i}")
            _add(parts, ids[-1], dialogue, where=f"{file}: dialogue {i}")
        splits[_SPLITS[split]] = tuple(ids)
    dataset, labels = _labels(parts["label"], names, files[0])
    modalities = [m for m in "lav" if parts[m]]
    return FeatureSource(
        layout="J" if len(modalities) > 1 else "J1",
        why=f"JSON, `cls` of {len(modalities)} part{'s' * (len(modalities) > 1)}, labels by {vocabulary.name if names else 'name'}",
        files=(*files, vocabulary) if names else files,
        dataset=dataset,
        labels=labels,
        speakers=parts["speaker"],
        sentences=parts["text"],
        features={m: (parts[m],) for m in modalities},
        splits=splits,
        ordered=True,
    )


def _split(file: Path) -> str:
    split = file.name.split("_")[0].lower()
    if split not in _SPLITS:
        raise CorpusError(
            f"{file}: its name must begin with train_, dev_ or test_, to say which split it is: rename it"
        )
    return split


def _add(parts: dict[str, Values], key: str, dialogue: Any, *, where: str) -> None:
    if not isinstance(dialogue, list) or not dialogue:
        raise CorpusError(f"{where} is a {kind(dialogue)}, but must be a list of at least one utterance: export it so")
    for values in parts.values():
        values[key] = []
    for i, utterance in enumerate(dialogue):
        if not isinstance(utterance, dict) or not {"speaker", "cls"} <= utterance.keys():
            raise CorpusError(f"{where}, utterance {i}: must have the keys `speaker` and `cls`: export it so")
        parts["label"][key].append(utterance.get("label"))
        parts["speaker"][key].append(utterance["speaker"])
        parts["text"][key].append(utterance.get("text", ""))
        for modality, vector in zip("lav", _vectors(utterance["cls"], f"{where}, utterance {i}"), strict=False):
            parts[modality][key].append(vector)
    for modality in "lav":
        if not parts[modality][key]:
            del parts[modality][key]


def _vectors(cls: Any, where: str) -> list[np.ndarray]:
    """`cls` as vectors of text, and of audio and visual where there."""
    if not isinstance(cls, list) or not cls:
        raise CorpusError(
            f"{where}: `cls` is a {kind(cls)}, but must be a list of numbers or of three lists: export it so"
        )
    vectors = cls if isinstance(cls[0], list) else [cls]
    for vector in vectors:
        if len(vectors) > 3 or not isinstance(vector, list) or not set(map(type, vector)) <= {int, float}:
            raise CorpusError(f"{where}: `cls` must be a list of numbers, or of up to three such lists: export it so")
    with np.errstate(over="ignore"):
        try:
            return [np.array(vector, np.float64).astype(np.float32) for vector in vectors]
        except OverflowError:
            raise CorpusError(f"{where}: `cls` holds a number too large for a feature: correct it") from None


def _names(vocabulary: Path) -> tuple[str, ...]:
    """Label names in the order of their numbers."""
    value = load_pickle(vocabulary)
    names = value.get("itos") if isinstance(value, dict) else None
    if isinstance(names, dict):
        names = [names.get(i) for i in range(len(names))]
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise CorpusError(
            f"{vocabulary}: has no list of label names `itos`, but must have one: use the one made with the data"
        )
    return tuple(names)


def _labels(given: Values, names: tuple[str, ...], file: Path) -> tuple[Dataset, Values]:
    """Labels as names → the data set they are of, and numbers in its order."""
    named = {
        key: [_name(label, names, f"{file.parent}: dialogue {key}, utterance {i}") for i, label in enumerate(labels)]
        for key, labels in given.items()
    }
    used = {name for labels in named.values() for name in labels if name is not None}
    if not used:
        raise CorpusError(f"{file}: no utterance has a label, but some must: use the published file")
    dataset = dataset_of(used, names)
    if dataset is None:
        if names and (unknown := sorted(used - set(names))):
            raise CorpusError(
                f"{file.parent}: the label {short_repr(unknown[0])} is not in label_vocab.pkl, but must be: correct one of them"
            )
        classes = tuple(name for name in (names or sorted(used)) if name in used)
        dataset = Dataset(name=file.parent.name or "own", classes=classes, spellings={}, length_bins=())
    number: dict[str | None, Any] = {None: -1}
    for i, name in enumerate(dataset.classes):
        number.setdefault(name, i)
    number |= {name: dataset.label(name) for name in used if dataset.spellings}
    return dataset, {key: [number[name] for name in labels] for key, labels in named.items()}


def _name(label: Any, names: tuple[str, ...], where: str) -> str | None:
    if label is None or label in ("", -1):
        return None
    if isinstance(label, str):
        return label
    if not names:
        raise CorpusError(
            f"{where}: the label is a number, but there is no label_vocab.pkl beside the file: put it there"
        )
    if type(label) is not int or not 0 <= label < len(names):
        raise CorpusError(
            f"{where}: the label is {short_repr(label)}, but label_vocab.pkl has {len(names)} names: correct it"
        )
    return names[label]
