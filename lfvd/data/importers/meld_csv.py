"""MELD's published transcripts: a folder that holds train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv.

`lfvd import ../shared/meld --language ../shared/meld/minilm.npz --audio simulated --visual simulated --out data/meld.safetensors`

A feature file holds the rows of the three CSVs in their order, or arrays `train`, `dev` and `test`: lfvd.data.importers.arrays.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lfvd.data.corpus import CorpusError
from lfvd.data.importers.datasets import MELD, MELD_CLASSES
from lfvd.data.importers.source import FeatureSource
from lfvd.data.importers.table import read_table, refuse_row, source_of_rows

MELD_SPLITS = {"train": 0, "dev": 1039, "test": 1153}
"""MELD's names of the splits → the first dialogue's number in the numbering across splits (0 to 1432, without 60)."""
MELD_DIALOGUES = 1433
MELD_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


def meld_source(folder: Path) -> FeatureSource:
    """The three CSVs as one source. Raises CorpusError naming file and row."""
    files = tuple(folder / f"{split}_sent_emo.csv" for split in MELD_SPLITS)
    for file in files:
        if not file.is_file():
            names = ", ".join(file.name for file in files)
            raise CorpusError(f"{file}: there is no such file: name a folder that holds {names}")
    rows = pd.concat([_rows(file, split) for file, split in zip(files, MELD_SPLITS, strict=True)])
    why = "a folder without feature files"
    return source_of_rows(rows, layout="MELD CSV", why=why, files=files, folder=folder, dataset=MELD)


def _rows(file: Path, split: str) -> pd.DataFrame:
    """One CSV with the columns of a table of utterances, after a check that dialogues lie in one piece, utterances in order."""
    raw = read_table(file, MELD_COLUMNS, text="Utterance")
    label = raw["Emotion"].str.lower().map({name: i for i, name in enumerate(MELD_CLASSES)})
    refuse_row(label.isna(), raw["Emotion"], file, f"must be one of {', '.join(MELD_CLASSES)}: correct it")
    refuse_row(raw["Speaker"] == "", raw["Speaker"], file, "must name the speaker: fill it in")
    first_of_next = [*MELD_SPLITS.values(), MELD_DIALOGUES][list(MELD_SPLITS).index(split) + 1]
    last = first_of_next - 1 - MELD_SPLITS[split]
    dialogue, utterance = (
        raw[name].where(raw[name].str.fullmatch(r"[0-9]{1,9}"), "-1").astype("int64") for name in MELD_COLUMNS[3:]
    )
    for bad, name, rule in (
        (~dialogue.between(0, last), "Dialogue_ID", f"must be a whole number from 0 to {last}: correct it"),
        (utterance < 0, "Utterance_ID", "must be a whole number from 0 up: correct it"),
    ):
        refuse_row(bad, raw[name], file, rule)
    starts = dialogue != dialogue.shift()
    rule = "must not come back after another dialogue: sort the file and its features"
    refuse_row(starts & dialogue.duplicated(), raw["Dialogue_ID"], file, rule)
    rule = "must be above the one before it in the dialogue: sort the file and its features"
    refuse_row(~starts & (utterance <= utterance.shift()), raw["Utterance_ID"], file, rule)
    return pd.DataFrame(
        {
            "dialogue": (dialogue + MELD_SPLITS[split]).astype(str),
            "speaker": raw["Speaker"],
            "label": label.astype(int),
            "split": "valid" if split == "dev" else split,
            "text": raw["Utterance"],
        }
    )
