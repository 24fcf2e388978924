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
import pyarrow.parquet as pq

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import Dataset, dataset_of
from lfvd.data.importers.source import FeatureSource

COLUMNS = ("dialogue", "speaker", "label", "split")
_CELLS = 4_000_000
_SMALL = 64 * 2**20
_MAX_RATIO = 16  # sentences pack 3 to 1
_BATCH = 256  # rows
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


def table_source(file: Path, classes: Sequence[str] = ()) -> tuple[FeatureSource, np.ndarray]:
    """A table, and for each row of it in order of dialogue and position, which row of the file it was: [N].

    `classes` names the classes in the order of the labels; without it they are the names in the table: MELD's or IEMOCAP's in
    their order, where it is all of them, others in order of the alphabet. Raises CorpusError naming the row.
    """
    table = read_table(file, COLUMNS)
    for column in ("dialogue", "speaker"):
        refuse_row(table[column] == "", table[column], file, "must not be empty: fill it in")
    split = table["split"].str.lower().map(_SPLITS)
    refuse_row(split.isna(), table["split"], file, "must be train, valid (or dev) or test: correct it")
    number = table.groupby("dialogue", sort=False).ngroup()
    other = split != split.groupby(number).transform("first")
    rule = "the dialogue began in another split, and must lie in one: correct it"
    refuse_row(other, table["split"], file, rule, table["dialogue"])
    order = np.lexsort((_positions(table, file, number), number))
    dataset, labels = _labels(table["label"], classes, file)
    rows = table.assign(label=labels, split=split).iloc[order]
    return source_of_rows(
        rows, layout="table", why=f"columns {', '.join(COLUMNS)}", files=(file,), dataset=dataset
    ), order


def source_of_rows(rows: pd.DataFrame, **described: Any) -> FeatureSource:
    """Utterances in order of dialogue and position as a source; `label` holds numbers, `split` train, valid or test."""
    keys = rows["dialogue"].to_numpy()
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    spans = {str(keys[a]): slice(a, b) for a, b in zip(starts, np.append(starts[1:], len(keys)), strict=True)}
    values = {name: rows[name].tolist() for name in ("label", "speaker", "split", "text") if name in rows}
    by_dialogue = {name: {key: items[span] for key, span in spans.items()} for name, items in values.items()}
    splits = {s: tuple(k for k, own in by_dialogue["split"].items() if own[0] == s) for s in ("train", "valid", "test")}
    return FeatureSource(
        labels=by_dialogue["label"],
        speakers=by_dialogue["speaker"],
        sentences=by_dialogue.get("text", {}),
        splits={s: ids for s, ids in splits.items() if ids},
        ordered=True,
        **described,
    )


def read_table(file: Path, columns: Sequence[str], *, text: str = "text") -> pd.DataFrame:
    """A table as text, stripped but for the column of sentences. Raises CorpusError, also where a column is missing."""
    try:
        if file.suffix == ".parquet":
            raw = read_parquet(file)
        else:  # na_filter would turn an utterance such as "None" into a missing value
            raw = pd.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: check the path") from None
    except (OSError, ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorpusError(f"{file}: is not a table in CSV (UTF-8) or parquet ({reason}): write it anew") from None
    for column in columns:
        if column not in raw:
            raise CorpusError(f"{file}: there is no column `{column}`, but it must have {', '.join(columns)}: add it")
    if raw.empty:
        raise CorpusError(f"{file}: has no rows, but must have at least one: fill it")
    return raw.apply(lambda column: column.str.strip() if column.name != text else column)


def read_parquet(file: Path) -> pd.DataFrame:
    """The plain columns of a parquet file as text, missing values empty.

    A few bytes can stand for a million rows, or for a long text in each of them. Raises ValueError for a file that would
    fill memory so, or is broken, OSError where it cannot be read.
    """
    size, cells, length, batches = file.stat().st_size, 0, 0, []
    try:
        with pq.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise ValueError("two columns have the same name")
            plain = [part.name for part in schema if not pa.types.is_nested(part.type)]
            for batch in opened.iter_batches(_BATCH, columns=plain):
                cells += batch.num_rows * batch.num_columns
                length += batch.nbytes
                if cells > _CELLS + size or length > _SMALL + _MAX_RATIO * size:
                    raise ValueError(f"more than {cells - 1} values or {length >> 20} MB are announced in {size} bytes")
                batches.append(batch)
        table = pa.Table.from_batches(batches, pa.schema([part for part in schema if part.name in plain]))
        raw = table.replace_schema_metadata(None).to_pandas()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    return raw.astype(object).where(raw.notna(), "").astype(str)


def _positions(table: pd.DataFrame, file: Path, number: pd.Series) -> np.ndarray:
    """Positions within dialogues, the order of rows where there is no column."""
    if "position" not in table:
        return np.arange(len(table))
    position = pd.to_numeric(table["position"], errors="coerce")
    refuse_row(~np.isfinite(position), table["position"], file, "must be a number: correct it")
    twice = pd.DataFrame({"dialogue": number, "position": position}).duplicated()
    refuse_row(twice, table["position"], file, "must stand once in a dialogue: correct it", table["dialogue"])
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
    refuse_row(given.map(lambda n: n != "" and number[n] is None), column, file, f"must be one of {known}: correct it")
    return dataset, [-1 if name == "" else number[name] for name in given]


def _index(name: str, place: Mapping[str, int]) -> int | None:
    """A class by name, or by number where no class is called so."""
    if name in place:
        return place[name]
    return int(name) if _is_number(name) and int(name) < len(place) else None


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 9


def refuse_row(bad: pd.Series, column: pd.Series, file: Path, rule: str, dialogue: pd.Series | None = None) -> None:
    """Raise CorpusError for the first row in which `bad` is true."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        of = "" if dialogue is None else f" (dialogue {dialogue.iloc[row]})"
        raise CorpusError(f"{file}, row {row + 1}{of}: `{column.name}` is {column.iloc[row]!r}, but {rule}")
