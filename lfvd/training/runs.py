"""The folder of `lfvd train`: written seed by seed, read again to evaluate and to predict.

    config.yaml            exactly what ran, and on which data
    result.json            validation scores of each seed's best epoch, their mean and sample standard deviation
    confusion_valid.png    over all seeds
    curves.png             losses and validation W-F1 by epoch
    seed<k>/checkpoint.pt      written each epoch: the same command continues from it; may go once the seed is finished
    seed<k>/epochs.jsonl       one record an epoch; lfvd.training.trainer explains the names
    seed<k>/predictions.csv    validation split, best epoch
    seed<k>/model.safetensors  weights of the best epoch; written last: where it is, the seed is finished
    <split>.json, confusion_<split>.png    written by `lfvd evaluate`

All scores are in 0..1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lfvd.config import MODALITY_NAMES, Config
from lfvd.data import UNLABELLED
from lfvd.data.corpus import Corpus
from lfvd.files import InputError, atomic_path, read_yaml, reason, write_text
from lfvd.models.build import build_model
from lfvd.models.lfvd import LFVD
from lfvd.training.checkpoint import TrainResult, read_result
from lfvd.training.environment import configure_precision, pick_device, run_info
from lfvd.training.evaluation import Evaluation, evaluate
from lfvd.training.metrics import Record, canonical_metrics
from lfvd.training.predictions import prediction_table, write_predictions
from lfvd.training.summary import Summary, data_id, format_widths, headline, seed_scores, summarise
from lfvd.training.trainer import NonFiniteLoss, check_fit, train

OnEpoch = Callable[[int, list[Record]], None]
"""Called with a seed and all its epochs' records so far: when the seed begins, and after each epoch."""

