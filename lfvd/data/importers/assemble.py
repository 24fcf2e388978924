"""Sources of any layout → one corpus: joined by dialogue, checked, split, features copied row by row into float32."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from lfvd.config import MODALITIES, MODALITY_NAMES
from lfvd.data.corpus import SPLITS, Corpus, CorpusError, CorpusInfo
from lfvd.data.datasets import IEMOCAP, MELD, repaired
from lfvd.data.importers.arrays import row_features
from lfvd.data.importers.pickles import drop_pages
from lfvd.data.importers.source import (
    FeatureSource,
    Values,
    item_count,
    label_numbers,
    speaker_numbers,
    texts,
    vectors,
)
from lfvd.data.importers.table import MELD_VALID
from lfvd.data.simulate import synthetic_features

SIMULATED = "simulated"
"""Given in place of a feature file: synthetic features from the labels (lfvd.data.simulate)."""
TextLayers = Literal["mean", "first", "concat"]
MELD_GONE = "60"
"""The one number of MELD (0 to 1432) that has no dialogue."""
_DROP = 2**24  # bytes read between two times that the pages of the file are freed


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


def build_corpus(sources: Sequence[FeatureSource], options: ImportOptions) -> tuple[Corpus, pd.DataFrame]:
    """The corpus, not yet saved, and its sentences (columns dialogue, position, sentence; no rows where there are none).

    Raises CorpusError, naming dialogue and utterance, for whatever does not fit.
    """
    base, labels = _label_source(sources)
    splits, drawn = _splits(base, sources, options)
    notes: dict[str, Any] = {"layout": "+".join(dict.fromkeys(s.layout for s in sources)), **drawn}
    # In the order of a table or of JSON files, those of pickles by id.
    ids = tuple(base.labels) if base.ordered else tuple(sorted(base.labels, key=natural_order))
    lengths = [item_count(base.labels[key]) or 0 for key in ids]
    speakers = [speaker_numbers(base.speakers[key], f"{base}: speaker of dialogue {key}") for key in ids]
    corpus = Corpus(
        info=CorpusInfo(
            name=base.dataset.name,
            classes=base.dataset.classes,
            dialogues=ids,
            simulated=tuple(MODALITY_NAMES[m] for m in MODALITIES if options.features.get(m) == SIMULATED),
            options=notes,
            length_bins=base.dataset.length_bins,
        ),
        features={},
        label=np.concatenate([np.array(labels[key], np.int64) for key in ids]),
        speaker=np.concatenate([np.array(part, np.int64) for part in speakers]),
        offset=np.cumsum([0, *lengths], dtype=np.int64),
        split=np.array([splits[key] for key in ids], np.int64),
    )
    for modality in MODALITIES:
        _add_features(corpus, modality, sources, base, options)
    if not corpus.features:
        raise CorpusError(f"{base}: holds no features, but must: give a file with --language, --audio or --visual")
    files = [file for source in sources for file in source.files]
    files += [Path(file) for file in options.features.values() if file != SIMULATED]
    corpus.info.sources.update(_digests(files))
    corpus.check_features(str(base), "correct them, or say --nan-to-zero")
    said = next((s for s in sources if s.sentences), base)
    rows = [
        (key, position, repaired(text))
        for key in ids
        for position, text in enumerate(texts(said.sentences.get(key, ()), f"{said}: sentence of dialogue {key}"))
    ]
    return corpus, pd.DataFrame(rows, columns=["dialogue", "position", "sentence"])


def natural_order(key: str) -> tuple[int, int, str]:
    """Sorts numbers by size, before names by alphabet."""
    return (0, int(key), "") if key.isdecimal() and len(key) <= 19 else (1, 0, key)


def _digests(files: Iterable[Path]) -> dict[str, str]:
    """File names → SHA-256; a name that is taken has its number before it."""
    digests: dict[str, str] = {}
    for file in files:
        with file.open("rb") as opened:
            name = f"{len(digests)}/{file.name}" if file.name in digests else file.name
            digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return digests


def _labels(source: FeatureSource, key: str) -> list[int]:
    return label_numbers(source.labels[key], source.dataset, f"{source}: label of dialogue {key}")


def _label_source(sources: Sequence[FeatureSource]) -> tuple[FeatureSource, dict[str, list[int]]]:
    """The first source that has labels and speakers, and dialogue → labels.

    All others must have the same dialogues, lengths and labels.
    """
    base = next((s for s in sources if s.labels and s.speakers), None)
    if base is None:
        raise CorpusError(f"{sources[0]}: has no labels and speakers, only features: name the file of labels with it")
    for source in sources:
        if missing := base.dialogues ^ source.dialogues:
            first = min(missing, key=natural_order)
            has, lacks = (base, source) if first in base.dialogues else (source, base)
            where = f"is in {has} and not in {lacks} (and {len(missing) - 1} more such)"
            raise CorpusError(f"dialogue {first} {where}: name files of the same data set")
    labels: dict[str, list[int]] = {}
    for key in sorted(base.labels, key=natural_order):
        length = item_count(base.labels[key])
        if not length:
            raise CorpusError(f"{base}: dialogue {key} has no list of labels, or an empty one: leave the dialogue out")
        for source in sources:
            _check_dialogue(source, key, length)
            if source.labels and key not in labels:
                labels[key] = _labels(base, key)
            if source is base or not source.labels:
                continue
            if (at := np.flatnonzero(np.not_equal(labels[key], _labels(source, key)))).size:
                where = f"dialogue {key}, utterance {at[0]} has other labels in {base} and {source}"
                raise CorpusError(f"{where}: name files of one data set")
    return base, labels


def _check_dialogue(source: FeatureSource, key: str, length: int) -> None:
    """All that a source holds of a dialogue must be as long as its labels."""
    values: list[tuple[str, Values]] = [("labels", source.labels), ("speakers", source.speakers)]
    values += [("sentences", source.sentences)]
    values += [(f"{MODALITY_NAMES[m]} vectors", layer) for m, layers in source.features.items() for layer in layers]
    for name, of in values:
        if of and (count := item_count(of.get(key))) != length:
            text = f"has {length} labels, but {count or 'no'} {name}: one of each is needed"
            raise CorpusError(f"{source}: dialogue {key} {text}")


def _splits(
    base: FeatureSource, sources: Sequence[FeatureSource], options: ImportOptions
) -> tuple[dict[str, int], dict[str, Any]]:
    """Dialogue → number of its split, and the options to record. A source that names validation dialogues is preferred.

    Where none does, they are told by MELD's numbering, or drawn from train by a seed. Raises CorpusError where a dialogue of
    `base` is in no split or in two, or a split names others.
    """
    named = [s for s in sources if s.splits]
    if not named:
        raise CorpusError(f"{base}: says nothing of train and test, but it must: name the file that does with it")
    source = next((s for s in named if "valid" in s.splits), named[0])
    found: dict[str, int] = {}
    for split, ids in source.splits.items():
        for key in ids:
            if key in found:
                where = f"is in {SPLITS[found[key]]} and in {split}"
                raise CorpusError(f"{source}: dialogue {key} {where}, but must be in one: correct it")
            found[key] = SPLITS.index(split)
    if source.dataset is MELD and MELD_GONE not in base.labels:
        found.pop(MELD_GONE, None)
    if missing := base.labels.keys() ^ found.keys():
        key = min(missing, key=natural_order)
        problem = "is in no split" if key in base.labels else "is in a split, but has no utterances"
        problem += f" (and {len(missing) - 1} more such)"
        raise CorpusError(f"{source}: dialogue {key} {problem}: correct the ids of the splits")
    if "valid" in source.splits:
        return found, {}
    train = sorted((key for key, split in found.items() if split == 0), key=natural_order)
    if source.dataset is MELD and (valid := [key for key in train if natural_order(key)[1] in MELD_VALID]):
        return found | dict.fromkeys(valid, SPLITS.index("valid")), {}
    if len(train) < 2:
        raise CorpusError(f"{source}: has {len(train)} train dialogues, but two are needed to choose validation from")
    drawn = np.random.default_rng(options.carve_seed).permutation(len(train))
    valid = [train[i] for i in drawn[: min(max(1, round(options.valid_fraction * len(train))), len(train) - 1)]]
    notes = {"valid_fraction": options.valid_fraction, "carve_seed": options.carve_seed}
    return found | dict.fromkeys(valid, SPLITS.index("valid")), notes


def _add_features(
    corpus: Corpus, modality: str, sources: Sequence[FeatureSource], base: FeatureSource, options: ImportOptions
) -> None:
    """Put a modality into the corpus, where it is given or a source has it, and note in its options what was done."""
    name, notes, given = MODALITY_NAMES[modality], corpus.info.options, options.features.get(modality)
    # Of several sources the one with the fewest modalities, as its maker meant that one.
    having = sorted((s for s in sources if modality in s.features), key=lambda s: len(s.features))
    if given == SIMULATED:
        if modality == "l" or base.dataset not in (MELD, IEMOCAP):
            text = f"cannot be simulated for {base.dataset.name}, only audio and visual ones of MELD and IEMOCAP"
            raise CorpusError(f"{base}: {name} features {text}: use `lfvd simulate`")
        notes["seed"] = options.seed
        flat = synthetic_features(corpus.label, base.dataset, modality=modality, seed=options.seed)
    elif given is not None:
        flat = _of_rows(Path(given), corpus, base.order)
    elif not having:
        return
    elif len(having) > 1 and len(having[0].features) == len(having[1].features):
        raise CorpusError(f"{name} features are in {having[0]} and in {having[1]}: name one of the files")
    else:
        if len(having[0].features[modality]) > 1:
            notes["text_layers"] = options.text_layers
        flat = _of_dialogues(having[0], modality, corpus, options.text_layers)
    if options.nan_to_zero and not (finite := np.isfinite(flat)).all():
        flat[~finite] = 0.0
        notes.setdefault("nan_to_zero", {})[name] = int((~finite).sum())
    corpus.features[modality] = flat


def _of_dialogues(source: FeatureSource, modality: str, corpus: Corpus, text_layers: TextLayers) -> np.ndarray:
    """Features by dialogue → [N, width] float32."""
    layers = source.features[modality][: 1 if text_layers == "first" else None]
    flat, width, copied = np.empty(0, np.float32), 0, 0
    for key, start, end in zip(corpus.info.dialogues, corpus.offset, corpus.offset[1:], strict=False):
        parts = []
        for layer in layers:
            parts.append(vectors(layer[key], width, f"{source}: {MODALITY_NAMES[modality]} of dialogue {key}"))
            width = parts[0].shape[1]
        if not start:
            flat = np.empty((len(corpus.label), width * (len(layers) if text_layers == "concat" else 1)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows float32 is infinite, and refused as such
            if text_layers == "concat" or len(layers) == 1:
                flat[start:end] = np.concatenate(parts, axis=1)
            else:
                flat[start:end] = np.mean(parts, axis=0, dtype=np.float64)
        copied += sum(part.nbytes for part in parts)
        if copied > _DROP:
            copied, value = 0, layers[0][key]
            drop_pages(value if isinstance(value, np.ndarray) else value[0])
    return flat


def _of_rows(file: Path, corpus: Corpus, order: np.ndarray | None) -> np.ndarray:
    """Features in order of rows → [N, width] float32. Where they are by split, a split's rows follow its dialogues' order."""
    place = {"": np.arange(len(corpus.label)), **{split: corpus.rows(split) for split in SPLITS}}
    parts = row_features(file, {split: len(place[split]) for split in SPLITS})
    flat = np.empty((len(corpus.label), next(iter(parts.values())).shape[1]), np.float32)
    with np.errstate(over="ignore"):
        for split, part in parts.items():
            here = place[split]
            flat[here if order is None else here[np.argsort(order[here])]] = part
    return flat
