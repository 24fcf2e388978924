"""The Python API, for scripts and notebooks: train, evaluate and predict without a console.

    from lfvd import Config, Corpus, evaluate, predict, train

    corpus = Corpus.load("data/demo.safetensors")
    model = train(Config.from_yaml("meld").with_values({"run.epochs": 5}), corpus, seed=0)
    model.history                       # a DataFrame, one row an epoch
    evaluate(model, corpus, "test")     # a DataFrame, one row a seed
    predict(model, corpus, "test")      # a DataFrame, one row an utterance

The logger `lfvd` tells each epoch at level INFO: `logging.basicConfig(level="INFO")` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from lfvd.config import Config
from lfvd.data.corpus import Corpus
from lfvd.training import runs, trainer
from lfvd.training.predictions import prediction_table, read_sentences


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What `train` returns."""

    run: runs.Run
    seed: int
    history: pd.DataFrame
    """One row an epoch; lfvd.training.trainer explains the columns."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation W-F1, from 1."""
        return int(self.run.seeds[self.seed]["best_epoch"])

    @property
    def scores(self) -> Mapping[str, float]:
        """Validation `loss`, `wf1`, `acc`, `f1/<class>` of the best epoch; all but the loss in 0..1."""
        scores: Mapping[str, float] = self.run.seeds[self.seed]["scores"]
        return scores

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch."""
        return self.run.models[self.seed].state_dict()


def train(config: Config, corpus: Corpus, seed: int = 0, *, out: str | Path | None = None) -> TrainedModel:
    """Train, and keep the best epoch on validation.

    out: a folder in which everything is written as by `lfvd train`, and from which an interrupted training continues.
    Raises InputError where the corpus does not fit the config or the folder holds another run; NonFiniteLoss where the
    training diverges.
    """
    if out is None:
        result = trainer.train(config, corpus, seed)
        run, history = runs.run_of_result(config, corpus, result)[0], result.history
    else:
        runs.train_seeds(config, corpus, [seed], out)
        # The folder may hold other seeds, which are other models.
        run, history = runs.load_run(out, seed), runs.read_epochs(Path(out) / f"seed{seed}" / "epochs.jsonl")
    return TrainedModel(run=run, seed=seed, history=pd.DataFrame(history).set_index("epoch"))


def evaluate(run: str | Path | TrainedModel, corpus: Corpus, split: str = "test") -> pd.DataFrame:
    """Scores of a trained model, or of each seed in a folder of `lfvd train`, on a split; writes nothing.

    One row a seed, columns `loss`, `wf1`, `acc`, `f1/<class>`. Raises InputError where the corpus does not fit the run, or
    the split has no labelled utterance.
    """
    summary = runs.score_run(_run(run), corpus, split)
    rows = {int(seed): each["scores"] for seed, each in summary["seeds"].items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seed")


def predict(
    run: str | Path | TrainedModel, corpus: Corpus, split: str = "test", *, sentences: str | Path | None = None
) -> pd.DataFrame:
    """The prediction for every utterance of a split, with probabilities averaged over the run's seeds; writes nothing.

    Columns dialogue, position, speaker, label, prediction, probability/<class>, and sentence where `sentences`, the
    parquet beside an imported corpus, exists. Raises InputError where corpus or sentences do not fit.
    """
    table = prediction_table(corpus, list(_run(run).evaluate(corpus, split).values()))
    if sentences is not None and Path(sentences).is_file():
        table = table.merge(read_sentences(sentences), how="left", on=["dialogue", "position"])
    return table


def _run(run: str | Path | TrainedModel) -> runs.Run:
    return run.run if isinstance(run, TrainedModel) else runs.load_run(run)
