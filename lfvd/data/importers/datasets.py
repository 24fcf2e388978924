"""What is known of MELD and IEMOCAP: class names in the order of the published labels, other spellings, dialogue numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")

MELD_VALID = range(1039, 1153)
"""MELD's validation dialogues in the numbering across splits; some files count them among the train ids."""
MELD_GONE = "60"
"""The one number of MELD (0 to 1432) that has no dialogue."""

# The 27 bytes that CP1252 fills with characters and latin1 with control characters.
_CP1252 = {i: text for i in range(0x80, 0xA0) if (text := bytes([i]).decode("cp1252", errors="ignore"))}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as its published files have it."""

    name: str
    classes: tuple[str, ...]
    """Class names in the order of the labels 0, 1, …"""
    spellings: dict[str, int]
    """Other names of classes → labels."""
    length_bins: tuple[int, ...]
    """Upper ends of the paper's dialogue-length bins."""

    def label(self, name: str) -> int | None:
        """The label that a name means, in any spelling; None for none."""
        plain = name.strip().lower()
        return self.classes.index(plain) if plain in self.classes else self.spellings.get(plain)


MELD = Dataset(
    name="MELD",
    classes=MELD_CLASSES,
    spellings={"neu": 0, "sur": 1, "surprised": 1, "fea": 2, "sad": 3, "hap": 4, "happy": 4, "happiness": 4, "dis": 5}
    | {"disgusted": 5, "ang": 6, "angry": 6},
    length_bins=(5, 13),
)
IEMOCAP = Dataset(
    name="IEMOCAP",
    classes=IEMOCAP_CLASSES,
    spellings={"hap": 0, "happiness": 0, "sadness": 1, "neu": 2, "ang": 3, "anger": 3, "exc": 4, "excitement": 4}
    | {"fru": 5, "frustration": 5},
    length_bins=(43, 59),
)


def dataset_of(names: Collection[str], also: Collection[str] = ()) -> Dataset | None:
    """The data set that all `names` are classes of, in any spelling, and whose classes are all there, with those in `also`."""
    for dataset in (MELD, IEMOCAP):
        labels = {dataset.label(name) for name in names}
        if None not in labels and labels | {dataset.label(name) for name in also} >= set(range(len(dataset.classes))):
            return dataset
    return None


def repaired(sentence: str) -> str:
    """The sentence with CP1252 punctuation that was read as latin1 put right.

    >>> repaired("We can\\x92t\\x85")
    'We can’t…'
    """
    return sentence.translate(_CP1252)


def sha256(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
