"""Sources of any layout → one corpus: joined by dialogue, checked, split, features copied row by row into float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lfvd.config import MODALITIES, MODALITY_NAMES
from lfvd.data.corpus import SPLITS, Corpus, CorpusError, CorpusInfo
from lfvd.data.importers.arrays import row_features
from lfvd.data.importers.datasets import IEMOCAP, MELD, MELD_GONE, MELD_VALID, repaired, sha256
from lfvd.data.importers.pickles import drop_pages
from lfvd.data.importers.source import (
    Source,
    Values,
    fill,
    item_count,
    label_numbers,
    second,
    speaker_numbers,
    texts,
    utterance_ids,
    width_of,
)
from lfvd.data.simulate import stand_in

SIMULATED = "simulated"
"""Given in place of a feature file: make stand-ins from the labels (lfvd.data.simulate)."""
TextLayers = Literal["mean", "first", "concat"]
_DROP = 2**25  # bytes read between two times that the file's pages are given back
_MAX_DIGITS = 19  # of a dialogue's number


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What the user can choose."""

    text_layers: TextLayers = "mean"
    """Of a text's four RoBERTa layers: their mean, the last layer alone (`first` in the file), or all side by side."""
    valid_fraction: float = 0.1
    """Share of the train dialogues that becomes the validation split where a source names none."""
    carve_seed: int = 0
    """Seed of that choice."""
    nan_to_zero: bool = False
    """NaN and infinite values become 0 and are counted, instead of being refused."""
    seed: int = 0
    """Seed of simulated features."""
    features: Mapping[str, str] = field(default_factory=dict)
    """Modality → file of its features in order of rows, or `simulated`."""

    def __post_init__(self) -> None:
        """Raises CorpusError for a value out of range."""
        if not 0 < self.valid_fraction < 1:
            raise CorpusError(f"--valid-fraction is {self.valid_fraction}, but must lie between 0 and 1: try 0.1")
        if self.carve_seed < 0:
            raise CorpusError(f"--carve-seed is {self.carve_seed}, but must be at least 0: try {-self.carve_seed}")


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The dialogues of the corpus in their order, before features."""

    ids: tuple[str, ...]
    label: np.ndarray
    speaker: np.ndarray
    offset: np.ndarray
    split: np.ndarray
    where: str

    def name(self, row: int) -> str:
        """`dialogue 17, utterance 3` for a row."""
        dialogue = int(np.searchsorted(self.offset, row, side="right")) - 1
        return f"dialogue {self.ids[dialogue]}, utterance {row - int(self.offset[dialogue])}"


def assembled(
    sources: Sequence[Source], options: ImportOptions, order: np.ndarray | None = None
) -> tuple[Corpus, pd.DataFrame]:
    """The corpus, not yet saved, and its sentences (columns dialogue, position, sentence; no rows where there are none).

    `order`: which row of a feature file each utterance has, [N], where it is not their own order. Raises CorpusError, naming
    dialogue and utterance, for whatever does not fit.
    """
    base = _base(sources)
    notes: dict[str, Any] = {"layout": "+".join(dict.fromkeys(s.layout for s in sources))}
    frame = _frame(base, sources, options, notes)
    features: dict[str, np.ndarray] = {}
    digests: dict[str, str] = {}
    chosen = {m: _source_of(m, sources) for m in MODALITIES if m not in options.features}
    for modality in MODALITIES:
        given = options.features.get(modality)
        if given == SIMULATED:
            features[modality] = _stand_in(base, frame, modality, options.seed)
            notes["seed"] = options.seed
        elif given is not None:
            features[modality] = _of_rows(Path(given), frame, order)
        elif (source := chosen[modality]) is not None:
            features[modality] = _of_dialogues(source, modality, frame, options)
            if len(source.features[modality]) > 1:
                notes["text_layers"] = options.text_layers
    if not features:
        raise CorpusError(
            f"{base}: holds no features, but a corpus needs some: give a file with --language, --audio or --visual"
        )
    zeroed = {MODALITY_NAMES[m]: _finite(flat, m, frame, options) for m, flat in features.items()}
    if options.nan_to_zero:
        notes["nan_to_zero"] = {name: count for name, count in zeroed.items() if count}
    for file in [f for s in sources for f in s.files] + [Path(f) for f in options.features.values() if f != SIMULATED]:
        digests[file.name if file.name not in digests else str(len(digests)) + "/" + file.name] = sha256(file)
    corpus = Corpus(
        info=CorpusInfo(
            name=base.dataset.name,
            classes=base.dataset.classes,
            dialogues=frame.ids,
            simulated=tuple(MODALITY_NAMES[m] for m in features if options.features.get(m) == SIMULATED),
            sources=digests,
            options=notes,
            length_bins=base.dataset.length_bins,
        ),
        features=features,
        label=frame.label,
        speaker=frame.speaker,
        offset=frame.offset,
        split=frame.split,
    )
    return corpus, _sentences(sources, frame)


def _base(sources: Sequence[Source]) -> Source:
    """The source of labels and speakers: the first that has them. All others must have the same dialogues and labels."""
    labelled = [s for s in sources if s.labels and s.speakers]
    if not labelled:
        raise CorpusError(f"{sources[0]}: has no labels and speakers, only features: name the file of labels with it")
    base = labelled[0]
    for source in sources:
        if missing := base.dialogues ^ source.dialogues:
            first = min(missing, key=_natural)
            has, lacks = (base, source) if first in base.dialogues else (source, base)
            raise CorpusError(
                f"dialogue {first} is in {has} and not in {lacks} (and {len(missing) - 1} more such): "
                "name files of the same data set"
            )
    for source in labelled[1:]:
        _same_labels(base, source)
    return base


def _same_labels(base: Source, other: Source) -> None:
    for key in sorted(base.labels, key=_natural):
        one, two = (label_numbers(s.labels[key], s.dataset, f"{s}: label of dialogue {key}") for s in (base, other))
        if one != two:
            i = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
            raise CorpusError(
                f"dialogue {key}, utterance {i} has other labels in {base} and {other}: name files of one data set"
            )


def _natural(key: str) -> tuple[int, int, str]:
    """Numbers by size, before names by alphabet."""
    return (0, int(key), "") if key.isdecimal() and len(key) <= _MAX_DIGITS else (1, 0, key)


# Dialogues.


def _frame(base: Source, sources: Sequence[Source], options: ImportOptions, notes: dict[str, Any]) -> _Frame:
    splits = _splits(base, sources, options, notes)
    ids = tuple(sorted(base.labels, key=_natural)) if base.layout not in ("table", "J", "J1") else tuple(base.labels)
    lengths = {key: item_count(base.labels[key]) for key in ids}
    for key, length in lengths.items():
        _check_lengths(base, key, length)
    labels = [label_numbers(base.labels[key], base.dataset, f"{base}: label of dialogue {key}") for key in ids]
    speakers = [speaker_numbers(base.speakers[key], f"{base}: speaker of dialogue {key}") for key in ids]
    return _Frame(
        ids=ids,
        label=np.concatenate([np.array(part, np.int64) for part in labels]),
        speaker=np.concatenate([np.array(part, np.int64) for part in speakers]),
        offset=np.cumsum([0, *(len(part) for part in labels)], dtype=np.int64),
        split=np.array([splits[key] for key in ids], np.int64),
        where=str(base),
    )


def _check_lengths(source: Source, key: str, length: int | None) -> None:
    """Speakers, sentences and utterance ids must be as many as labels."""
    if not length:
        raise CorpusError(f"{source}: dialogue {key} has no list of labels, or an empty one: leave the dialogue out")
    for name, values in {"speakers": source.speakers, "sentences": source.sentences, "ids": source.utterances}.items():
        count = item_count(values[key]) if key in values else None
        if values and count != length:
            raise CorpusError(
                f"{source}: dialogue {key} has {length} labels, but {count or 'no'} {name}: one of each is needed"
            )
    ids = utterance_ids(source.utterances.get(key, ()), f"{source}: id of dialogue {key}")
    if (i := second(ids)) is not None:
        raise CorpusError(
            f"{source}: dialogue {key}, utterance {i} has the id {ids[i]} of one before: remove one of them"
        )


def _splits(base: Source, sources: Sequence[Source], options: ImportOptions, notes: dict[str, Any]) -> dict[str, int]:
    """Dialogue → number of its split. A source that names validation dialogues wins over one that does not."""
    named = [s for s in sources if s.splits]
    if not named:
        raise CorpusError(f"{base}: says nothing of train and test, but it must: name the file that does with it")
    source = next((s for s in named if "valid" in s.splits), named[0])
    found: dict[str, int] = {}
    for split, ids in source.splits.items():
        for key in ids:
            if key in found:
                raise CorpusError(
                    f"{source}: dialogue {key} is in {SPLITS[found[key]]} and in {split}, but must be in one: correct it"
                )
            found[key] = SPLITS.index(split)
    if source.dataset is MELD and MELD_GONE not in base.labels:
        found.pop(MELD_GONE, None)
    if missing := base.labels.keys() ^ found.keys():
        key = min(missing, key=_natural)
        problem = "is in no split" if key in base.labels else "is in a split, but has no utterances"
        raise CorpusError(
            f"{source}: dialogue {key} {problem} (and {len(missing) - 1} more such): correct the ids of the splits"
        )
    if "valid" not in source.splits:
        _add_valid(found, source, options, notes)
    return found


def _add_valid(found: dict[str, int], source: Source, options: ImportOptions, notes: dict[str, Any]) -> None:
    """Validation dialogues out of train: MELD's own by number, or whole dialogues drawn by a seed."""
    train = sorted((key for key, split in found.items() if split == 0), key=_natural)
    valid = [key for key in train if source.dataset is MELD and _natural(key)[1] in MELD_VALID]
    if not valid:
        if len(train) < 2:
            raise CorpusError(
                f"{source}: has {len(train)} train dialogues, but two are needed to choose validation from"
            )
        drawn = np.random.default_rng(options.carve_seed).permutation(len(train))
        valid = [train[i] for i in drawn[: min(max(1, round(options.valid_fraction * len(train))), len(train) - 1)]]
        notes.update(valid_fraction=options.valid_fraction, carve_seed=options.carve_seed)
    found.update(dict.fromkeys(valid, SPLITS.index("valid")))


