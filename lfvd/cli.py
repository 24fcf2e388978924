"""The command `lfvd`: data → training → scores → predictions.

lfvd import ../shared/meld --language ../shared/meld/minilm.npz --out data/meld.safetensors
lfvd import IEMOCAP_features.pkl --out data/iemocap.safetensors            (any published feature file)
lfvd extract audio MELD --clips MELD.Raw --out audio.npz                     (raw sound, pictures or text → features)
lfvd simulate --like meld --dialogues 60 --out data/demo.safetensors       (no data at hand: a simulated corpus)
lfvd describe data/demo.safetensors
lfvd train meld --data data/demo.safetensors --set model.width=64 --set run.epochs=5 --out runs/demo
lfvd evaluate runs/demo --data data/demo.safetensors --split test
lfvd predict runs/demo --data data/demo.safetensors --split test --out predictions.csv
"""

# Torch, numpy, pandas and matplotlib take seconds to import: inside the commands that need them.

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lfvd.extract.cli import app as extract_app
from lfvd.extract.cli import interruptible, print_error
from lfvd.files import InputError, print_warnings

if TYPE_CHECKING:
    from lfvd.config import Config
    from lfvd.data.corpus import Corpus

app = typer.Typer(
    help="Emotion recognition in conversation from language, audio and visual features.",
    epilog="Start with `lfvd simulate` or `lfvd import`, then `lfvd train`. `lfvd COMMAND --help` says more.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(extract_app, name="extract")

DataOption = Annotated[Path, typer.Option("--data", metavar="FILE", help="Corpus made by `lfvd import` or `simulate`.")]
SplitOption = Annotated[Literal["train", "valid", "test"], typer.Option("--split", help="Which dialogues.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `lfvd train`.")]
CorpusOut = Annotated[Path, typer.Option("--out", metavar="FILE", help="Corpus to write (.safetensors).")]


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 training diverged, 2 bad input (one sentence on stderr), 130 interrupted."""
    print_warnings("lfvd")
    if os.name != "posix":
        print_error(f"needs Linux or macOS, but this is {platform.system()}: use WSL or a container")
        sys.exit(2)
    try:
        app(args=None if argv is None else list(argv), prog_name="lfvd")
    except InputError as error:
        print_error(str(error))
    except OSError as error:
        print_error(f"{error.filename2 or error.filename}: {error.strerror}: check the path, its rights and the disk")
    sys.exit(2)


@app.command("import")
def import_(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE", help="Feature files, a table of utterances, or a folder of them.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Corpus to write (.safetensors).")] = None,
    language: Annotated[str | None, typer.Option(metavar="FILE", help="Language features (.npz, .npy).")] = None,
    audio: Annotated[
        str | None, typer.Option(metavar="FILE|simulated", help="Audio features, or synthetic ones.")
    ] = None,
    visual: Annotated[
        str | None, typer.Option(metavar="FILE|simulated", help="Visual features, or synthetic ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of simulated features.")] = 0,
    text_layers: Annotated[
        Literal["mean", "first", "concat"], typer.Option(help="What to make of a text's four RoBERTa layers.")
    ] = "mean",
    valid_fraction: Annotated[
        float, typer.Option(metavar="SHARE", help="Train dialogues for validation, where a source has none.")
    ] = 0.1,
    carve_seed: Annotated[int, typer.Option(help="Seed that chooses these dialogues.")] = 0,
    nan_to_zero: Annotated[bool, typer.Option("--nan-to-zero", help="NaN and infinite values become 0.")] = False,
    classes: Annotated[str, typer.Option(metavar="A,B,…", help="Of a table: class names in order of the labels.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Describe what would be written; write nothing.")] = False,
) -> None:
    """Make a corpus from feature files of any published layout, or from a table."""
    if out is None and not dry_run:
        raise InputError("--out: is missing, but says where the corpus goes: try --out data/corpus.safetensors")
    if out is not None:
        _check_out(out)
        if out.with_suffix(".parquet").resolve() in {source.resolve() for source in sources}:
            raise InputError(f"--out {out}: its sentences would take the place of the source: choose another name")
    from lfvd.data.importers import ImportOptions, import_files

    given = {"l": language, "a": audio, "v": visual}
    options = ImportOptions(
        text_layers=text_layers,
        valid_fraction=valid_fraction,
        carve_seed=carve_seed,
        nan_to_zero=nan_to_zero,
        seed=seed,
        features={m: f for m, f in given.items() if f is not None},
    )
    corpus, sentences, found = import_files(
        sources, options, classes=[c.strip() for c in classes.split(",") if c.strip()]
    )
    for line in found:
        print(line)
    if out is None or dry_run:
        corpus.check(str(sources[0]))
        _print_tables(corpus)
        return
    corpus = corpus.save(out)
    from lfvd.data.importers import write_sentences

    if sentences.empty:
        out.with_suffix(".parquet").unlink(missing_ok=True)  # sentences of what lay there before
        _say_written(corpus, out)
    else:
        _say_written(corpus, out, write_sentences(sentences, out))


@app.command()
def simulate(
    out: CorpusOut,
    like: Annotated[Literal["meld", "iemocap"], typer.Option(help="Whose statistics to follow.")] = "meld",
    dialogues: Annotated[int | None, typer.Option(metavar="N", help="How many; the real number if absent.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
) -> None:
    """Make a simulated corpus with the statistics of a real one."""
    _check_out(out)
    from lfvd.data import simulate as simulation

    corpus = simulation.simulate(like, seed=seed, dialogues=dialogues).save(out)
    out.with_suffix(".parquet").unlink(missing_ok=True)  # sentences of what lay there before
    _say_written(corpus, out)


def _check_out(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: must end in .safetensors: try {out.with_suffix('.safetensors')}")


def _say_written(corpus: Corpus, *files: Path) -> None:
    info, counts = corpus.info, f"{len(corpus.info.dialogues)} dialogues, {len(corpus.label)} utterances"
    print(f"wrote {' and '.join(map(str, files))}: {info.name}, {counts}{_simulated(corpus)}")
    print(f"next: lfvd describe {shlex.quote(str(files[0]))}")


def _simulated(corpus: Corpus) -> str:
    names = corpus.info.simulated
    return f"; SIMULATED: {', '.join(names)}" if names else ""


@app.command()
def describe(file: Annotated[Path, typer.Argument(metavar="FILE", help="Corpus to describe.")]) -> None:
    """Print what a corpus holds, and its oddities."""
    _print_tables(_open(file))


def _print_tables(corpus: Corpus) -> None:
    from rich.console import Console

    from lfvd.data.describe import describe as tables

    Console(highlight=False).print(tables(corpus))


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or the preset meld or iemocap.")],
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder for the models and results.")],
    seed: Annotated[int | None, typer.Option(help="One seed (default 0).")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,2", help="Several seeds, for mean and deviation.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of CONFIG, as model.heads=8.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Short for run.device.")] = None,
    patience: Annotated[int | None, typer.Option(metavar="K", help="Short for run.patience: stop after K.")] = None,
) -> None:
    """Train, and keep the best epoch on validation.

    The same command continues an interrupted run (on a CPU to the same bits), and does nothing more for a finished one.
    """
    chosen = _config(config, set_ or [], {"run.device": device, "run.patience": patience})
    numbers = _seeds(seed, seeds)
    corpus = _open(data)
    from lfvd.training.runs import train_seeds
    from lfvd.training.terminal import TrainingProgress, print_summary
    from lfvd.training.trainer import NonFiniteLoss

    try:
        with (
            interruptible(f"the same command continues from the last whole epoch in {out}"),
            TrainingProgress(numbers, chosen.run.epochs) as progress,
        ):
            summary = train_seeds(chosen, corpus, numbers, out, on_epoch=progress)
    except NonFiniteLoss as error:
        print_error(str(error))
        raise typer.Exit(1) from None
    print_summary(summary)
    print(f"wrote {out}: result.json, confusion_valid.png, curves.png, seed*/model.safetensors")
    print(f"next: lfvd evaluate {shlex.quote(str(out))} --data {shlex.quote(str(data))} --split test")


def _config(name: str, settings: Sequence[str], options: dict[str, Any]) -> Config:
    """A preset or file with `--set key=value` and the options that are short for a key."""
    import yaml

    from lfvd.config import Config

    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: has no `=`, but must be KEY=VALUE: as in --set model.heads=8")
        if key in values:
            raise InputError(f"--set: the key `{key}` is given twice: keep one")
        try:
            values[key] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise InputError(f"--set {setting}: the value is not valid YAML: quote it") from None
    given = {key: value for key, value in options.items() if value is not None}
    return Config.from_yaml(name).with_values(values, source="--set").with_values(given, source="command line")


def _seeds(one: int | None, several: str | None) -> list[int]:
    """`--seed 3` → [3]; `--seeds 0,1` → [0, 1]; neither → [0]."""
    if one is not None and several is not None:
        raise InputError("--seed and --seeds are both given: keep one")
    texts = several.split(",") if several is not None else [str(one or 0)]
    if not all(t.strip().isdecimal() and int(t) < 2**32 for t in texts) or len({int(t) for t in texts}) < len(texts):
        raise InputError(
            f"the value of `{'--seed' if several is None else '--seeds'}` is {','.join(texts)}, but must be different whole numbers from 0 to {2**32 - 1}: "
            "try --seeds 0,1,2"
        )
    return [int(t) for t in texts]


def _open(path: Path) -> Corpus:
    from lfvd.data.corpus import Corpus

    return Corpus.load(path)


def _note_other_data(run: Path, corpus: Corpus) -> None:
    """Say on stderr where the corpus is not the one that a run was trained on: allowed, but seldom meant."""
    from lfvd.files import read_yaml
    from lfvd.training.summary import data_id

    file = run / "config.yaml"
    trained = read_yaml(file).get("provenance") or {} if file.is_file() else {}
    if trained.get("fingerprint") not in (None, corpus.fingerprint):
        here = {"data": corpus.info.name, "fingerprint": corpus.fingerprint}
        print_error(f"note: {run} was trained on {data_id(trained)}, these data are {data_id(here)}")


@app.command()
def evaluate(run: FolderArgument, data: DataOption, split: SplitOption = "test") -> None:
    """Score a run on a split; look at test once, at the end."""
    corpus = _open(data)
    from lfvd.training.runs import evaluate_run
    from lfvd.training.terminal import print_summary

    summary = evaluate_run(run, corpus, split)
    _note_other_data(run, corpus)
    print_summary(summary)
    print(f"wrote {run / f'{split}.json'} and {run / f'confusion_{split}.png'}")


@app.command()
def predict(
    run: FolderArgument,
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="CSV to write.")],
    split: SplitOption = "test",
) -> None:
    """Write a run's prediction for every utterance of a split.

    Probabilities are averaged over the run's seeds.
    """
    corpus = _open(data)
    from lfvd import api
    from lfvd.training.predictions import write_predictions

    table = api.predict(run, corpus, split, sentences=data.with_suffix(".parquet"))
    write_predictions(out, table)
    _note_other_data(run, corpus)
    print(f"wrote {out}: {len(table)} utterances{_simulated(corpus)}")
