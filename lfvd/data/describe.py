"""Tables of a corpus: splits, classes, dialogues, features, origin; and warnings where it differs from the published data.

`lfvd describe data/meld.safetensors`
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lfvd.config import MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.data.corpus import SPLITS, Corpus
from lfvd.data.simulate import STATISTICS

MELD_UTTERANCES = (9989, 1109, 2610)
"""Utterances of MELD's train, valid and test split as published (Poria et al., 2019)."""
IEMOCAP_UTTERANCES = (5810, 1623)
"""Utterances of IEMOCAP's six-class train and test split as published; validation is a part of train."""


def describe(corpus: Corpus) -> RenderableType:
    """Tables and warnings, to be printed by rich."""
    parts: list[RenderableType] = [
        _title(corpus),
        _splits(corpus),
        _classes(corpus),
        _dialogues(corpus),
        _features(corpus),
        _origin(corpus),
        *(Text(f"Warning: {text}", style="yellow") for text in warnings(corpus)),
    ]
    return Group(*parts)


def warnings(corpus: Corpus) -> list[str]:
    """Differences from the published data, empty splits and absent classes, a sentence each."""
    found = []
    counts = _utterances(corpus)
    if corpus.info.name == "MELD" and counts != MELD_UTTERANCES:
        found.append(
            f"MELD has {_slashed(counts)} utterances in train/valid/test, but {_slashed(MELD_UTTERANCES)} as published: "
            "compare results with published ones only where the splits are equal"
        )
    if corpus.info.name == "IEMOCAP" and (counts[0] + counts[1], counts[2]) != IEMOCAP_UTTERANCES:
        found.append(
            f"IEMOCAP has {counts[0] + counts[1]}/{counts[2]} utterances in train and valid/test, but "
            f"{_slashed(IEMOCAP_UTTERANCES)} as published: compare results with published ones only where the splits are equal"
        )
    found += _class_count_warnings(corpus)
    empty = [split for split, count in zip(SPLITS, counts, strict=True) if not count]
    if empty:
        found.append(
            f"there are no utterances in {', '.join(empty)}: a training run needs train and valid, a result test"
        )
    absent = (
        np.bincount(corpus.label[_rows(corpus, "train") & (corpus.label >= 0)], minlength=len(corpus.info.classes)) == 0
    )
    if absent.any():
        names = ", ".join(name for name, gone in zip(corpus.info.classes, absent, strict=True) if gone)
        found.append(f"train has no utterance of {names}: a model cannot learn what it never sees")
    return found


def _class_count_warnings(corpus: Corpus) -> list[str]:
    """Class counts that differ from the published ones although the numbers of utterances are equal."""
    published_statistics = STATISTICS.get(corpus.info.name.lower())
    if published_statistics is None or corpus.info.classes != published_statistics.classes:
        return []
    rows = {"train": ("train", "valid"), "test": ("test",)}
    if len(published_statistics.blocks) == len(SPLITS):
        rows = {split: (split,) for split in SPLITS}
    found = []
    for (name, splits), (_, published) in zip(rows.items(), published_statistics.blocks, strict=True):
        there = np.any([_rows(corpus, split) for split in splits], axis=0) & (corpus.label != UNLABELLED)
        counts = np.bincount(corpus.label[there], minlength=len(published))
        if counts.sum() == sum(published) and tuple(counts) != published:
            found.append(
                f"{' and '.join(splits)} has {_slashed(counts)} utterances of {', '.join(published_statistics.classes)}, but "
                f"{_slashed(published)} as published ({name}): the labels may be in another order"
            )
    return found


def _title(corpus: Corpus) -> Text:
    text = Text(corpus.info.name, style="bold")
    if corpus.info.simulated:
        text.append(f"   simulated: {', '.join(corpus.info.simulated)}", style="bold yellow")
    return text


def _splits(corpus: Corpus) -> Table:
    """Table 1 of the paper."""
    table = _table("Splits", "", *SPLITS, "all")
    dialogues = [len(corpus.indices(split)) for split in SPLITS]
    unlabelled = [int((_rows(corpus, split) & (corpus.label == UNLABELLED)).sum()) for split in SPLITS]
    utterances = _utterances(corpus)
    _add_counts(table, "dialogues", dialogues)
    _add_counts(table, "utterances", utterances)
    shares = [_share(u, n) for u, n in zip([*unlabelled, sum(unlabelled)], [*utterances, sum(utterances)], strict=True)]
    table.add_row("unlabelled", *shares)
    return table