FORMAT = "lfvd-model"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The finished seeds of a run."""

    name: str
    """Its folder, or how errors name a run that has none."""
    config: Config
    classes: tuple[str, ...]
    widths: dict[str, int]
    """Modality → feature width."""
    data: dict[str, Any]
    """Name, fingerprint and simulated modalities of the corpus that it was trained on."""
    seeds: dict[int, dict[str, Any]]
    """Seed → its validation scores and run_info, as in result.json."""
    models: dict[int, LFVD]
    """Seed → model with the weights of the best epoch."""

    def evaluate(self, corpus: Corpus, split: str) -> dict[int, Evaluation]:
        """Predictions of each seed's model for a split.

        Raises InputError where the corpus has other classes or widths than the run, CorpusError without a modality.
        """
        if corpus.info.classes != self.classes:
            here, there = ", ".join(corpus.info.classes), ", ".join(self.classes)
            raise InputError(
                f"{self.name}: was trained on the classes {there}, but the corpus {corpus.info.name} has {here}: "
                "name the data that it was trained on"
            )
        widths = corpus.widths(list(self.widths))
        if widths != self.widths:
            raise InputError(
                f"{self.name}: was trained on features {format_widths(self.widths)}, but the corpus "
                f"{corpus.info.name} has {format_widths(widths)}: name data imported from the same features"
            )
        torch.set_num_threads(self.config.run.threads)
        configure_precision(self.config.run.precision)
        device = self.device()
        return {seed: evaluate(model.to(device), corpus, split, device=device) for seed, model in self.models.items()}

    def device(self) -> torch.device:
        """Where to predict: a run trained on the CPU gives its own numbers again there; others take what there is."""
        return pick_device("cpu" if self.config.run.device == "cpu" else "auto")


def train_seeds(
    config: Config, corpus: Corpus, seeds: Sequence[int], out: str | Path, *, on_epoch: OnEpoch | None = None
) -> Summary:
    """Train each seed that the folder does not hold finished, and sum up all that it then holds (module docstring).

    Continues an interrupted run of the same config and data (on a CPU to the same bits). Raises InputError, with nothing written,
    where the folder holds another run or the corpus does not fit; NonFiniteLoss where the training diverges.
    """
    check_fit(config, corpus)
    out = Path(out)
    _claim_folder(out, config, corpus)
    for seed in seeds:
        try:
            _train_seed(config, corpus, seed, out / f"seed{seed}", on_epoch or (lambda _seed, _history: None))
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"seed {seed}, {error}") from None
    return _conclude(out)


def _claim_folder(out: Path, config: Config, corpus: Corpus) -> None:
    """Write config.yaml, or compare with the one that is there."""
    file, data = out / "config.yaml", _data(config, corpus)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but `--out` must be a folder: name another")
    if not file.exists():
        config.to_yaml(file, provenance=data)
        return
    there = Config.from_yaml(file).flat()
    other = read_yaml(file).get("provenance")
    if not isinstance(other, dict):
        raise InputError(f"{file}: has no `provenance`: name another folder, or delete this one")
    words = [f"`{k}` is {there[k]} there, {v} here" for k, v in config.flat().items() if there[k] != v]
    if other.get("fingerprint") != corpus.fingerprint:
        words.append(f"the data are {data_id(other)} there, {data_id(data)} here")
    if words:
        raise InputError(f"{out}: holds another run ({'; '.join(words)}): name another folder, or delete this one")


def _data(config: Config, corpus: Corpus) -> dict[str, Any]:
    """What a result says of its data; of the simulated modalities, those that the model sees."""
    seen = {MODALITY_NAMES[m] for m in config.data.modalities}
    return {
        "data": corpus.info.name,
        "fingerprint": corpus.fingerprint,
        "simulated": [name for name in corpus.info.simulated if name in seen],
    }


def _train_seed(config: Config, corpus: Corpus, seed: int, folder: Path, on_epoch: OnEpoch) -> None:
    checkpoint, epochs = folder / "checkpoint.pt", folder / "epochs.jsonl"
    for half_written in folder.glob(".*.*"):  # by a process that was killed
        half_written.unlink()
    if (folder / "model.safetensors").is_file():
        on_epoch(seed, read_epochs(epochs))
        return
    history = read_result(checkpoint).history if checkpoint.is_file() else []
    on_epoch(seed, history)

    def report(record: Record) -> None:
        if record["epoch"] > len(history):  # the others come back with the checkpoint
            history.append(record)
            _write_epochs(epochs, history)
            on_epoch(seed, history)

    _finish_seed(config, corpus, train(config, corpus, seed, report=report, checkpoint=checkpoint), folder)


def _finish_seed(config: Config, corpus: Corpus, result: TrainResult, folder: Path) -> None:
    """Write what a finished seed leaves, the model last."""
    _write_epochs(folder / "epochs.jsonl", result.history)
    run, found = run_of_result(config, corpus, result)
    write_predictions(folder / "predictions.csv", prediction_table(corpus, [found], modalities=tuple(run.widths)))
    header = {
        "config": config.to_dict(),
        "classes": run.classes,
        "widths": run.widths,
        "data": run.data,
        "seed": result.seed,
        "result": run.seeds[result.seed],
    }
    state = {k: v.cpu().contiguous() for k, v in result.state.items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        # One entry only: the library writes several in random order, and the same run is to give the same bytes.
        save_file(state, temporary, metadata={FORMAT: json.dumps(header)})


def run_of_result(config: Config, corpus: Corpus, result: TrainResult) -> tuple[Run, Evaluation]:
    """A finished training as a run of one seed, and its predictions for the validation split."""
    widths, device = check_fit(config, corpus), pick_device(config.run.device)
    model = build_model(config, widths, len(corpus.info.classes))
    model.load_state_dict(result.state)
    found = evaluate(model.to(device), corpus, "valid", device=device)
    numbers = {"best_epoch": result.best_epoch, "epochs": len(result.history), **seed_scores(found)}
    run = Run(
        name="this run",
        config=config,
        classes=corpus.info.classes,
        widths=widths,
        data=_data(config, corpus),
        seeds={result.seed: {**numbers, "run": run_info(device)}},
        models={result.seed: model},
    )
    return run, found


def read_epochs(path: str | Path) -> list[Record]:
    """The records of an epochs.jsonl."""
    return [canonical_metrics(json.loads(line)) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _write_epochs(path: Path, history: Sequence[Record]) -> None:
    write_text(path, "".join(json.dumps(record) + "\n" for record in history))


def _conclude(out: Path) -> Summary:
    """Figures and result.json over all finished seeds of the folder; left alone where they are up to date."""
    from lfvd.training import plots

    run = load_run(out)
    summary = summarise(run.data, run.data, "valid", run.seeds)
    figures = out / "confusion_valid.png", out / "curves.png"
    file = out / "result.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == summary and all(f.is_file() for f in figures):
        return summary
    _draw_confusion(figures[0], summary, run.classes)
    histories = {seed: read_epochs(out / f"seed{seed}" / "epochs.jsonl") for seed in run.seeds}
    with atomic_path(figures[1]) as temporary:
        best = {seed: each["best_epoch"] for seed, each in run.seeds.items()}
        plots.curves(temporary, histories, best=best, title=headline(summary))
    _write_json(file, summary)
    return summary


def _draw_confusion(path: Path, summary: Summary, classes: Sequence[str]) -> None:
    from lfvd.training import plots

    counts = np.sum([each["confusion"] for each in summary["seeds"].values()], axis=0)
    with atomic_path(path) as temporary:
        plots.confusion(temporary, counts, classes=classes, title=headline(summary))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def load_run(folder: str | Path, seed: int | None = None) -> Run:
    """Read a run's finished seeds, or one of them. Raises InputError where there is none, or a file of it cannot be read."""
    folder = Path(folder)
    found = [p for p in folder.glob("seed*/model.safetensors") if p.parent.name[4:].isdecimal()]
    files = {number: p for p in found if (number := int(p.parent.name[4:])) == seed or seed is None}
    if not files:
        remedy = (
            "finish it with `lfvd train`" if (folder / "config.yaml").is_file() else "name a folder of `lfvd train`"
        )
        raise InputError(f"{folder}: holds no finished run: {remedy}")
    headers, models = {}, {}
    for seed, file in sorted(files.items()):
        headers[seed], models[seed] = _load_model(file)
    first = next(iter(headers.values()))
    return Run(
        name=str(folder),
        config=Config.from_dict(first["config"]),
        classes=tuple(first["classes"]),
        widths=first["widths"],
        data=first["data"],
        seeds={seed: header["result"] for seed, header in headers.items()},
        models=models,
    )


