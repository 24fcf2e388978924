"""The folder of `lfvd train`, and what is read from it again.

    config.yaml            exactly what ran, and on which data
    result.json            validation scores of each seed's best epoch, their mean and sample standard deviation
    confusion_valid.png    over all seeds
    curves.png             losses and validation W-F1 by epoch
    seed<k>/checkpoint.pt      written each epoch: the same command continues from it; may go once the seed is finished
    seed<k>/epochs.jsonl       one record an epoch; lfvd.training.trainer explains the names
    seed<k>/predictions.csv    validation split, best epoch
    seed<k>/model.safetensors  weights of the best epoch; written last, so its presence says that the seed is finished
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
from lfvd.files import InputError, atomic_path, read_yaml, write_text
from lfvd.models.build import build_model
from lfvd.models.lfvd import LFVD
from lfvd.training import predictions
from lfvd.training.environment import configure_precision, pick_device, run_info
from lfvd.training.evaluation import Evaluation, evaluate
from lfvd.training.metrics import confusion_matrix
from lfvd.training.trainer import NonFiniteLoss, Record, TrainResult, check_fit, read_result, train

Progress = Callable[[int, list[Record]], None]
"""Called with a seed and all its epochs' records so far: when the seed begins, and after each epoch."""

Summary = dict[str, Any]
"""Content of result.json and <split>.json: `data`, `split`, `seeds` → {best_epoch, scores, by_length, confusion, …},
and `mean`, `std` (None for a single seed) of scores and by_length over the seeds."""

FORMAT = "lfvd-model"


@dataclass(frozen=True, kw_only=True)
class Run:
    """The finished seeds of a run's folder."""

    folder: Path
    config: Config
    classes: tuple[str, ...]
    widths: dict[str, int]
    """Modality → feature width."""
    data: dict[str, Any]
    """Name, fingerprint and simulated modalities of the corpus that it was trained on."""
    seeds: dict[int, dict[str, Any]]
    """Seed → its validation scores and run_info, as in result.json."""
    models: dict[int, LFVD]
    """Seed → model with the weights of the best epoch, on the CPU."""

    def check(self, corpus: Corpus) -> None:
        """Raises InputError where the corpus has other classes or widths than the run, CorpusError without a modality."""
        if corpus.info.classes != self.classes:
            here, there = ", ".join(corpus.info.classes), ", ".join(self.classes)
            raise InputError(
                f"{self.folder}: was trained on the classes {there}, but the corpus {corpus.info.name} has {here}: "
                "name the data that it was trained on"
            )
        widths = corpus.widths(list(self.widths))
        if widths != self.widths:
            raise InputError(
                f"{self.folder}: was trained on features {predictions.widths(self.widths)}, but the corpus "
                f"{corpus.info.name} has {predictions.widths(widths)}: name data imported from the same features"
            )


def train_seeds(
    config: Config, corpus: Corpus, seeds: Sequence[int], out: str | Path, *, progress: Progress | None = None
) -> Summary:
    """Train each seed that the folder does not hold finished, and sum up all that it then holds (module docstring).

    Continues an interrupted run of the same config and data (on a CPU to the same bits). Raises InputError, with nothing written,
    where the folder holds another run or the corpus does not fit; NonFiniteLoss where the training diverges.
    """
    check_fit(config, corpus)
    out = Path(out)
    _claim(out, config, corpus)
    for seed in seeds:
        try:
            _train_seed(config, corpus, seed, out / f"seed{seed}", progress or (lambda _seed, _history: None))
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"seed {seed}, {error}") from None
    return _conclude(out)


def _claim(out: Path, config: Config, corpus: Corpus) -> None:
    """Write config.yaml, or compare with the one that is there."""
    file = out / "config.yaml"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file, but `--out` must be a folder: name another")
    if not file.exists():
        config.to_yaml(file, provenance=_data(config, corpus))
        return
    there = Config.from_yaml(file).flat()
    data = read_yaml(file).get("provenance")
    if not isinstance(data, dict):
        raise InputError(f"{file}: has no `provenance`: name another folder, or delete this one")
    words = [f"`{k}` is {there[k]} there, {v} here" for k, v in config.flat().items() if there[k] != v]
    if data.get("fingerprint") != corpus.fingerprint:
        words.append(
            f"the data are {predictions.data_id(data)} there, {predictions.data_id(_data(config, corpus))} here"
        )
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


def _train_seed(config: Config, corpus: Corpus, seed: int, folder: Path, progress: Progress) -> None:
    checkpoint, epochs = folder / "checkpoint.pt", folder / "epochs.jsonl"
    for half_written in folder.glob(".*.*"):  # by a process that was killed
        half_written.unlink()
    if (folder / "model.safetensors").is_file():
        progress(seed, read_epochs(epochs))
        return
    history = read_result(checkpoint).history if checkpoint.is_file() else []
    progress(seed, history)

    def report(record: Record) -> None:
        if record["epoch"] > len(history):  # the others come back with the checkpoint
            history.append(record)
            _write_epochs(epochs, history)
            progress(seed, history)

    _finish_seed(config, corpus, train(config, corpus, seed, report=report, checkpoint=checkpoint), folder)


