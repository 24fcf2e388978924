"""The utterances to make features for, where their clips lie, and the file that the features go to.

A source is either the folder of MELD's CSVs, its clips in another folder (`train/dia0_utt0.mp4`), its features an `.npz` with
the keys train, dev and test; or a table (CSV or parquet), one utterance a row, that has a column `text`, or `file` with
optional `start` and `end` in seconds, its features an `.npy` [rows, width].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lfvd.data.datasets import repaired
from lfvd.data.importers.table import meld_file, read_table
from lfvd.extract.work import Clip
from lfvd.files import InputError, atomic_path

CLIP_FOLDERS = {
    "train": ("train", "train_splits"),
    "dev": ("dev", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
"""MELD's split → names of its folder of clips: the plain one, and the one in the published archives."""
COLUMNS = ("Utterance", "Emotion", "Dialogue_ID", "Utterance_ID")
"""Of MELD's CSVs."""


@dataclass(frozen=True, kw_only=True)
class UtteranceTable:
    """Utterances in the order of their rows."""

    path: Path
    """MELD's folder, or the table."""
    table: pd.DataFrame
    """One row an utterance, all text. MELD: the columns split, name (`dia0_utt0`), text and label."""
    meld: bool

    def texts(self) -> list[str]:
        """What was said. Raises InputError where the table has no column for it."""
        return list(self._column("text"))

    def train(self) -> tuple[list[str], list[str]]:
        """Texts and labels of the labelled utterances of the train split. Raises InputError where there are none."""
        chosen = (self._column("split") == "train") & ~self._column("label").isin(("", "-1"))
        if not chosen.any():
            raise InputError(
                f"{self.path}: the split train has no labelled utterance, but --finetune learns from these"
            )
        return list(self._column("text")[chosen]), list(self.table["label"][chosen])

    def clips(self, folder: Path | None) -> list[Clip]:
        """The clip of each utterance, there or not. `folder`: MELD's clips, or what the table's names start from.

        Raises InputError for folders without clips and for times that are not in order.
        """
        if self.meld:
            return self._meld_clips(folder)
        base = self.path.parent if folder is None else folder
        files, start, end = self._column("file"), self._seconds("start", 0.0), self._seconds("end", np.inf)
        self._refuse_row(
            ~((start >= 0) & (start < end)),
            lambda i: f"`start` is {start[i]:g} and `end` {end[i]:g}, but start must be at least 0 and below end",
        )
        return [
            Clip(file=base / file, start=float(a), end=float(b) if np.isfinite(b) else None)
            for file, a, b in zip(files, start, end, strict=True)
        ]

    def save(self, out: Path, features: np.ndarray) -> None:
        """Write the features [rows, width], atomically."""
        with atomic_path(out) as temporary, temporary.open("wb") as file:
            if self.meld:
                split = self.table["split"].to_numpy()
                np.savez(file, **{name: features[split == name] for name in CLIP_FOLDERS})
            else:
                np.save(file, features)

    def check_out(self, out: Path) -> None:
        """Raise InputError where the file to be written has another ending than importing expects."""
        ending = ".npz" if self.meld else ".npy"
        if out.suffix != ending:
            raise InputError(f"--out {out}: must end in {ending} for {self.path}: try {out.with_suffix(ending)}")

    def _column(self, name: str) -> pd.Series:
        if name not in self.table:
            raise InputError(f"{self.path}: there is no column `{name}`, but it must have one: add it")
        return self.table[name]

    def _seconds(self, name: str, default: float) -> np.ndarray:
        """A column of seconds [rows], `default` where it is absent or empty."""
        text = self.table.get(name, pd.Series("", self.table.index))
        seconds: np.ndarray = pd.to_numeric(text, errors="coerce").to_numpy(float, na_value=np.nan)
        self._refuse_row(
            np.isnan(seconds) & (text != "").to_numpy(),
            lambda i: f"the value of `{name}` is {text.iloc[i]!r}, but must be a number of seconds",
        )
        return np.where(text == "", default, seconds)

    def _refuse_row(self, bad: np.ndarray, say: Callable[[int], str]) -> None:
        if bad.any():
            row = int(bad.argmax())
            raise InputError(f"{self.path}, row {row + 1}: {say(row)}: correct it")

    def _meld_clips(self, folder: Path | None) -> list[Clip]:
        if folder is None:
            raise InputError(f"{self.path}: the clips are not named: give their folder with --clips")
        places = {split: _split_folder(folder, split) for split in CLIP_FOLDERS}
        named: dict[tuple[str, str], list[Path]] = {}  # split, `dia0_utt0` → files with any ending
        for split, place in places.items():
            for file in sorted(place.iterdir()):
                named.setdefault((split, file.stem), []).append(file)
        clips = []
        for split, name in zip(self.table["split"], self.table["name"], strict=True):
            files = named.get((split, name), [places[split] / f"{name}.mp4"])
            if len(files) > 1:
                raise InputError(f"{files[1]}: {files[0].name} has the same name, but one clip is needed: remove one")
            clips.append(Clip(file=files[0]))
        return clips


def read_source(path: Path) -> UtteranceTable:
    """MELD's folder of CSVs or a table of utterances. Raises InputError for what cannot be read."""
    if path.is_dir():
        return UtteranceTable(path=path, table=pd.concat([_meld_split(path, s) for s in CLIP_FOLDERS]), meld=True)
    return UtteranceTable(path=path, table=read_table(path, ()), meld=False)


def _meld_split(folder: Path, split: str) -> pd.DataFrame:
    raw = read_table(meld_file(folder, split), COLUMNS, text="Utterance")
    return pd.DataFrame(
        {
            "split": split,
            "name": "dia" + raw["Dialogue_ID"] + "_utt" + raw["Utterance_ID"],
            "text": raw["Utterance"].map(repaired),
            "label": raw["Emotion"].str.lower(),
        }
    )


def _split_folder(folder: Path, split: str) -> Path:
    for name in CLIP_FOLDERS[split]:
        if (folder / name).is_dir():
            return folder / name
    names = " or ".join(CLIP_FOLDERS[split])
    raise InputError(f"--clips {folder}: there is no folder {names} in it: put the clips of {split} there")
