"""The plain way in: a table of utterances (CSV or parquet), with features as one `.npy` or `.npz` a modality in its order of rows.

Columns `dialogue`, `speaker`, `label` and `split` (train, valid or dev, test); where there, `position` (a number that rises within
the dialogue) and `text`. A label is a class name or a number; an empty one or -1 is none. Features: see lfvd.data.importers.arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import Dataset, dataset_of
from lfvd.data.importers.source import Source, Values

COLUMNS = ("dialogue", "speaker", "label", "split")
_CELLS = 4_000_000
_SMALL = 64 * 2**20
_MAX_RATIO = 16  # sentences pack 3 to 1
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
    keys = sorted_table["dialogue"].to_numpy()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    spans = {str(keys[a]): slice(a, b) for a, b in zip(starts, np.append(starts[1:], len(keys)), strict=True)}

    def by_dialogue(column: str) -> Values:
        items = sorted_table[column].tolist()
        return {key: items[span] for key, span in spans.items()}

    split_of = {key: items[0] for key, items in by_dialogue("split").items()}
    splits = {s: tuple(k for k, own in split_of.items() if own == s) for s in ("train", "valid", "test")}
    return (
        Source(
            layout="table",
            why=f"columns {', '.join(COLUMNS)}",
            files=(file,),
            dataset=dataset,
            labels=by_dialogue("label"),
            speakers=by_dialogue("speaker"),
            sentences=by_dialogue("text") if "text" in table else {},
            splits={s: ids for s, ids in splits.items() if ids},
        ),
        order,
    )


def _read(file: Path) -> pd.DataFrame:
    """The table as stripped text."""
    try:
        if file.suffix == ".parquet":
            raw = read_parquet(file)
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


def read_parquet(file: Path) -> pd.DataFrame:
    """The plain columns of a parquet file as text, missing values empty.

    A few bytes can stand for a million rows, or for a long text in each of them. Raises ValueError for a file that would
    fill memory so, or is broken, OSError where it cannot be read.
    """
    size = file.stat().st_size
    try:
        schema, found = pq.read_schema(file), pq.read_metadata(file)
        plain = [part.name for part in schema if not pa.types.is_nested(part.type)]
        rows = max(found.num_rows, sum(found.row_group(i).num_rows for i in range(found.num_row_groups)))
        if rows * len(plain) > _CELLS + size:
            raise ValueError(f"{rows} rows are announced in {size} bytes")
        table = pq.read_table(file, columns=plain, read_dictionary=plain)
        length = sum(_text_length(chunk) for column in table.columns for chunk in column.chunks)
        if length > _SMALL + _MAX_RATIO * size:
            raise ValueError(f"{length} bytes of text are announced in {size}")
        raw = table.replace_schema_metadata(None).to_pandas()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    return raw.astype(object).where(raw.notna(), "").astype(str)


def _text_length(chunk: Any) -> int:
    """Bytes of all texts, each counted as often as it stands there; 0 for numbers."""
    if not pa.types.is_dictionary(chunk.type):
        return 0
    texts = chunk.dictionary
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return 0
    lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False)
    times = np.bincount(chunk.indices.drop_null().to_numpy(zero_copy_only=False), minlength=len(lengths))
    return int((lengths.astype(np.float64) * times).sum())


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
    names = sorted(set(given) - {""}, key=lambda name: (int(name) if _is_number(name) else -1, name))
    if not names:
        raise CorpusError(f"{file}: no row has a `label`, but some must: fill it in")
    dataset = None if classes else dataset_of(names)
    if dataset is None:
        dataset = Dataset(name=file.stem, classes=tuple(classes or names), spellings={}, length_bins=())
    place = {name: i for i, name in reversed(list(enumerate(dataset.classes)))}
    number: dict[str, Any] = {name: dataset.label(name) if dataset.spellings else _index(name, place) for name in names}
    known = ", ".join(dataset.classes)
    _refuse(given.map(lambda n: n != "" and number[n] is None), column, file, f"must be one of {known}: correct it")
    return dataset, [-1 if name == "" else number[name] for name in given]


def _index(name: str, place: Mapping[str, int]) -> int | None:
    """A class by name, or by number where no class is called so."""
    if name in place:
        return place[name]
    return int(name) if _is_number(name) and int(name) < len(place) else None


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 9


def _refuse(bad: pd.Series, column: pd.Series, file: Path, rule: str, dialogue: pd.Series | None = None) -> None:
    """Raise CorpusError for the first row in which `bad` is true."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        of = "" if dialogue is None else f" (dialogue {dialogue.iloc[row]})"
        raise CorpusError(f"{file}, row {row + 1}{of}: `{column.name}` is {column.iloc[row]!r}, but {rule}")
