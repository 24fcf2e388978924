"""What is known of MELD and IEMOCAP: classes in the order of the published labels, their other names, published counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")

# The 27 bytes that CP1252 fills with characters and latin1 with control characters.
_CP1252 = {i: text for i in range(0x80, 0xA0) if (text := bytes([i]).decode("cp1252", errors="ignore"))}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set as its published files have it, or one of the user's own."""

    name: str
    classes: tuple[str, ...]
    """Class names in the order of the labels 0, 1, …"""
    spellings: dict[str, int] = field(default_factory=dict)
    """Other names of classes → labels."""
    length_bins: tuple[int, ...] = ()
    """Upper ends of the paper's dialogue-length bins."""
    published: dict[tuple[str, ...], tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """Splits that are published as one → dialogues, and utterances of each class."""

    def label(self, name: str) -> int | None:
        """The label that a name means, in any spelling; None for none."""
        plain = name if name in self.classes else name.strip().lower()
        return self.classes.index(plain) if plain in self.classes else self.spellings.get(plain)


# Counts: MELD: Poria et al., 2019; IEMOCAP: the six-class feature files.
MELD = Dataset(
    name="MELD",
    classes=MELD_CLASSES,
    spellings={"neu": 0, "sur": 1, "surprised": 1, "fea": 2, "sad": 3, "hap": 4, "happy": 4, "happiness": 4, "dis": 5}
    | {"disgusted": 5, "ang": 6, "angry": 6},
    length_bins=(5, 13),
    published={
        ("train",): (1038, (4710, 1205, 268, 683, 1743, 271, 1109)),
        ("valid",): (114, (470, 150, 40, 111, 163, 22, 153)),
        ("test",): (280, (1256, 281, 50, 208, 402, 68, 345)),
    },
)
IEMOCAP = Dataset(
    name="IEMOCAP",
    classes=IEMOCAP_CLASSES,
    spellings={"hap": 0, "happiness": 0, "sadness": 1, "neu": 2, "ang": 3, "anger": 3, "exc": 4, "excitement": 4}
    | {"fru": 5, "frustration": 5},
    length_bins=(43, 59),
    published={
        ("train", "valid"): (120, (504, 839, 1324, 933, 742, 1468)),
        ("test",): (31, (144, 245, 384, 170, 299, 381)),
    },
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
