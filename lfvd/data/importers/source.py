"""The form that every layout is brought into before corpora are made of it, and readers of the values that layouts share.

A dialogue's features are an (n, width) array or a list of n vectors; they stay as the file has them, views of the mapped file
where possible, until `vectors` reads them for the rows of the corpus. Shape legend: lfvd.data.batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.data.corpus import CorpusError
from lfvd.data.datasets import Dataset
from lfvd.data.stand_ins import short_repr

Values = dict[str, Any]
"""Dialogue id → the file's value for it, one item an utterance."""
SPLIT_NAMES = {"train": "train", "valid": "valid", "dev": "valid", "val": "valid", "test": "test"}
"""What files call a split → its name here."""


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What one file, or a few that belong together, hold; an empty dict where they hold nothing of the kind."""

    layout: str
    """Which published layout, as in lfvd.data.importers.layouts."""
    files: tuple[Path, ...]
    dataset: Dataset
    """Classes in the order of `labels`."""
    labels: Values = field(default_factory=dict)
    """Whole numbers or class names; -1, None or no text for none."""
    speakers: Values = field(default_factory=dict)
    """Names, numbers or one-hot vectors."""
    sentences: Values = field(default_factory=dict)
    features: dict[str, tuple[Values, ...]] = field(default_factory=dict)
    """Modality → its layers, one or the four of a RoBERTa."""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """train, valid, test → dialogue ids; without valid where the file names none."""
    folder: Path | None = None
    """Named in place of the files, where the user named it."""
    order: np.ndarray | None = None
    """Of a table: which of its rows each utterance was, [N]."""
    ordered: bool = False
    """Whether dialogues keep their order; without it they are sorted by id."""

    def __str__(self) -> str:
        return str(self.folder or self.files[0])

    @property
    def dialogues(self) -> set[str]:
        """Ids of all dialogues that have labels, or features where there are no labels."""
        return set(self.labels or next(iter(self.features.values()))[0])


def bad_value(where: str, value: Any, rule: str) -> CorpusError:
    """The error for a value of a file: where it stands, what it is, what it must be, and the remedy."""
    return CorpusError(f"{where} is {short_repr(value)}, but must {rule}")


def by_dialogue(value: Any, where: str) -> Values:
    """A dict of the file with its keys as text. Raises CorpusError for anything else, and for ids that are then equal."""
    if not isinstance(value, dict):
        raise bad_value(where, value, "be a dict by dialogue: see the README's table of layouts")
    return dict(zip(dialogue_ids(value, where), value.values(), strict=True))


def dialogue_ids(keys: Any, where: str) -> tuple[str, ...]:
    """Dialogue ids as text, in the file's order: `17`, `17.0` and `"17"` → `"17"`; bytes are latin1. Raises CorpusError."""
    if not isinstance(keys, np.ndarray | set | dict | list | tuple):
        raise bad_value(where, keys, "be a list of dialogue ids: see the README's table of layouts")
    ids = []
    for key in keys.tolist() if isinstance(keys, np.ndarray) else keys:
        plain = int(key) if isinstance(key, float) and key.is_integer() else key
        if not isinstance(plain, str | bytes | int) or isinstance(plain, bool):
            raise bad_value(f"{where}: a dialogue id", key, "be text or a whole number: name it so")
        ids.append(plain.decode("latin1") if isinstance(plain, bytes) else str(plain))
    if (twice := repeated(ids)) is not None:
        raise CorpusError(f"{where} has dialogue {twice} twice, but must have it once: remove one")
    return tuple(sorted(ids) if isinstance(keys, set) else ids)


def repeated(names: Iterable[str]) -> str | None:
    """The first name that stands there twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def item_count(value: Any) -> int | None:
    """How many utterances a dialogue's value has; None for what is no sequence."""
    if isinstance(value, np.ndarray):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, list | tuple) else None


def items(value: Any) -> Sequence[Any]:
    """A dialogue's value, utterance by utterance; an array of one axis as Python's own types."""
    return list(value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value)


def vectors(value: Any, width: int, where: str) -> np.ndarray:
    """A dialogue's features as [n, width]; width 0: that of its first vector. Raises CorpusError naming the utterance."""
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiub" and value.shape[1]:
        width = width or value.shape[1]
        if width == value.shape[1]:
            return value
    rows = []
    for i, item in enumerate(value):
        rows.append(vector(item, f"{where}, utterance {i}"))
        width = width or len(rows[0])
        if len(rows[-1]) != width:
            raise bad_value(
                f"{where}, utterance {i}", rows[-1], f"be {width} wide as others: use one extractor for all"
            )
    return np.array(rows)


def vector(item: Any, where: str) -> np.ndarray:
    """One utterance's features, [width]."""
    if isinstance(item, list | tuple) and set(map(type, item)) <= {int, float, bool}:
        try:
            item = np.array(item, np.float64)
        except OverflowError:
            raise CorpusError(f"{where}: holds a number too large for a feature: correct it") from None
    if not isinstance(item, np.ndarray) or item.dtype.kind not in "fiub":
        raise bad_value(where, item, "be a vector of numbers: extract it again")
    flat: np.ndarray = item[0] if item.ndim == 2 and item.shape[0] == 1 else item
    if flat.ndim != 1 or not len(flat):
        raise bad_value(where, item, "be a vector: flatten it")
    return flat


def speaker_numbers(value: Any, where: str) -> list[int]:
    """Speakers of a dialogue, numbered in order of appearance: names, numbers, one-hot vectors."""
    order: dict[str, int] = {}  # numbers as text: large ones can be made to collide
    found = []
    for i, key in enumerate(items(value)):
        here = f"{where}, utterance {i}"
        if isinstance(key, list | tuple | np.ndarray):
            one_hot = vector(key, here)
            if np.count_nonzero(one_hot) != 1 or one_hot.max() != 1:
                raise bad_value(here, one_hot.tolist()[:9], "be a one-hot vector, with a single 1: correct it")
            key = int(one_hot.argmax())
        if not isinstance(key, str | bytes | int | float) or (isinstance(key, str) and not key.strip()):
            raise bad_value(here, key, "name the speaker: fill it in")
        found.append(order.setdefault(key if isinstance(key, str) else repr(key), len(order)))
    return found


def label_numbers(value: Any, dataset: Dataset, where: str) -> list[int]:
    """Labels of a dialogue, -1 for none, checked against the classes. Names count in any spelling."""
    found = []
    for i, given in enumerate(items(value)):
        label = dataset.label(given) if isinstance(given, str) else given
        if given is None or (isinstance(given, str) and not given.strip()):
            label = -1
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if type(label) is not int or not -1 <= label < len(dataset.classes):
            known = f"0 to {len(dataset.classes) - 1} ({', '.join(dataset.classes)}), or -1 for none"
            raise bad_value(f"{where}, utterance {i}", given, f"be a label of {dataset.name}, {known}: correct it")
        found.append(label)
    return found


def texts(value: Any, where: str) -> list[str]:
    """Sentences of a dialogue; bytes are latin1, as Python 2's text is."""
    found = []
    for i, text in enumerate(items(value)):
        if not isinstance(text, str | bytes):
            raise bad_value(f"{where}, utterance {i}", text, "be text: correct it")
        text = text.decode("latin1") if isinstance(text, bytes) else text
        found.append(text.encode("utf-8", "replace").decode())  # lone surrogates cannot be written
    return found
