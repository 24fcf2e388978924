"""The form that every layout is brought into before corpora are made of it, and readers of the values that layouts share.

A dialogue's features are an (n, width) array or a list of n vectors; they stay as the file has them, views of the mapped file
where possible, until `fill_layers` copies them into rows of the corpus. Shape legend: lfvd.data.batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import Dataset
from lfvd.data.importers.stand_ins import short_repr

Values = dict[str, Any]
"""Dialogue id → the file's value for it, one item an utterance."""


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What one file, or a few that belong together, hold; an empty dict where they hold nothing of the kind."""

    layout: str
    """Which published layout, as in lfvd.data.importers.tuples."""
    why: str
    """What it was recognised by."""
    files: tuple[Path, ...]
    dataset: Dataset
    """Classes in the order of `labels`."""
    labels: Values = field(default_factory=dict)
    """Whole numbers, -1 for none."""
    speakers: Values = field(default_factory=dict)
    """Names, numbers or one-hot vectors."""
    sentences: Values = field(default_factory=dict)
    utterances: Values = field(default_factory=dict)
    """Utterance ids."""
    features: dict[str, tuple[Values, ...]] = field(default_factory=dict)
    """Modality → its layers, one or the four of a RoBERTa."""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """train, valid, test → dialogue ids; without valid where the file names none."""
    folder: Path | None = None
    """Named in place of the files, where the user named it."""
    ordered: bool = False
    """Whether dialogues keep their order; without it they are sorted by id."""

    def __str__(self) -> str:
        return str(self.folder or self.files[0])

    @property
    def dialogues(self) -> set[str]:
        """Ids of all dialogues that have labels, or features where there are no labels."""
        if self.labels:
            return set(self.labels)
        return {i for layers in self.features.values() for i in layers[0]}


def by_dialogue(value: Any, where: str) -> Values:
    """A dict of the file with its keys as text. Raises CorpusError for anything else, and for ids that are then equal."""
    if not isinstance(value, dict):
        raise CorpusError(
            f"{where} is a {kind(value)}, but must be a dict by dialogue: see the README's table of layouts"
        )
    named = {dialogue_id(key, where): items for key, items in value.items()}
    if len(named) < len(value):
        raise CorpusError(f"{where} has a dialogue id twice, as text and as number: keep one")
    return named


def dialogue_id(key: Any, where: str) -> str:
    """`17`, `17.0` and `"17"` → `"17"`; bytes are latin1."""
    if isinstance(key, bytes):
        key = key.decode("latin1")
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise CorpusError(
            f"{where} has the dialogue id {short_repr(key)}, but ids must be text or whole numbers: name it so"
        )
    return str(key)


def id_list(value: Any, where: str) -> tuple[str, ...]:
    """Dialogue ids of a split, in the file's order; sets in order of text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, set):
        value = sorted(value, key=str)
    if not isinstance(value, list | tuple):
        raise CorpusError(f"{where} is a {kind(value)}, but must be a list of dialogue ids: see the README's table")
    ids = tuple(dialogue_id(key, where) for key in value)
    if (twice := second(ids)) is not None:
        raise CorpusError(f"{where} names dialogue {ids[twice]} twice, but must name it once: remove one")
    return ids


def second(items: Sequence[str]) -> int | None:
    """Where the first item stands that came before; None where all are different."""
    seen: set[str] = set()
    for i, item in enumerate(items):
        if item in seen:
            return i
        seen.add(item)
    return None


def item_count(value: Any) -> int | None:
    """How many utterances a dialogue's value has; None for what is no sequence."""
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def _fill(rows: np.ndarray, value: Any, where: str) -> None:
    """Copy a dialogue's features, numbers of any type, into `rows` [n, width]. Raises CorpusError naming the utterance that differs."""
    width = rows.shape[1]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == width and value.dtype.kind in "fiub":
        rows[:] = value
        return
    for i, item in enumerate(value):
        vector = _vector(item, f"{where}, utterance {i}")
        if len(vector) != width:
            raise CorpusError(
                f"{where}, utterance {i}: is {len(vector)} wide, but others are {width}: use one extractor for all"
            )
        rows[i] = vector


def fill_layers(rows: np.ndarray, layers: Sequence[Any], width: int, where: str) -> None:
    """Write a dialogue's layers into its rows: side by side where they are wide enough, else their mean."""
    if rows.shape[1] == width * len(layers):
        for i, layer in enumerate(layers):
            _fill(rows[:, i * width : (i + 1) * width], layer, where)
        return
    total, part = np.zeros(rows.shape), np.empty(rows.shape)
    for layer in layers:
        _fill(part, layer, where)
        total += part
    rows[:] = total / len(layers)


