"""The rows of predictions.csv, and the words in which tables, figures and errors name their data."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lfvd.config import MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus
from lfvd.files import InputError, atomic_path
from lfvd.training.evaluation import Evaluation

SPLIT_NAMES = {"train": "train", "valid": "validation", "test": "test"}


def widths(of: Mapping[str, int]) -> str:
    """`language 384 wide, audio 300 wide`."""
    return ", ".join(f"{MODALITY_NAMES[m]} {width} wide" for m, width in of.items())


def data_id(data: Mapping[str, Any]) -> str:
    """`MELD 0a1b2c3d4e5f`: a corpus by name and the start of its fingerprint."""
    return f"{data.get('data')} {str(data.get('fingerprint'))[:12]}"


def title(summary: Mapping[str, Any]) -> str:
    """`MELD, validation split, 5 seeds, SIMULATED: audio, visual`; simulated are those that were simulated in training too."""
    count = len(summary["seeds"])
    simulated = simulated_modalities(summary)
    parts = [summary["data"], f"{SPLIT_NAMES[summary['split']]} split", f"{count} seed{'s' * (count > 1)}"]
    return ", ".join(parts) + (f"; SIMULATED: {', '.join(simulated)}" if simulated else "")


def simulated_modalities(summary: Mapping[str, Any]) -> list[str]:
    """Modalities that are simulated in the data evaluated on, or in those trained on."""
    either = {*summary["simulated"], *summary["trained_on"]["simulated"]}
    return [name for name in MODALITY_NAMES.values() if name in either]


def write_predictions(
    path: str | Path,
    corpus: Corpus,
    found: Evaluation,
    *,
    modalities: Sequence[str] = (),
    probability: np.ndarray | None = None,
    sentences: Mapping[tuple[str, int], str] | None = None,
) -> None:
    """Write one row an utterance, atomically: dialogue, position, speaker, label, prediction, probability of each class,
    fusion weight of each of `modalities`, sentence.

    probability [N', c] takes the place of `found.probability`; an unlabelled utterance has an empty label.
    """
    probability = found.probability if probability is None else probability
    dialogue = np.searchsorted(corpus.offset, found.row, side="right") - 1  # [N']
    position = found.row - corpus.offset[dialogue]
    header = ["dialogue", "position", "speaker", "label", "prediction", *(f"probability/{c}" for c in found.classes)]
    header += [f"weight/{MODALITY_NAMES[m]}" for m in modalities] + ["sentence"] * (sentences is not None)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for i, row in enumerate(found.row):
            key = corpus.info.dialogues[dialogue[i]], int(position[i])
            label = "" if found.label[i] == UNLABELLED else found.classes[found.label[i]]
            numbers = [*probability[i], *(found.weight[i] if modalities else ())]
            text = [] if sentences is None else [sentences.get(key, "")]
            prediction = found.classes[probability[i].argmax()]
            writer.writerow([*key, corpus.speaker[row], label, prediction, *(f"{x:.6f}" for x in numbers), *text])


def read_sentences(path: str | Path) -> dict[tuple[str, int], str]:
    """(dialogue, position) → sentence. Raises InputError where the file is not such a parquet."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path, columns=["dialogue", "position", "sentence"])
    except Exception as error:  # pyarrow raises a different kind for each way a file can be broken
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is not a parquet of sentences ({reason}): import the data again") from None
    rows = zip(frame["dialogue"].astype(str), frame["position"].astype(int), frame["sentence"], strict=True)
    return {(dialogue, position): sentence for dialogue, position, sentence in rows}
