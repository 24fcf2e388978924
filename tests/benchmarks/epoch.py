"""Seconds of a training epoch over MELD's train split: `python tests/benchmarks/epoch.py data/meld_text.safetensors`.

Language only, width 128, one DAG layer, the paper's batch of 32 dialogues, two CPU threads; the median of five epochs.
"""

from __future__ import annotations

import statistics
import sys

from lfvd.config import Config
from lfvd.corpus import Corpus
from lfvd.trainer import train

VALUES = {"data.modalities": "l", "model.width": 128, "model.dag_layers": 1, "run.threads": 2, "run.epochs": 6}


def main() -> None:
    """Print the seconds of each epoch and the median without the first, which warms up."""
    corpus = Corpus.open(sys.argv[1])
    result = train(Config.from_yaml("meld").with_values(VALUES), corpus, seed=0)
    seconds = [record["seconds"] for record in result.history]
    print("epochs:", " ".join(f"{s:.2f} s" for s in seconds))
    print(f"median of the last five: {statistics.median(seconds[1:]):.2f} s, validation included")


if __name__ == "__main__":
    main()
