"""The utterances to make features for, where their clips lie, and the file that the features go to.

A source is either the folder of MELD's CSVs, its clips in another folder (`train/dia0_utt0.mp4`), its features an `.npz` with
the keys train, dev and test; or a table (CSV or parquet), one utterance a row, that has a column `text`, or `file` with
optional `start` and `end` in seconds, its features an `.npy` [rows, width].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lfvd.data.importers import repaired
from lfvd.data.importers.table import read_parquet
from lfvd.extract.clips import Clip
from lfvd.files import InputError, atomic_path

CLIP_FOLDERS = {
    "train": ("train", "train_splits"),
    "dev": ("dev", "dev_splits_complete"),
    "test": ("test", "output_repeated_splits_test"),
}
"""MELD's split → names of its folder of clips: the plain one, and the one in the published archives."""


class SourceError(InputError):
    """A source of utterances that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class UtteranceTable:
    """Utterances in the order of their rows."""

    path: Path
    """MELD's folder, or the table."""
    table: pd.DataFrame
    """One row an utterance, all text. MELD: the columns split, name (`dia0_utt0`), text and label."""
    meld: bool

    def texts(self) -> list[str]:
        """What was said. Raises SourceError where the table has no column for it."""
        return list(self._column("text"))

    def train(self) -> tuple[list[str], list[str]]:
        """Texts and labels of the labelled utterances of the train split. Raises SourceError where there are none."""
        chosen = (self._column("split").str.strip() == "train") & ~self._column("label").str.strip().isin(("", "-1"))
        if not chosen.any():
            raise SourceError(
                f"{self.path}: the split train has no labelled utterance, but --finetune learns from these"
            )
        return list(self._column("text")[chosen]), list(self.table["label"][chosen])

    def clips(self, folder: Path | None) -> list[Clip]:
        """The clip of each utterance, there or not. `folder`: MELD's clips, or what the table's names start from.

        Raises SourceError for folders without clips and for times that are not in order.
        """
        if self.meld:
            return self._meld_clips(folder)
        base = self.path.parent if folder is None else folder
        files = self._column("file")
        starts, ends = self._seconds("start", 0.0), self._seconds("end", np.inf)
        wrong = ~((starts >= 0) & (starts < ends))
        if wrong.any():
            row = int(wrong.argmax())
            raise SourceError(
                f"{self.path}, row {row + 1}: `start` is {starts[row]:g} and `end` {ends[row]:g}, but start must be at "
                "least 0 and below end: correct it"
            )
        return [
            Clip(file=base / file, start=float(start), end=float(end) if np.isfinite(end) else None)
            for file, start, end in zip(files, starts, ends, strict=True)
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
        """Raise SourceError where the file to be written has another ending than importing expects."""
        ending = ".npz" if self.meld else ".npy"
        if out.suffix != ending:
            raise SourceError(f"--out {out}: must end in {ending} for {self.path}: try {out.with_suffix(ending)}")

    def _column(self, name: str) -> pd.Series:
        if name not in self.table:
            raise SourceError(f"{self.path}: there is no column `{name}`, but it must have one: add it")
        return self.table[name]

    def _seconds(self, name: str, default: float) -> np.ndarray:
        """A column of seconds [rows], `default` where it is absent or empty."""
        if name not in self.table:
            return np.full(len(self.table), default)
        text = self.table[name].str.strip()
        values = pd.to_numeric(text, errors="coerce")
        bad = (values.isna() & (text != "")).to_numpy()
        if bad.any():
            row = int(bad.argmax())
            raise SourceError(
                f"{self.path}, row {row + 1}: the value of `{name}` is {text.iloc[row]!r}, but must be a number of seconds"
            )
        seconds: np.ndarray = values.fillna(default).to_numpy(float)
        return seconds

    def _meld_clips(self, folder: Path | None) -> list[Clip]:
        if folder is None:
            raise SourceError(f"{self.path}: the clips are not named: give their folder with --clips")
        places = {split: _split_folder(folder, split) for split in CLIP_FOLDERS}
        found = {(split, name): file for split, place in places.items() for name, file in _named_clips(place).items()}
        return [
            Clip(file=found.get((split, name), places[split] / f"{name}.mp4"))
            for split, name in zip(self.table["split"], self.table["name"], strict=True)
        ]


def read_source(path: Path) -> UtteranceTable:
    """MELD's folder of CSVs or a table of utterances. Raises SourceError for what cannot be read."""
    if path.is_dir():
        return UtteranceTable(path=path, table=pd.concat([_meld_split(path, s) for s in CLIP_FOLDERS]), meld=True)
    return UtteranceTable(path=path, table=_read_table(path), meld=False)


def _meld_split(folder: Path, split: str) -> pd.DataFrame:
    file = folder / f"{split}_sent_emo.csv"
    raw = _read_table(file)
    for column in ("Utterance", "Emotion", "Dialogue_ID", "Utterance_ID"):
        if column not in raw:
            raise SourceError(f"{file}: there is no column `{column}`, but it must have one: use the published file")
    return pd.DataFrame(
        {
            "split": split,
            "name": "dia" + raw["Dialogue_ID"].str.strip() + "_utt" + raw["Utterance_ID"].str.strip(),
            "text": raw["Utterance"].map(repaired),
            "label": raw["Emotion"].str.strip().str.lower(),
        }
    )


def _read_table(file: Path) -> pd.DataFrame:
    """A CSV or parquet file, every value as text, missing ones empty."""
    try:
        if file.suffix == ".parquet":
            table = read_parquet(file)
        else:  # na_filter would turn an utterance such as "None" into a missing value
            table = pd.read_csv(file, dtype=str, na_filter=False, encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror or error}): check the path") from None
    except ValueError as error:  # pandas' and pyarrow's own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise SourceError(f"{file}: is not a table ({reason}): name a CSV in UTF-8 or a .parquet") from None
    if table.empty:
        raise SourceError(f"{file}: has no rows, but must have at least one: add the utterances")
    return table


def _split_folder(folder: Path, split: str) -> Path:
    for name in CLIP_FOLDERS[split]:
        if (folder / name).is_dir():
            return folder / name
    names = " or ".join(CLIP_FOLDERS[split])
    raise SourceError(f"--clips {folder}: there is no folder {names} in it: put the clips of {split} there")


def _named_clips(folder: Path) -> dict[str, Path]:
    """Name `dia0_utt0` → its file, whatever its ending. Raises SourceError where two files have one name."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if re.fullmatch(r"dia\d+_utt\d+", file.stem):  # the archives hold a Mac's `._dia0_utt0.mp4` too
            if file.stem in found:
                raise SourceError(
                    f"{file}: {found[file.stem].name} has the same name, but one clip is needed: remove one"
                )
            found[file.stem] = file
    return found


def missing(clips: Sequence[Clip], failed: Mapping[int, str]) -> pd.DataFrame:
    """The clips without features, in order: file, start, end, reason. `failed`: index → reason."""
    rows = [(str(clips[i].file), clips[i].start, clips[i].end, failed[i]) for i in sorted(failed)]
    return pd.DataFrame(rows, columns=["file", "start", "end", "reason"])