# Features.


def _source_of(modality: str, sources: Sequence[Source]) -> Source | None:
    """Where a modality is taken from: of several sources the one with the fewest modalities, as its maker meant that one."""
    having = sorted((s for s in sources if modality in s.features), key=lambda s: len(s.features))
    if len(having) > 1 and len(having[0].features) == len(having[1].features):
        raise CorpusError(
            f"{MODALITY_NAMES[modality]} features are in {having[0]} and in {having[1]}: name one of the files"
        )
    return having[0] if having else None


def _of_dialogues(source: Source, modality: str, frame: _Frame, options: ImportOptions) -> np.ndarray:
    """Features by dialogue → [N, width] float32."""
    layers = source.features[modality]
    if len(layers) > 1 and options.text_layers == "first":
        layers = layers[:1]
    lengths = np.diff(frame.offset)
    for layer in layers:
        for key, length in zip(frame.ids, lengths, strict=True):
            _check_count(source, modality, layer, key, int(length))
    width = width_of(layers[0][frame.ids[0]], _where(source, modality, frame.ids[0]))
    columns = width * len(layers) if options.text_layers == "concat" else width
    flat, copied = np.empty((len(frame.label), columns), np.float32), 0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is infinite, and refused as such
        for key, start, end in zip(frame.ids, frame.offset, frame.offset[1:], strict=False):
            values = [layer[key] for layer in layers]
            _combine(flat[start:end], values, width, _where(source, modality, key))
            copied += 8 * (end - start) * width * len(layers)
            if copied > _DROP:
                copied = 0
                drop_pages(values[0] if isinstance(values[0], np.ndarray) else values[0][0])
    return flat