def _finish_seed(config: Config, corpus: Corpus, result: TrainResult, folder: Path) -> None:
    """Write what a finished seed leaves, the model last."""
    _write_epochs(folder / "epochs.jsonl", result.history)
    widths = check_fit(config, corpus)
    device = pick_device(config.run.device)
    model = build_model(config, widths, len(corpus.info.classes))
    model.load_state_dict(result.state)
    found = evaluate(model.to(device), corpus, "valid", device=device)
    predictions.write_predictions(folder / "predictions.csv", corpus, found, modalities=model.modalities)
    header = {
        "config": config.to_dict(),
        "classes": corpus.info.classes,
        "widths": widths,
        "data": _data(config, corpus),
        "seed": result.seed,
        "result": {
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            **_scored(found),
            "run": run_info(device),
        },
    }
    state = {k: v.cpu().contiguous() for k, v in result.state.items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        # One entry only: the library writes several in random order, and the same run is to give the same bytes.
        save_file(state, temporary, metadata={FORMAT: json.dumps(header)})


def _scored(found: Evaluation) -> dict[str, Any]:
    known = found.label != UNLABELLED
    confusion = confusion_matrix(found.label[known], found.prediction[known], len(found.classes))
    return {
        "scores": {"loss": found.loss, **found.scores()},
        "by_length": found.scores_by_length(),
        "confusion": confusion.tolist(),
    }


def read_epochs(path: str | Path) -> list[Record]:
    """The records of an epochs.jsonl."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _write_epochs(path: Path, history: Sequence[Record]) -> None:
    write_text(path, "".join(json.dumps(record) + "\n" for record in history))


def _conclude(out: Path) -> Summary:
    """Figures and result.json over all finished seeds of the folder; left alone where they are up to date."""
    from lfvd.training import plots

    run = load_run(out)
    summary = _summary(run, run.data, "valid", run.seeds)
    figures = out / "confusion_valid.png", out / "curves.png"
    file = out / "result.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == summary and all(f.is_file() for f in figures):
        return summary
    _confusion_figure(figures[0], summary, run.classes)
    histories = {seed: read_epochs(out / f"seed{seed}" / "epochs.jsonl") for seed in run.seeds}
    with atomic_path(figures[1]) as temporary:
        best = {seed: each["best_epoch"] for seed, each in run.seeds.items()}
        plots.curves(temporary, histories, best=best, title=predictions.title(summary))
    _write_json(file, summary)
    return summary


def _confusion_figure(path: Path, summary: Summary, classes: Sequence[str]) -> None:
    from lfvd.training import plots

    counts = np.sum([each["confusion"] for each in summary["seeds"].values()], axis=0)
    with atomic_path(path) as temporary:
        plots.confusion(temporary, counts, classes=classes, title=predictions.title(summary))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _summary(run: Run, data: Mapping[str, Any], split: str, seeds: Mapping[int, Mapping[str, Any]]) -> Summary:
    """Results of each seed on a split → with mean and sample standard deviation of every score over the seeds."""
    summary: Summary = {**data, "trained_on": run.data, "split": split, "mean": {}, "std": {}}
    for group in ("scores", "by_length"):
        table = {k: np.array([each[group][k] for each in seeds.values()]) for k in next(iter(seeds.values()))[group]}
        summary["mean"][group] = {k: float(v.mean()) for k, v in table.items()}
        summary["std"][group] = {k: float(v.std(ddof=1)) if len(v) > 1 else None for k, v in table.items()}
    return {**summary, "seeds": {str(seed): dict(each) for seed, each in seeds.items()}}


def load_run(folder: str | Path) -> Run:
    """Read a run's finished seeds. Raises InputError where there is none, or a file of it cannot be read."""
    folder = Path(folder)
    files = {int(p.parent.name[4:]): p for p in folder.glob("seed*/model.safetensors") if p.parent.name[4:].isdecimal()}
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
        folder=folder,
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
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is not a readable model ({reason}): delete it, and run `lfvd train` again") from None
    return header, model


def evaluate_run(folder: str | Path, corpus: Corpus, split: str) -> Summary:
    """Scores of each seed's weights on a split; writes confusion_<split>.png and <split>.json into the folder.

    Raises InputError where the corpus does not fit the run, or where the split has no labelled utterance.
    """
    run = load_run(folder)
    run.check(corpus)
    if not (corpus.label[corpus.rows(split)] != UNLABELLED).any():
        raise InputError(
            f"the corpus {corpus.info.name} has no labelled utterance in its {split} split: use `lfvd predict`"
        )
    seeds = {
        seed: {"best_epoch": run.seeds[seed]["best_epoch"], **_scored(found)}
        for seed, found in _predictions(run, corpus, split).items()
    }
    summary = _summary(run, _data(run.config, corpus), split, seeds) | {"run": run_info(_device(run.config))}
    _confusion_figure(run.folder / f"confusion_{split}.png", summary, run.classes)
    _write_json(run.folder / f"{split}.json", summary)
    return summary


def _predictions(run: Run, corpus: Corpus, split: str) -> dict[int, Evaluation]:
    """Seed → predictions."""
    torch.set_num_threads(run.config.run.threads)
    configure_precision(run.config.run.precision)
    device = _device(run.config)
    return {seed: evaluate(model.to(device), corpus, split, device=device) for seed, model in run.models.items()}


def _device(config: Config) -> torch.device:
    """Where to predict: a run trained on the CPU gives its own numbers again there; others take what there is."""
    return pick_device("cpu" if config.run.device == "cpu" else "auto")


def predict_run(
    folder: str | Path, corpus: Corpus, split: str, out_csv: str | Path, *, sentences: str | Path | None = None
) -> int:
    """Write, atomically, one row an utterance: probabilities averaged over the seeds, prediction, label, sentence.

    sentences: a parquet with columns dialogue, position, sentence, used where it exists. Returns the number of rows.
    Raises InputError where corpus or sentences do not fit.
    """
    run = load_run(folder)
    run.check(corpus)
    found = list(_predictions(run, corpus, split).values())
    probability = np.mean([each.probability for each in found], axis=0)  # [N', c]
    texts = predictions.read_sentences(sentences) if sentences is not None and Path(sentences).is_file() else None
    predictions.write_predictions(out_csv, corpus, found[0], probability=probability, sentences=texts)
    return len(probability)