def _classes(corpus: Corpus) -> Table:
    table = _table("Classes", "", *SPLITS, "all", "share")
    labelled = max(int((corpus.label != UNLABELLED).sum()), 1)
    for i, name in enumerate(corpus.info.classes):
        counts = [int((_rows(corpus, split) & (corpus.label == i)).sum()) for split in SPLITS]
        _add_counts(table, escape(name), counts, _share(sum(counts), labelled))
    return table


def _dialogues(corpus: Corpus) -> Table:
    """Quartiles of length and number of speakers over the dialogues."""
    table = _table("Dialogues", "a dialogue", "min", "25 %", "median", "75 %", "max", "mean")
    spans = list(zip(corpus.offset, corpus.offset[1:], strict=False))
    per_dialogue = {
        "utterances": np.diff(corpus.offset),
        "speakers": np.array([len(np.unique(corpus.speaker[start:end])) for start, end in spans]),
    }
    for name, values in per_dialogue.items():
        quartiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        table.add_row(name, *(f"{q:g}" for q in quartiles), f"{values.mean():.1f}")
    ends = [0, *corpus.info.length_bins, np.inf]
    counts = np.histogram(per_dialogue["utterances"], bins=[end + 0.5 for end in ends])[0]
    if corpus.info.length_bins:
        table.caption = f"{_bins(corpus.info.length_bins)} utterances: {_slashed(counts)} dialogues"
        table.caption_justify, table.caption_style = "left", "dim"
    return table


def _features(corpus: Corpus) -> Table:
    table = _table("Features", "modality", "width", "all-zero rows", "missing", "origin")
    zeroed = corpus.info.options.get("nan_to_zero")  # as the file says it, which may be anything
    for modality, name in MODALITY_NAMES.items():
        if modality not in corpus.features:
            table.add_row(name, "–", "–", "–", "absent", style="dim")
            continue
        flat = corpus.features[modality]
        zero = int((~flat.any(axis=1)).sum())
        simulated = name in corpus.info.simulated
        origin = "[bold yellow]simulated[/]" if simulated else "imported"
        count = zeroed.get(name, 0) if isinstance(zeroed, dict) else 0
        missing = _share(count if isinstance(count, int) else 0, flat.size)
        table.add_row(name, str(flat.shape[1]), _share(zero, len(flat)), missing, origin)
    return table


def _origin(corpus: Corpus) -> Table:
    table = Table(title="Origin", title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, digest in corpus.info.sources.items():
        table.add_row("source", Text(f"{name}  sha256 {digest[:12]}…"))
    for name, value in corpus.info.options.items():
        table.add_row("option", Text(f"{name} = {value}"))
    table.add_row("length bins", _bins(corpus.info.length_bins))
    table.add_row("fingerprint", corpus.fingerprint or "none: not saved yet")
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, min_width=12)
    for column in columns:
        table.add_column(column, justify="right", min_width=7)
    return table


def _add_counts(table: Table, name: str, counts: Sequence[int], *more: str) -> None:
    table.add_row(name, *(f"{count:,}" for count in [*counts, sum(counts)]), *more)


def _rows(corpus: Corpus, split: str) -> np.ndarray:
    """Which utterances belong to a split: [N] bool."""
    rows: np.ndarray = np.repeat(corpus.split == SPLITS.index(split), np.diff(corpus.offset))
    return rows


def _utterances(corpus: Corpus) -> tuple[int, ...]:
    return tuple(int(_rows(corpus, split).sum()) for split in SPLITS)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if part else "0 %"


def _slashed(counts: Sequence[int] | np.ndarray) -> str:
    return "/".join(str(count) for count in counts)


def _bins(ends: Sequence[int]) -> str:
    """Upper ends (5, 13) → "1-5, 6-13, 14 and more"."""
    if not ends:
        return "none"
    starts = [1, *(end + 1 for end in ends)]
    closed = [f"{start}-{end}" for start, end in zip(starts, ends, strict=False)]
    return ", ".join([*closed, f"{starts[-1]} and more"])
