"""The table of predictions: one row an utterance. Shape legend: lfvd.data.batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lfvd.config import MODALITY_NAMES
from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus
from lfvd.files import InputError, atomic_path, reason
from lfvd.training.evaluation import Evaluation


def prediction_table(corpus: Corpus, found: Sequence[Evaluation], *, modalities: Sequence[str] = ()) -> pd.DataFrame:
    """One row an utterance, from the evaluations of one or more seeds: dialogue, position, speaker, label (None if
    unlabelled), prediction, probability of each class (mean over the seeds), fusion weight of each of `modalities`."""
    first = found[0]
    probability = np.mean([each.probability for each in found], axis=0)  # [N', c]
    dialogue = np.searchsorted(corpus.offset, first.row, side="right") - 1  # [N']
    classes = np.array([*first.classes, None], dtype=object)
    return pd.DataFrame(
        {
            "dialogue": np.array(corpus.info.dialogues, dtype=object)[dialogue],
            "position": first.row - corpus.offset[dialogue],
            "speaker": corpus.speaker[first.row],
            "label": classes[np.where(first.label == UNLABELLED, len(first.classes), first.label)],
            "prediction": classes[probability.argmax(1)],
            **{f"probability/{name}": probability[:, k] for k, name in enumerate(first.classes)},
            **{f"weight/{MODALITY_NAMES[m]}": first.weight[:, k] for k, m in enumerate(modalities)},
        }
    )


def write_predictions(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table of predictions as CSV, atomically, with six digits."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")


def read_sentences(path: str | Path) -> pd.DataFrame:
    """Columns dialogue, position, sentence. Raises InputError where the file is not such a parquet."""
    try:
        table = pd.read_parquet(path, columns=["dialogue", "position", "sentence"])
        return table.astype({"dialogue": str, "position": int}).drop_duplicates(["dialogue", "position"], keep="last")
    except Exception as error:  # pyarrow raises a different kind for each way a file can be broken
        raise InputError(f"{path}: is not a parquet of sentences ({reason(error)}): import the data again") from None