def _load_model(path: Path) -> tuple[dict[str, Any], LFVD]:
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {})[FORMAT])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        model = build_model(Config.from_dict(header["config"]), header["widths"], len(header["classes"]))
        model.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: is not a readable model ({reason(error)}): delete it, and run `lfvd train` again"
        ) from None
    return header, model


def evaluate_run(folder: str | Path, corpus: Corpus, split: str) -> Summary:
    """Scores of each seed's weights on a split; writes confusion_<split>.png and <split>.json into the folder.

    Raises InputError where the corpus does not fit the run, or where the split has no labelled utterance.
    """
    run, folder = load_run(folder), Path(folder)
    summary = score_run(run, corpus, split)
    _draw_confusion(folder / f"confusion_{split}.png", summary, run.classes)
    _write_json(folder / f"{split}.json", summary)
    return summary


def score_run(run: Run, corpus: Corpus, split: str) -> Summary:
    """Scores of each seed's weights on a split. Raises as `evaluate_run` does."""
    if not (corpus.label[corpus.rows(split)] != UNLABELLED).any():
        raise InputError(
            f"the corpus {corpus.info.name} has no labelled utterance in its {split} split: use `lfvd predict`"
        )
    found = run.evaluate(corpus, split)
    seeds = {seed: {"best_epoch": run.seeds[seed]["best_epoch"], **seed_scores(found[seed])} for seed in found}
    return summarise(_data(run.config, corpus), run.data, split, seeds) | {"run": run_info(run.device())}