def _combine(rows: np.ndarray, layers: Sequence[Any], width: int, where: str) -> None:
    """Write a dialogue's layers into its rows: side by side where they are wide enough, else their mean."""
    if rows.shape[1] == width * len(layers):
        for i, layer in enumerate(layers):
            fill(rows[:, i * width : (i + 1) * width], layer, where)
        return
    total, part = np.zeros(rows.shape), np.empty(rows.shape)
    for layer in layers:
        fill(part, layer, where)
        total += part
    rows[:] = total / len(layers)


def _check_count(source: Source, modality: str, layer: Values, key: str, length: int) -> None:
    count = item_count(layer[key]) if key in layer else None
    if count != length:
        raise CorpusError(
            f"{_where(source, modality, key)}: has {count or 'no'} vectors, but {length} labels: extract it again"
        )


def _where(source: Source, modality: str, key: str) -> str:
    return f"{source}: {MODALITY_NAMES[modality]} of dialogue {key}"


def _of_rows(file: Path, frame: _Frame, order: np.ndarray | None) -> np.ndarray:
    """Features in order of rows → [N, width] float32. Where they are by split, a split's rows follow its dialogues' order."""
    row_split = np.repeat(frame.split, np.diff(frame.offset))
    rows = {split: int((row_split == i).sum()) for i, split in enumerate(SPLITS)}
    parts = row_features(file, rows)
    source_row = np.arange(len(row_split)) if order is None else order
    flat = np.empty((len(row_split), next(iter(parts.values())).shape[1]), np.float32)
    with np.errstate(over="ignore"):
        for split, part in parts.items():
            here = np.flatnonzero(row_split == SPLITS.index(split)) if split else np.arange(len(row_split))
            flat[here[np.argsort(source_row[here])]] = part
    return flat


