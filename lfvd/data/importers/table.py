"""Utterances as rows: a table of the user's own (CSV or parquet), and the folder of MELD's published transcripts.

`lfvd import ../shared/meld --language ../shared/meld/minilm.npz --audio simulated --out data/meld.safetensors`

Columns of a table: `dialogue`, `speaker`, `label` and `split` (train, valid or dev, test); where there, `position` (a number
that rises within the dialogue) and `text`. A label is a class name or a number; an empty one or -1 is none. Features stand in
one `.npy` or `.npz` a modality, in the order of the rows: lfvd.data.importers.arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lfvd.data.corpus import SPLITS, CorpusError
from lfvd.data.datasets import MELD, Dataset, dataset_of
from lfvd.data.importers.source import SPLIT_NAMES, FeatureSource, Values
from lfvd.files import reason

COLUMNS = ("dialogue", "speaker", "label", "split")
MELD_SPLITS = {"train": 0, "dev": 1039, "test": 1153}
"""MELD's names of the splits → the first dialogue's number in the numbering across splits (0 to 1432, without 60)."""
MELD_VALID = range(MELD_SPLITS["dev"], MELD_SPLITS["test"])
"""MELD's validation dialogues in the numbering across splits; some files count them among the train ids."""
MELD_COLUMNS = {"dialogue": "Dialogue_ID", "position": "Utterance_ID", "speaker": "Speaker", "label": "Emotion"}
MELD_COLUMNS |= {"text": "Utterance"}
"""Name of a column here → in MELD's CSVs."""
_CELLS = 4_000_000
_SMALL = 64 * 2**20
_MAX_RATIO = 16  # sentences pack 3 to 1
_BATCH = 256  # rows


def table_source(file: Path, classes: Sequence[str] = ()) -> FeatureSource:
    """A table, its utterances in order of dialogue and position.

    `classes` names the classes in the order of the labels; without it they are the names in the table: MELD's or IEMOCAP's in
    their order, where it is all of them, others in order of the alphabet. Raises CorpusError naming the row.
    """
    rows = read_table(file, COLUMNS)
    dataset, labels = _labels(rows["label"], Dataset(name=file.stem, classes=tuple(classes)))
    return _source(rows, {}, labels, layout="table", files=(file,), dataset=dataset)


def meld_source(folder: Path) -> FeatureSource:
    """The three CSVs of MELD. Raises CorpusError naming file and row."""
    rows = meld_rows(folder)
    dataset, labels = _labels(rows["Emotion"], MELD)
    files = tuple(meld_file(folder, split) for split in MELD_SPLITS)
    return _source(rows, MELD_COLUMNS, labels, layout="MELD CSV", files=files, folder=folder, dataset=dataset)


def meld_rows(folder: Path) -> pd.DataFrame:
    """MELD's utterances with its own columns and `split`, dialogues in the numbering across splits. Raises CorpusError."""
    parts = []
    for split, first in MELD_SPLITS.items():
        rows = read_table(meld_file(folder, split), tuple(MELD_COLUMNS.values()), text="Utterance")
        dialogue = rows["Dialogue_ID"]
        refuse_row(~dialogue.str.fullmatch("[0-9]{1,4}"), dialogue, "must be a whole number: correct it")
        parts.append(rows.assign(Dialogue_ID=(dialogue.astype(int) + first).astype(str), split=split))
    return pd.concat(parts)


def meld_file(folder: Path, split: str) -> Path:
    """The published CSV of one of MELD_SPLITS."""
    return folder / f"{split}_sent_emo.csv"


