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
from lfvd.data.importers.datasets import IEMOCAP, MELD, repaired, sha256
from lfvd.data.importers.pickles import drop_pages
from lfvd.data.importers.source import (
    FeatureSource,
    fill_layers,
    item_count,
    label_numbers,
    second,
    speaker_numbers,
    texts,
    utterance_ids,
    width_of,
)
from lfvd.data.importers.splits import natural_order, split_of_dialogues
from lfvd.data.simulate import synthetic_features

SIMULATED = "simulated"
"""Given in place of a feature file: synthetic features from the labels (lfvd.data.simulate)."""
TextLayers = Literal["mean", "first", "concat"]
_DROP = 2**25  # bytes read between two times that the pages of the file are freed


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
class DialogueIndex:
    """Ids, labels, speakers and splits of all dialogues in the order of the corpus."""

    ids: tuple[str, ...]
    label: np.ndarray
    speaker: np.ndarray
    offset: np.ndarray
    split: np.ndarray
    source: FeatureSource

    def name(self, row: int) -> str:
        """`dialogue 17, utterance 3` for a row."""
        dialogue = int(np.searchsorted(self.offset, row, side="right")) - 1
        return f"dialogue {self.ids[dialogue]}, utterance {row - int(self.offset[dialogue])}"


def build_corpus(
    sources: Sequence[FeatureSource], options: ImportOptions, order: np.ndarray | None = None
) -> tuple[Corpus, pd.DataFrame]:
    """The corpus, not yet saved, and its sentences (columns dialogue, position, sentence; no rows where there are none).

    `order`: which row of a feature file each utterance has, [N], where it is not their own order. Raises CorpusError, naming
    dialogue and utterance, for whatever does not fit.
    """
    labelled = label_source(sources)
    splits, drawn = split_of_dialogues(
        labelled, sources, valid_fraction=options.valid_fraction, seed=options.carve_seed
    )
    index = _index(labelled, splits)
    notes: dict[str, Any] = {"layout": "+".join(dict.fromkeys(s.layout for s in sources)), **drawn}
    features: dict[str, np.ndarray] = {}
    chosen = {m: _source_of(m, sources) for m in MODALITIES if m not in options.features}
    for modality in MODALITIES:
        given = options.features.get(modality)
        if given == SIMULATED:
            features[modality] = _simulated(index, modality, options.seed)
            notes["seed"] = options.seed
        elif given is not None:
            features[modality] = _of_rows(Path(given), index, order)
        elif (source := chosen[modality]) is not None:
            features[modality] = _of_dialogues(source, modality, index, options)
            if len(source.features[modality]) > 1:
                notes["text_layers"] = options.text_layers
    if not features:
        raise CorpusError(
            f"{labelled}: holds no features, but a corpus needs some: give a file with --language, --audio or --visual"
        )
    zeroed = {MODALITY_NAMES[m]: _zero_bad_values(flat, m, index, options) for m, flat in features.items()}
    if options.nan_to_zero:
        notes["nan_to_zero"] = {name: count for name, count in zeroed.items() if count}
    corpus = Corpus(
        info=CorpusInfo(
            name=labelled.dataset.name,
            classes=labelled.dataset.classes,
            dialogues=index.ids,
            simulated=tuple(MODALITY_NAMES[m] for m in features if options.features.get(m) == SIMULATED),
            sources=_digests(sources, options),
            options=notes,
            length_bins=labelled.dataset.length_bins,
        ),
        features=features,
        label=index.label,
        speaker=index.speaker,
        offset=index.offset,
        split=index.split,
    )
    return corpus, _sentences(sources, index)


def _digests(sources: Sequence[FeatureSource], options: ImportOptions) -> dict[str, str]:
    """File names → SHA-256; a feature file whose name is taken has its modality before it."""
    digests: dict[str, str] = {}
    for file in (file for source in sources for file in source.files):
        digests[file.name if file.name not in digests else f"{len(digests)}/{file.name}"] = sha256(file)
    for modality, file in ((m, Path(f)) for m, f in options.features.items() if f != SIMULATED):
        name = file.name if file.name not in digests else f"{MODALITY_NAMES[modality]}/{file.name}"
        digests[name] = sha256(file)
    return digests


def label_source(sources: Sequence[FeatureSource]) -> FeatureSource:
    """The first source that has labels and speakers. All others must have the same dialogues and labels."""
    labelled = [s for s in sources if s.labels and s.speakers]
    if not labelled:
        raise CorpusError(f"{sources[0]}: has no labels and speakers, only features: name the file of labels with it")
    for source in sources:
        if missing := labelled[0].dialogues ^ source.dialogues:
            first = min(missing, key=natural_order)
            has, lacks = (labelled[0], source) if first in labelled[0].dialogues else (source, labelled[0])
            raise CorpusError(
                f"dialogue {first} is in {has} and not in {lacks} (and {len(missing) - 1} more such): "
                "name files of the same data set"
            )
    for source in labelled[1:]:
        _check_same_labels(labelled[0], source)
    return labelled[0]


def _check_same_labels(base: FeatureSource, other: FeatureSource) -> None:
    for key in sorted(base.labels, key=natural_order):
        one, two = (label_numbers(s.labels[key], s.dataset, f"{s}: label of dialogue {key}") for s in (base, other))
        if one != two:
            i = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
            raise CorpusError(
                f"dialogue {key}, utterance {i} has other labels in {base} and {other}: name files of one data set"
            )