def _stand_in(base: Source, frame: _Frame, modality: str, seed: int) -> np.ndarray:
    if modality == "l" or base.dataset not in (MELD, IEMOCAP):
        raise CorpusError(
            f"{base}: {MODALITY_NAMES[modality]} features cannot be simulated for {base.dataset.name}, only audio and visual "
            "ones of MELD and IEMOCAP: use `lfvd simulate`"
        )
    return stand_in(frame.label, like="meld" if base.dataset is MELD else "iemocap", modality=modality, seed=seed)


def _finite(flat: np.ndarray, modality: str, frame: _Frame, options: ImportOptions) -> int:
    """How many values are NaN or infinite; they are set to 0, or refused."""
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size and not options.nan_to_zero:
        raise CorpusError(
            f"{frame.where}: {MODALITY_NAMES[modality]} features of {frame.name(bad[0])} are NaN or infinite "
            f"(and of {len(bad) - 1} more utterances), but must be finite: correct them, or say --nan-to-zero"
        )
    count = 0
    for row in bad:
        wrong = ~np.isfinite(flat[row])
        flat[row, wrong] = 0.0
        count += int(wrong.sum())
    return count


def _sentences(sources: Sequence[Source], frame: _Frame) -> pd.DataFrame:
    source = next((s for s in sources if s.sentences), None)
    rows: list[tuple[str, int, str]] = []
    if source is not None:
        for key, length in zip(frame.ids, np.diff(frame.offset), strict=True):
            found = _checked_texts(source, key, int(length))
            rows += [(key, position, repaired(text)) for position, text in enumerate(found)]
    return pd.DataFrame(rows, columns=["dialogue", "position", "sentence"])


def _checked_texts(source: Source, key: str, length: int) -> list[str]:
    found = texts(source.sentences.get(key, ()), f"{source}: sentence of dialogue {key}")
    if len(found) != length:
        raise CorpusError(
            f"{source}: dialogue {key} has {len(found)} sentences, but {length} labels: one of each is needed"
        )
    return found
