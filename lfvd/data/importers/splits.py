"""The split of each dialogue: as a source names it, as MELD numbers it, or drawn from train by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lfvd.data.corpus import SPLITS, CorpusError
from lfvd.data.importers.datasets import MELD, MELD_GONE, MELD_VALID
from lfvd.data.importers.source import FeatureSource

_MAX_DIGITS = 19  # of a dialogue's number


def natural_order(key: str) -> tuple[int, int, str]:
    """Sorts numbers by size, before names by alphabet."""
    return (0, int(key), "") if key.isdecimal() and len(key) <= _MAX_DIGITS else (1, 0, key)


def split_of_dialogues(
    labelled: FeatureSource, sources: Sequence[FeatureSource], *, valid_fraction: float, seed: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """Dialogue → number of its split, and the options to record. A source that names validation dialogues is preferred.

    Raises CorpusError where a dialogue of `labelled` is in no split or in two, or a split names others.
    """
    named = [s for s in sources if s.splits]
    if not named:
        raise CorpusError(f"{labelled}: says nothing of train and test, but it must: name the file that does with it")
    source = next((s for s in named if "valid" in s.splits), named[0])
    found: dict[str, int] = {}
    for split, ids in source.splits.items():
        for key in ids:
            if key in found:
                raise CorpusError(
                    f"{source}: dialogue {key} is in {SPLITS[found[key]]} and in {split}, but must be in one: correct it"
                )
            found[key] = SPLITS.index(split)
    if source.dataset is MELD and MELD_GONE not in labelled.labels:
        found.pop(MELD_GONE, None)
    if missing := labelled.labels.keys() ^ found.keys():
        key = min(missing, key=natural_order)
        problem = "is in no split" if key in labelled.labels else "is in a split, but has no utterances"
        raise CorpusError(
            f"{source}: dialogue {key} {problem} (and {len(missing) - 1} more such): correct the ids of the splits"
        )
    if "valid" in source.splits:
        return found, {}
    train = sorted((key for key, split in found.items() if split == 0), key=natural_order)
    valid = [key for key in train if source.dataset is MELD and natural_order(key)[1] in MELD_VALID]
    options: dict[str, Any] = {}
    if not valid:
        if len(train) < 2:
            raise CorpusError(
                f"{source}: has {len(train)} train dialogues, but two are needed to choose validation from"
            )
        drawn = np.random.default_rng(seed).permutation(len(train))
        valid = [train[i] for i in drawn[: min(max(1, round(valid_fraction * len(train))), len(train) - 1)]]
        options = {"valid_fraction": valid_fraction, "carve_seed": seed}
    return found | dict.fromkeys(valid, SPLITS.index("valid")), options
