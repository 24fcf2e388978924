"""The commands `lfvd extract`: raw text and media → feature files for `lfvd import`.

lfvd extract language MELD --model roberta-large --finetune --out language.npz
lfvd extract audio MELD --clips MELD.Raw --out audio.npz
lfvd extract visual MELD --clips MELD.Raw --out visual.npz
lfvd import MELD --language language.npz --audio audio.npz --visual visual.npz --nan-to-zero --out data/meld.safetensors
"""

# All that is slow to import, or comes with the extra, is imported inside the commands.

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lfvd.files import InputError, write_text

if TYPE_CHECKING:
    from lfvd.extract.work import Extractor

app = typer.Typer(
    help="Make features from raw text, sound and pictures: pip install 'lfvd[features]'.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Folder of MELD's CSVs, or a table (CSV, parquet), one utterance a row."),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="Features to write: .npz for MELD, .npy for a table.")
]
ClipsOption = Annotated[
    Path | None,
    typer.Option("--clips", metavar="FOLDER", help="MELD: folders train, dev, test of clips named dia0_utt0.mp4."),
]
ProcessesOption = Annotated[
    int, typer.Option("--processes", metavar="N", min=1, help="Processes; one a core if absent.")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: a GPU if there is one.")]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
VISUAL_MODEL = "timm/densenet121.tv_in1k"


@app.command()
def language(
    source: SourceArgument,
    out: OutOption,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Folder of a text encoder, or its name on the hub.")
    ] = "roberta-large",
    layers: Annotated[
        Literal["mean", "first", "concat"] | None,
        typer.Option(help="Of the last four layers: mean (the default), the last one, or all."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Sentences at a time.")] = 32,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="First teach the encoder the train split's labels.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of --finetune.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of --finetune.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Text features: a text encoder's vector of each sentence (columns text; split and label for --finetune).

    The vector is the first token's; a sentence-transformers folder is pooled as it says itself. A fine-tuned encoder
    is kept beside the features, for use with --model.
    """
    _need("transformers")
    from lfvd.extract import text
    from lfvd.extract.sources import read_source
    from lfvd.terminal import progress_bar
    from lfvd.training.environment import pick_device

    found = read_source(source)
    found.check_out(out)
    texts, train = found.texts(), found.train() if finetune else None
    encoder = text.load(model, layers=layers, device=pick_device(device).type)
    with interruptible("no features are written"):
        if train is not None:
            kept = out.with_suffix(".encoder")
            with progress_bar("fine-tuning", epochs * len(train[0])) as done:
                text.finetune(encoder, *train, epochs=epochs, batch=batch, seed=seed, done=done)
            encoder.save(kept)
            print(f"wrote {kept}: the fine-tuned encoder, for --model")
        with progress_bar("sentences", len(texts)) as done:
            features = text.encode(encoder, texts, batch=batch, done=done)
    found.save(out, features)
    print(f"wrote {out}: {len(features)} utterances, {features.shape[1]} wide")


@app.command()
def audio(
    source: SourceArgument, out: OutOption, clips: ClipsOption = None, processes: ProcessesOption = CORES
) -> None:
    """Audio features: the 1582 of openSMILE's IS10 set (column file, with optional start and end in seconds).

    The same command continues an interrupted one. Clips without sound become rows of NaN, and are listed.
    """
    _need("av", "opensmile")
    from lfvd.extract.audio import Audio

    print_error("note: openSMILE is licensed for research and education; other uses need audEERING's licence")
    _from_clips(source, out, clips, Audio(), processes)


@app.command()
def visual(
    source: SourceArgument,
    out: OutOption,
    clips: ClipsOption = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="File of DenseNet-121's weights, or a name on the hub.")
    ] = VISUAL_MODEL,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 16,
    faces: Annotated[bool, typer.Option("--faces/--whole-frames", help="The largest face, where there is one.")] = True,
    processes: ProcessesOption = CORES,
    device: DeviceOption = "auto",
) -> None:
    """Visual features: DenseNet-121 on frames of each clip (column file, with optional start and end in seconds).

    The same command continues an interrupted one. Clips without pictures become rows of NaN, and are listed.
    """
    _need("av", "cv2", "huggingface_hub")
    from lfvd.extract.densenet import load, weights_file
    from lfvd.extract.visual import Visual
    from lfvd.training.environment import pick_device

    weights = weights_file(model)
    load(weights)  # says what is wrong before the work begins
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    where = pick_device(device).type
    extractor = Visual(weights=weights, digest=digest, frames=frames, faces=faces, device=where)
    _from_clips(source, out, clips, extractor, processes)


def _from_clips(source: Path, out: Path, folder: Path | None, extractor: Extractor, processes: int) -> None:
    """What audio and visual have in common. Clips without features are listed beside the file, the first few also here."""
    import pandas as pd

    from lfvd.extract.sources import read_source
    from lfvd.extract.work import extract
    from lfvd.terminal import progress_bar

    found = read_source(source)
    found.check_out(out)
    clips, parts, listed = found.clips(folder), out.with_suffix(".parts"), out.with_suffix(".missing.csv")
    with interruptible("the same command continues from here"), progress_bar("clips", len(clips)) as done:
        features, failed = extract(clips, extractor, parts=parts, processes=processes, done=done)
    found.save(out, features)
    listed.unlink(missing_ok=True)  # of a former command
    if failed:
        rows = [(str(clips[i].file), clips[i].start, clips[i].end, failed[i]) for i in sorted(failed)]
        write_text(listed, pd.DataFrame(rows, columns=["file", "start", "end", "reason"]).to_csv(index=False))
        for file, _, _, reason in rows[:5]:
            print_error(f"{file}: {reason}")
        print_error(
            f"{len(failed)} of {len(clips)} clips gave no features: their rows are NaN, for `lfvd import --nan-to-zero`; "
            f"{listed} lists them"
        )
    shutil.rmtree(parts)
    print(f"wrote {out}: {len(features)} utterances, {features.shape[1]} wide")


def _need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"the package `{package}` is not installed, but is needed here: pip install 'lfvd[features]'"
            )


@contextmanager
def interruptible(after: str) -> Iterator[None]:
    """Ctrl-C ends with a sentence and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print_error(f"interrupted: {after}")
        raise typer.Exit(130) from None


def print_error(text: str) -> None:
    print(f"lfvd: {text}", file=sys.stderr)
