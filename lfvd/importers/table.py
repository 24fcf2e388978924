"""The plain way in: a table of utterances (CSV or parquet), with features as one `.npy` or `.npz` a modality in its order of rows.

Columns `dialogue`, `speaker`, `label` and `split` (train, valid or dev, test); where there, `position` (a number that rises within
the dialogue) and `text`. A label is a class name or a number; an empty one or -1 is none. Features: see lfvd.importers.arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lfvd.corpus import CorpusError
from lfvd.importers.datasets import Dataset, dataset_of
from lfvd.importers.source import Source

COLUMNS = ("dialogue", "speaker", "label", "split")
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


def table_source(file: Path, classes: Sequence[str] = ()) -> tuple[Source, np.ndarray]:
    """A table, and for each row of it in order of dialogue and position, which row of the file it was: [N].

    `classes` names the classes in the order of the labels; without it they are the names in the table: MELD's or IEMOCAP's in
    their order, where it is all of them, others in order of the alphabet. Raises CorpusError naming the row.
    """
    table = _read(file)
    for column in COLUMNS:
        if column not in table:
            raise CorpusError(f"{file}: there is no column `{column}`, but it must have {', '.join(COLUMNS)}: add it")
    for column in ("dialogue", "speaker"):
        _refuse(table[column] == "", table[column], file, "must not be empty: fill it in")
    split = table["split"].str.lower().map(_SPLITS)
    _refuse(split.isna(), table["split"], file, "must be train, valid (or dev) or test: correct it")
    number = table.groupby("dialogue", sort=False).ngroup()
    other = split != split.groupby(number).transform("first")
    _refuse(
        other,
        table["split"],
        file,
        "the dialogue began in another split, and must lie in one: correct it",
        table["dialogue"],
    )
    order = np.lexsort((_positions(table, file, number), number))
    dataset, labels = _labels(table["label"], classes, file)
    sorted_table = table.assign(label=labels, split=split).iloc[order]
    groups = {str(key): part for key, part in sorted_table.groupby("dialogue", sort=False)}
    splits = {
        s: tuple(k for k, part in groups.items() if part["split"].iloc[0] == s) for s in ("train", "valid", "test")
    }
    return (
        Source(
            layout="table",
            why=f"columns {', '.join(COLUMNS)}",
            files=(file,),
            dataset=dataset,
            labels={key: part["label"].tolist() for key, part in groups.items()},
            speakers={key: part["speaker"].tolist() for key, part in groups.items()},
            sentences={key: part["text"].tolist() for key, part in groups.items()} if "text" in table else {},
            splits={s: ids for s, ids in splits.items() if ids},
        ),
        order,
    )


def _read(file: Path) -> pd.DataFrame:
    """The table as stripped text."""
    try:
        if file.suffix == ".parquet":
            raw = pd.read_parquet(file)
            raw = raw.astype(object).where(raw.notna(), "").astype(str)
        else:
            raw = pd.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: check the path") from None
    except (OSError, ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{file}: is not a table in CSV (UTF-8) or parquet ({reason}): write it anew") from None
    if raw.empty:
        raise CorpusError(f"{file}: has no rows, but must have at least one: fill it")
    return raw.apply(lambda column: column.str.strip() if column.name != "text" else column)


def _positions(table: pd.DataFrame, file: Path, number: pd.Series) -> np.ndarray:
    """Positions within dialogues, the order of rows where there is no column."""
    if "position" not in table:
        return np.arange(len(table))
    position = pd.to_numeric(table["position"], errors="coerce")
    _refuse(~np.isfinite(position), table["position"], file, "must be a number: correct it")
    twice = pd.DataFrame({"dialogue": number, "position": position}).duplicated()
    _refuse(twice, table["position"], file, "must stand once in a dialogue: correct it", table["dialogue"])
    numbers: np.ndarray = position.to_numpy(np.float64)
    return numbers


def _labels(column: pd.Series, classes: Sequence[str], file: Path) -> tuple[Dataset, list[int]]:
    given = column.where(column != "-1", "")
    names = sorted(set(given) - {""}, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    if not names:
        raise CorpusError(f"{file}: no row has a `label`, but some must: fill it in")
    dataset = None if classes else dataset_of(names)
    if dataset is None:
        dataset = Dataset(name=file.stem, classes=tuple(classes or names), spellings={}, length_bins=())
    number: dict[str, Any] = {
        name: dataset.label(name) if dataset.spellings else _index(name, dataset) for name in names
    }
    known = ", ".join(dataset.classes)
    _refuse(given.map(lambda n: n != "" and number[n] is None), column, file, f"must be one of {known}: correct it")
    return dataset, [-1 if name == "" else number[name] for name in given]


def _index(name: str, dataset: Dataset) -> int | None:
    """A class by name, or by number where no class is called so."""
    if name in dataset.classes:
        return dataset.classes.index(name)
    return int(name) if name.isdecimal() and len(name) < 9 and int(name) < len(dataset.classes) else None


def _refuse(bad: pd.Series, column: pd.Series, file: Path, rule: str, dialogue: pd.Series | None = None) -> None:
    """Raise CorpusError for the first row in which `bad` is true."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        of = "" if dialogue is None else f" (dialogue {dialogue.iloc[row]})"
        raise CorpusError(f"{file}, row {row + 1}{of}: `{column.name}` is {column.iloc[row]!r}, but {rule}")