def width_of(value: Any, where: str) -> int:
    """Width of a dialogue's first vector."""
    if isinstance(value, np.ndarray) and value.ndim == 2:
        return int(value.shape[1])
    return len(_vector(value[0], f"{where}, utterance 0"))


def _vector(item: Any, where: str) -> np.ndarray:
    if isinstance(item, list | tuple) and set(map(type, item)) <= {int, float, bool}:
        try:
            item = np.array(item, np.float64)
        except OverflowError:
            raise CorpusError(f"{where}: holds a number too large for a feature: correct it") from None
    if isinstance(item, np.ndarray) and item.dtype.kind in "fiub":
        if item.ndim == 2 and item.shape[0] == 1:
            item = item[0]
        if item.ndim == 1 and len(item):
            vector: np.ndarray = item
            return vector
        raise CorpusError(f"{where}: has shape {item.shape}, but must be a vector: flatten it")
    raise CorpusError(f"{where}: is a {kind(item)}, but must be a vector of numbers: extract it again")


def speaker_numbers(value: Sequence[Any] | np.ndarray, where: str) -> list[int]:
    """Speakers of a dialogue, numbered in order of appearance: names, numbers, one-hot vectors."""
    order: dict[str, int] = {}  # numbers as text: large ones can be made to collide
    found = []
    for i, speaker in enumerate(_items(value)):
        key = (
            _one_hot(speaker, f"{where}, utterance {i}") if isinstance(speaker, list | tuple | np.ndarray) else speaker
        )
        if not isinstance(key, str | bytes | int | float) or (isinstance(key, str) and not key.strip()):
            raise CorpusError(f"{where}, utterance {i}: is {short_repr(key)}, but must name the speaker: fill it in")
        found.append(order.setdefault(key if isinstance(key, str) else repr(key), len(order)))
    return found


def _items(value: Sequence[Any] | np.ndarray) -> Sequence[Any]:
    """Of a dialogue's value, an array of one axis as Python's own types."""
    return list(value.tolist()) if isinstance(value, np.ndarray) and value.ndim == 1 else value  # type: ignore[return-value]


def utterance_ids(value: Sequence[Any] | np.ndarray, where: str) -> list[str]:
    """Ids as text, as different as they are in the file."""
    for i, item in enumerate(_items(value)):
        if not isinstance(item, str | bytes | int | float):
            raise CorpusError(
                f"{where}, utterance {i}: is {short_repr(item)}, but must be text or a number: name it so"
            )
    return list(map(str, _items(value)))


def _one_hot(vector: Sequence[Any] | np.ndarray, where: str) -> int:
    flat = _vector(vector, where)
    if np.count_nonzero(flat) != 1 or flat.max() != 1:
        raise CorpusError(
            f"{where}: the one-hot vector has {np.count_nonzero(flat)} entries, but must have a single 1: correct it"
        )
    return int(flat.argmax())


def label_numbers(value: Sequence[Any] | np.ndarray, dataset: Dataset, where: str) -> list[int]:
    """Labels of a dialogue, -1 for none, checked against the classes. Names count in any spelling."""
    found = []
    for i, given in enumerate(value.tolist() if isinstance(value, np.ndarray) else value):
        label = dataset.label(given) if isinstance(given, str) else given
        if given is None or (isinstance(given, str) and not given.strip()):
            label = -1
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if type(label) is not int or not -1 <= label < len(dataset.classes):
            raise CorpusError(
                f"{where}, utterance {i}: is {short_repr(given)}, but {dataset.name} has the labels 0 to "
                f"{len(dataset.classes) - 1} ({', '.join(dataset.classes)}), or -1 for none: correct it"
            )
        found.append(label)
    return found


def texts(value: Sequence[Any] | np.ndarray, where: str) -> list[str]:
    """Sentences of a dialogue; bytes are latin1, as Python 2's text is."""
    found = []
    for i, text in enumerate(value):
        if isinstance(text, bytes):
            text = text.decode("latin1")
        if not isinstance(text, str):
            raise CorpusError(f"{where}, utterance {i}: is a {kind(text)}, but must be text: correct it")
        found.append(text.encode("utf-8", "replace").decode())  # lone surrogates cannot be written
    return found


def kind(value: Any) -> str:
    """What a value is, for an error."""
    return f"{value.dtype} array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
