"""Tables of a corpus: splits, classes, dialogues, features, origin; and warnings where it differs from the published data.

`lfvd describe data/meld.safetensors`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lfvd.config import MODALITY_NAMES
from lfvd.data.corpus import SPLITS, Corpus
from lfvd.data.datasets import IEMOCAP, MELD, Dataset


def describe(corpus: Corpus) -> RenderableType:
    """Tables and warnings, to be printed by rich."""
    title = Text(corpus.info.name, style="bold")
    if corpus.info.simulated:
        title.append(f"   simulated: {', '.join(corpus.info.simulated)}", style="bold yellow")
    tables = (*_counts(corpus), _dialogues(corpus), _features(corpus), _origin(corpus))
    return Group(title, *tables, *(Text(f"Warning: {text}", style="yellow") for text in warnings(corpus)))


def warnings(corpus: Corpus) -> list[str]:
    """Differences from the published data, empty splits and absent classes, a sentence each."""
    counts = _by_split_and_class(corpus)
    found = [text for each in (MELD, IEMOCAP) if each.name == corpus.info.name for text in _differences(corpus, each)]
    if empty := [split for split, row in zip(SPLITS, counts, strict=True) if not row.any()]:
        found.append(
            f"there are no utterances in {', '.join(empty)}: a training run needs train and valid, a result test"
        )
    if absent := [name for name, count in zip(corpus.info.classes, counts[0], strict=False) if not count]:
        found.append(f"train has no utterance of {', '.join(absent)}: a model cannot learn what it never sees")
    return found


def _differences(corpus: Corpus, dataset: Dataset) -> list[str]:
    """Numbers of utterances that differ from the published ones, and class counts that do although the sums are equal."""
    counts, found = _by_split_and_class(corpus), []
    parts = {
        " and ".join(splits): (counts[[SPLITS.index(split) for split in splits]].sum(axis=0), published)
        for splits, (_, published) in dataset.published.items()
    }
    here, there = ([int(sum(part[i])) for part in parts.values()] for i in (0, 1))
    if here != there:
        found.append(
            f"{dataset.name} has {_slashed(here)} utterances in {'/'.join(parts)}, but {_slashed(there)} as published: "
            "compare results with published ones only where the splits are equal"
        )
    for name, (count, published) in parts.items() if corpus.info.classes == dataset.classes else ():
        if sum(count[:-1]) == sum(published) and tuple(count[:-1]) != published:
            found.append(
                f"{name} has {_slashed(count[:-1])} utterances of {', '.join(dataset.classes)}, but "
                f"{_slashed(published)} as published: the labels may be in another order"
            )
    return found


def _by_split_and_class(corpus: Corpus) -> np.ndarray:
    """Utterances of each split and class, those without a label in the last column: [3, c + 1]."""
    columns = len(corpus.info.classes) + 1
    place = np.repeat(corpus.split, np.diff(corpus.offset)) * columns + corpus.label % columns  # -1: the last column
    return np.bincount(place, minlength=len(SPLITS) * columns).reshape(len(SPLITS), columns)


def _counts(corpus: Corpus) -> tuple[Table, Table]:
    """Splits (Table 1 of the paper) and classes."""
    splits, classes = _table("Splits", "", *SPLITS, "all"), _table("Classes", "", *SPLITS, "all", "share")
    counts = _by_split_and_class(corpus)

    def add(table: Table, name: str, row: np.ndarray, *more: str) -> None:
        table.add_row(name, *(f"{count:,}" for count in [*row, row.sum()]), *more)

    add(splits, "dialogues", np.bincount(corpus.split, minlength=len(SPLITS)))
    add(splits, "utterances", counts.sum(axis=1))
    unlabelled, whole = ([*row, row.sum()] for row in (counts[:, -1], counts.sum(axis=1)))
    splits.add_row("unlabelled", *map(_share, unlabelled, whole))
    for name, row in zip(corpus.info.classes, counts.T, strict=False):
        add(classes, escape(name), row, _share(row.sum(), counts[:, :-1].sum()))
    return splits, classes


def _dialogues(corpus: Corpus) -> Table:
    """Quartiles of length and number of speakers over the dialogues."""
    table = _table("Dialogues", "a dialogue", "min", "25 %", "median", "75 %", "max", "mean")
    length = np.diff(corpus.offset)
    speakers = [len(np.unique(part)) for part in np.split(corpus.speaker, corpus.offset[1:-1])]
    for name, values in (("utterances", length), ("speakers", speakers)):
        quartiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        table.add_row(name, *(f"{q:g}" for q in quartiles), f"{np.mean(values):.1f}")
    if bins := corpus.info.length_bins:
        counts = np.histogram(length, bins=[end + 0.5 for end in (0, *bins, np.inf)])[0]
        table.caption = f"{_bins(bins)} utterances: {_slashed(counts)} dialogues"
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
        origin = "[bold yellow]simulated[/]" if name in corpus.info.simulated else "imported"
        count = zeroed.get(name, 0) if isinstance(zeroed, dict) else 0
        missing = _share(count if isinstance(count, int) else 0, flat.size)
        table.add_row(name, str(flat.shape[1]), _share(int((~flat.any(axis=1)).sum()), len(flat)), missing, origin)
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


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if part else "0 %"


def _slashed(counts: Iterable[int]) -> str:
    return "/".join(str(count) for count in counts)


def _bins(ends: Sequence[int]) -> str:
    """Upper ends (5, 13) → "1-5, 6-13, 14 and more"."""
    starts = [1, *(end + 1 for end in ends)]
    closed = [f"{start}-{end}" for start, end in zip(starts, ends, strict=False)]
    return ", ".join([*closed, f"{starts[-1]} and more"]) if ends else "none"
