"""MELD's published transcripts, with features in `.npz` files, as a corpus.

`lfvd import ../shared/meld --language ../shared/meld/minilm.npz --audio simulated --visual simulated --out data/meld.safetensors`

The folder holds MELD's train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv. A feature file holds the arrays `train`,
`dev` and `test` [rows of the CSV, width], row for row. Shape legend: lfvd.data.batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lfvd.config import MODALITIES, MODALITY_NAMES
from lfvd.data.corpus import Corpus, CorpusError, CorpusInfo
from lfvd.data.importers.arrays import BROKEN, npz_arrays
from lfvd.data.importers.datasets import MELD_CLASSES, repaired, sha256
from lfvd.data.simulate import stand_in

MELD_SPLITS = {"train": 0, "dev": 1039, "test": 1153}
"""MELD's names of the splits → the first dialogue's number in the numbering across splits (0 to 1432, without 60)."""
MELD_DIALOGUES = 1433
MELD_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")

SIMULATED = "simulated"
"""Given in place of a feature file: make stand-ins from the labels (lfvd.data.simulate)."""


def import_meld(
    folder: str | Path, *, features: Mapping[str, str | Path], seed: int = 0, nan_to_zero: bool = False
) -> tuple[Corpus, pd.DataFrame]:
    """Read MELD from its three CSVs, with features for each modality of `features` (l, a, v → file, or `simulated`).

    Returns the corpus, not yet saved, and its sentences (see `write_sentences`), repaired. `seed` is for simulated
    audio and visual features. `nan_to_zero`: values that are not finite become 0, counted in the corpus's options, as clips
    that `lfvd extract` could not read; without it they are an error. Speakers are numbered within a dialogue in order of appearance, dialogues across splits
    as in the published feature files. Raises CorpusError for anything missing, misshapen, unknown or not finite.
    """
    if not features:
        raise CorpusError(f"{folder}: no features are named, but a corpus needs some: give a file with --language")
    folder = Path(folder)
    tables = {split: _meld_table(folder, split) for split in MELD_SPLITS}
    table = pd.concat(tables.values(), ignore_index=True)
    label = table["label"].to_numpy(np.int64)
    arrays: dict[str, np.ndarray] = {}
    zeroed: dict[str, int] = {}
    sources = {_csv(folder, split).name: sha256(_csv(folder, split)) for split in MELD_SPLITS}
    for modality in (m for m in MODALITIES if m in features):
        given, name = features[modality], MODALITY_NAMES[modality]
        if str(given) != SIMULATED:
            file = Path(given)
            raw = _npz_features(file, {split: len(t) for split, t in tables.items()})
            arrays[modality] = np.concatenate([_finite(f"{file}: `{key}`", raw[key], nan_to_zero) for key in raw])
            zeroed[name] = sum(int((~np.isfinite(part)).sum()) for part in raw.values()) if nan_to_zero else 0
            sources[file.name if file.name not in sources else f"{name}/{file.name}"] = sha256(file)
        elif modality == "l":
            raise CorpusError(
                f"{folder}: language features cannot be simulated for real sentences: use `lfvd simulate`"
            )
        else:
            arrays[modality] = stand_in(label, like="meld", modality=modality, seed=seed)
    simulated = tuple(MODALITY_NAMES[m] for m in arrays if str(features[m]) == SIMULATED)
    starts = np.flatnonzero(table["position"] == 0)
    corpus = Corpus(
        info=CorpusInfo(
            name="MELD",
            classes=MELD_CLASSES,
            dialogues=tuple(table["dialogue"].iloc[starts]),
            simulated=simulated,
            sources=sources,
            options={
                "layout": "MELD CSV",
                **({"seed": seed} if simulated else {}),
                **({"nan_to_zero": {k: v for k, v in zeroed.items() if v}} if nan_to_zero else {}),
            },
            length_bins=(5, 13),
        ),
        features=arrays,
        label=label,
        speaker=table["speaker"].to_numpy(np.int64),
        offset=np.append(starts, len(table)).astype(np.int64),
        split=table["split"].to_numpy(np.int64)[starts],
    )
    return corpus, table[["dialogue", "position", "sentence"]]


def _csv(folder: Path, split: str) -> Path:
    return folder / f"{split}_sent_emo.csv"


def _meld_table(folder: Path, split: str) -> pd.DataFrame:
    """One CSV as a table with the columns dialogue, position, sentence, speaker, label, split, in its order of rows."""
    file = _csv(folder, split)
    raw = _read_csv(file)
    label = raw["Emotion"].str.strip().str.lower().map({name: i for i, name in enumerate(MELD_CLASSES)})
    _refuse(label.isna(), raw["Emotion"], file, f"must be one of {', '.join(MELD_CLASSES)}: correct it")
    speaker = raw["Speaker"].str.strip()
    _refuse(speaker == "", raw["Speaker"], file, "must name the speaker: fill it in")
    dialogue = _dialogue_numbers(raw, file, split)
    # Pairs are numbered in order of appearance, so that those of one dialogue follow one another.
    pair = raw.groupby([dialogue, speaker], sort=False).ngroup()
    return pd.DataFrame(
        {
            "dialogue": (dialogue + MELD_SPLITS[split]).astype(str),
            "position": dialogue.groupby(dialogue).cumcount(),
            "sentence": raw["Utterance"].map(repaired),
            "speaker": pair - pair.groupby(dialogue).transform("min"),
            "label": label,
            "split": list(MELD_SPLITS).index(split),
        }
    )


def _read_csv(file: Path) -> pd.DataFrame:
    """The columns of interest as text."""
    try:
        # na_filter would turn an utterance such as "None" into a missing value.
        raw = pd.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except OSError as error:
        names = ", ".join(_csv(Path(), split).name for split in MELD_SPLITS)
        raise CorpusError(f"{file}: cannot be read ({error.strerror}): name a folder that holds {names}") from None
    except (ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"{file}: is not a CSV file in UTF-8 ({reason}): use the published one") from None
    for column in MELD_COLUMNS:
        if column not in raw:
            raise CorpusError(f"{file}: there is no column `{column}`, but it must have one: use the published file")
    if raw.empty:
        raise CorpusError(f"{file}: has no rows, but must have at least one: use the published file")
    return raw


def _dialogue_numbers(raw: pd.DataFrame, file: Path, split: str) -> pd.Series:
    """Dialogue_ID as numbers, after a check that dialogues lie in one piece, utterances in order."""
    first_of_next = [*MELD_SPLITS.values(), MELD_DIALOGUES][list(MELD_SPLITS).index(split) + 1]
    last = first_of_next - 1 - MELD_SPLITS[split]
    dialogue, utterance = (_whole_numbers(raw[column]) for column in ("Dialogue_ID", "Utterance_ID"))
    rule = f"must be a whole number from 0 to {last}: correct it"
    _refuse(~dialogue.between(0, last), raw["Dialogue_ID"], file, rule)
    _refuse(utterance < 0, raw["Utterance_ID"], file, "must be a whole number from 0 up: correct it")
    starts = dialogue != dialogue.shift()
    rule = "must not come back after another dialogue: sort the file and its features"
    _refuse(starts & dialogue.duplicated(), raw["Dialogue_ID"], file, rule)
    rule = "must be above the one before it in the dialogue: sort the file and its features"
    _refuse(~starts & (utterance <= utterance.shift()), raw["Utterance_ID"], file, rule)
    return dialogue


def _whole_numbers(column: pd.Series) -> pd.Series:
    """Text → int64; -1 for what is not a whole number from 0 to 999999999."""
    return column.str.strip().where(column.str.fullmatch(r"\s*[0-9]{1,9}\s*"), "-1").astype("int64")


def _refuse(bad: pd.Series, column: pd.Series, file: Path, rule: str) -> None:
    """Raise CorpusError for the first row in which `bad` is true."""
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise CorpusError(f"{file}, row {row + 1}: the value of `{column.name}` is {column.iloc[row]!r}, but {rule}")


def _npz_features(file: Path, rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, alike in width. `rows`: key → rows it must have."""
    try:
        parts = npz_arrays(file)
    except FileNotFoundError:
        raise CorpusError(f"{file}: there is no such file: name an .npz with {', '.join(rows)}") from None
    except BROKEN as error:
        raise CorpusError(f"{file}: is not an .npz of plain arrays ({error}): write it with numpy.savez") from None
    for key, count in rows.items():
        if key not in parts:
            raise CorpusError(f"{file}: there is no key `{key}`, but it must hold {', '.join(rows)}: add it")
        _check_part(f"{file}: `{key}`", parts[key], count, f"{key}_sent_emo.csv")
    widths = {key: parts[key].shape[1] for key in rows}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{key} {width}" for key, width in widths.items())
        raise CorpusError(f"{file}: the widths are {listed}, but must be equal: use one extractor for all")
    return {key: parts[key] for key in rows}


def _check_part(where: str, part: np.ndarray, rows: int, csv: str) -> None:
    if part.dtype.kind not in "fiu":
        raise CorpusError(f"{where} holds {part.dtype}, but must hold real numbers: convert it to float32")
    if part.ndim != 2 or part.shape[1] == 0:
        raise CorpusError(f"{where} has shape {part.shape}, but must be [rows, width]: reshape it")
    if len(part) != rows:
        raise CorpusError(f"{where} has {len(part)} rows, but {csv} has {rows}: extract the features from that file")


def _finite(where: str, part: np.ndarray, nan_to_zero: bool) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows float32 is infinite, and refused as such
        flat = part.astype(np.float32)
    if nan_to_zero:
        return np.nan_to_num(flat, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    bad = ~np.isfinite(flat).all(axis=1)
    if bad.any():
        row = int(bad.argmax())
        value = part[row][~np.isfinite(flat[row])][0]
        raise CorpusError(f"{where}, row {row + 1} holds {value}, but must be finite float32: correct it")
    return flat