def _index(source: FeatureSource, splits: Mapping[str, int]) -> DialogueIndex:
    """Dialogues in the order of a table or of JSON files, those of pickles by id."""
    ids = tuple(source.labels) if source.ordered else tuple(sorted(source.labels, key=natural_order))
    for key in ids:
        _check_lengths(source, key, item_count(source.labels[key]))
    labels = [label_numbers(source.labels[key], source.dataset, f"{source}: label of dialogue {key}") for key in ids]
    speakers = [speaker_numbers(source.speakers[key], f"{source}: speaker of dialogue {key}") for key in ids]
    return DialogueIndex(
        ids=ids,
        label=np.concatenate([np.array(part, np.int64) for part in labels]),
        speaker=np.concatenate([np.array(part, np.int64) for part in speakers]),
        offset=np.cumsum([0, *(len(part) for part in labels)], dtype=np.int64),
        split=np.array([splits[key] for key in ids], np.int64),
        source=source,
    )


def _check_lengths(source: FeatureSource, key: str, length: int | None) -> None:
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


def _source_of(modality: str, sources: Sequence[FeatureSource]) -> FeatureSource | None:
    """Where a modality is taken from: of several sources the one with the fewest modalities, as its maker meant that one."""
    having = sorted((s for s in sources if modality in s.features), key=lambda s: len(s.features))
    if len(having) > 1 and len(having[0].features) == len(having[1].features):
        raise CorpusError(
            f"{MODALITY_NAMES[modality]} features are in {having[0]} and in {having[1]}: name one of the files"
        )
    return having[0] if having else None


def _of_dialogues(source: FeatureSource, modality: str, index: DialogueIndex, options: ImportOptions) -> np.ndarray:
    """Features by dialogue → [N, width] float32."""
    layers = source.features[modality]
    if len(layers) > 1 and options.text_layers == "first":
        layers = layers[:1]
    lengths = np.diff(index.offset)
    for layer in layers:
        for key, length in zip(index.ids, lengths, strict=True):
            count = item_count(layer[key]) if key in layer else None
            if count != length:
                where = _where(source, modality, key)
                raise CorpusError(f"{where}: has {count or 'no'} vectors, but {length} labels: extract it again")
    width = width_of(layers[0][index.ids[0]], _where(source, modality, index.ids[0]))
    columns = width * len(layers) if options.text_layers == "concat" else width
    flat, copied = np.empty((len(index.label), columns), np.float32), 0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is infinite, and refused as such
        for key, start, end in zip(index.ids, index.offset, index.offset[1:], strict=False):
            values = [layer[key] for layer in layers]
            fill_layers(flat[start:end], values, width, _where(source, modality, key))
            copied += 8 * (end - start) * width * len(layers)
            if copied > _DROP:
                copied = 0
                drop_pages(values[0] if isinstance(values[0], np.ndarray) else values[0][0])
    return flat


def _where(source: FeatureSource, modality: str, key: str) -> str:
    return f"{source}: {MODALITY_NAMES[modality]} of dialogue {key}"


def _of_rows(file: Path, index: DialogueIndex, order: np.ndarray | None) -> np.ndarray:
    """Features in order of rows → [N, width] float32. Where they are by split, a split's rows follow its dialogues' order."""
    row_split = np.repeat(index.split, np.diff(index.offset))
    rows = {split: int((row_split == i).sum()) for i, split in enumerate(SPLITS)}
    parts = row_features(file, rows)
    source_row = np.arange(len(row_split)) if order is None else order
    flat = np.empty((len(row_split), next(iter(parts.values())).shape[1]), np.float32)
    with np.errstate(over="ignore"):
        for split, part in parts.items():
            here = np.flatnonzero(row_split == SPLITS.index(split)) if split else np.arange(len(row_split))
            flat[here[np.argsort(source_row[here])]] = part
    return flat


def _simulated(index: DialogueIndex, modality: str, seed: int) -> np.ndarray:
    dataset = index.source.dataset
    if modality == "l" or dataset not in (MELD, IEMOCAP):
        raise CorpusError(
            f"{index.source}: {MODALITY_NAMES[modality]} features cannot be simulated for {dataset.name}, only audio and "
            "visual ones of MELD and IEMOCAP: use `lfvd simulate`"
        )
    return synthetic_features(index.label, like="meld" if dataset is MELD else "iemocap", modality=modality, seed=seed)


def _zero_bad_values(flat: np.ndarray, modality: str, index: DialogueIndex, options: ImportOptions) -> int:
    """How many values are NaN or infinite; they are set to 0, or refused."""
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if bad.size and not options.nan_to_zero:
        raise CorpusError(
            f"{index.source}: {MODALITY_NAMES[modality]} features of {index.name(bad[0])} are NaN or infinite "
            f"(and of {len(bad) - 1} more utterances), but must be finite: correct them, or say --nan-to-zero"
        )
    count = 0
    for row in bad:
        wrong = ~np.isfinite(flat[row])
        flat[row, wrong] = 0.0
        count += int(wrong.sum())
    return count


def _sentences(sources: Sequence[FeatureSource], index: DialogueIndex) -> pd.DataFrame:
    source = next((s for s in sources if s.sentences), None)
    rows: list[tuple[str, int, str]] = []
    if source is not None:
        for key, length in zip(index.ids, np.diff(index.offset), strict=True):
            found = texts(source.sentences.get(key, ()), f"{source}: sentence of dialogue {key}")
            if len(found) != length:
                raise CorpusError(
                    f"{source}: dialogue {key} has {len(found)} sentences, but {length} labels: one of each is needed"
                )
            rows += [(key, position, repaired(text)) for position, text in enumerate(found)]
    return pd.DataFrame(rows, columns=["dialogue", "position", "sentence"])