def _source(rows: pd.DataFrame, names: Mapping[str, str], labels: pd.Series, **described: Any) -> FeatureSource:
    """Rows and the numbers of their labels as a source. `names`: what the file calls a column, where it is another name."""
    there = {name: rows[own] for name in (*COLUMNS, "position", "text") if (own := names.get(name, name)) in rows}
    dialogue = there["dialogue"]
    for column in (dialogue, there["speaker"]):
        refuse_row(column == "", column, "must not be empty: fill it in")
    split = there["split"].str.lower().map(SPLIT_NAMES)
    refuse_row(split.isna(), there["split"], "must be train, valid (or dev) or test: correct it")
    number = dialogue.groupby(dialogue, sort=False).ngroup()
    other = split != split.groupby(number).transform("first")
    rule = "the dialogue began in another split, and must lie in one: correct it"
    refuse_row(other, there["split"], rule, dialogue)
    position = there.get("position", pd.Series(np.arange(len(rows)), rows.index))
    place = pd.to_numeric(position, errors="coerce")
    refuse_row(~np.isfinite(place), position, "must be a number: correct it")
    twice = pd.DataFrame({"dialogue": number, "position": place}).duplicated()
    refuse_row(twice, position, "must stand once in a dialogue: correct it", dialogue)
    order = np.lexsort((place, number))
    starts = np.flatnonzero(np.diff(number.to_numpy()[order], prepend=-1))
    keys, own_split = ([str(key) for key in column.iloc[order].iloc[starts]] for column in (dialogue, split))

    def by_dialogue(column: pd.Series) -> Values:
        return dict(zip(keys, np.split(column.to_numpy()[order], starts[1:]), strict=True))

    splits = {s: tuple(key for key, own in zip(keys, own_split, strict=True) if own == s) for s in SPLITS}
    return FeatureSource(
        labels=by_dialogue(labels),
        speakers=by_dialogue(there["speaker"]),
        sentences=by_dialogue(there["text"]) if "text" in there else {},
        splits={s: ids for s, ids in splits.items() if ids},
        order=order,
        ordered=True,
        **described,
    )


def read_table(file: Path, columns: Sequence[str], *, text: str = "text") -> pd.DataFrame:
    """A table as text, stripped but for the column of sentences; its index says file and row.

    Raises CorpusError, also where a column is missing.
    """
    try:
        if file.suffix == ".parquet":
            raw = read_parquet(file)
        else:  # na_filter would turn an utterance such as "None" into a missing value
            raw = pd.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: name a table, or a folder of MELD's three CSVs") from None
    except (OSError, ValueError, TypeError, OverflowError) as error:  # pandas' errors of parsing are ValueErrors
        text = f"is not a table in CSV (UTF-8) or parquet ({reason(error)}): write it anew"
        raise CorpusError(f"{file}: {text}") from None
    for column in columns:
        if column not in raw:
            raise CorpusError(f"{file}: there is no column `{column}`, but it must have {', '.join(columns)}: add it")
    if raw.empty:
        raise CorpusError(f"{file}: has no rows, but must have at least one: fill it")
    raw.index = pd.Index([f"{file}, row {i}" for i in range(1, len(raw) + 1)])
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


def _labels(column: pd.Series, given: Dataset) -> tuple[Dataset, pd.Series]:
    """The data set that the labels are of, and their numbers, -1 for none. `given`: without classes where none are known."""
    text = column.where(column != "-1", "")
    names = sorted(set(text) - {""}, key=lambda name: (int(name) if _is_number(name) else -1, name))
    if not names:
        raise CorpusError(f"{column.index[0]}: no row has a `{column.name}`, but some must: fill it in")
    dataset = given if given.classes else dataset_of(names) or replace(given, classes=tuple(names))
    number: dict[str, int | None] = {name: dataset.label(name) for name in names} | {"": -1}
    for name in names if given.classes else ():  # by number, where no class is called so
        if number[name] is None and _is_number(name) and int(name) < len(dataset.classes):
            number[name] = int(name)
    labels = text.map(number)
    refuse_row(labels.isna(), column, f"must be one of {', '.join(dataset.classes)}: correct it")
    return dataset, labels.astype(int)


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 9


def refuse_row(bad: pd.Series, column: pd.Series, rule: str, dialogue: pd.Series | None = None) -> None:
    """Raise CorpusError for the first row in which `bad` is true."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        of = "" if dialogue is None else f" (dialogue {dialogue.iloc[row]})"
        raise CorpusError(f"{column.index[row]}{of}: `{column.name}` is {column.iloc[row]!r}, but {rule}")
