"""Fixtures shared by several test files."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def meld_folder() -> Path:
    """The published MELD transcripts; test data that stand beside the repository, never in it."""
    folder = Path(__file__).parents[2] / "shared" / "meld"
    if not folder.is_dir():
        pytest.skip(f"needs the published MELD transcripts in {folder}")
    return folder


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus file of 14 dialogues with 1 to 6 utterances, three modalities, three classes, some utterances unlabelled."""
    import numpy as np

    from lfvd.corpus import Corpus, CorpusInfo

    rng = np.random.default_rng(0)
    length = np.array([3, 1, 6, 4, 2, 5, 3, 4, 2, 5, 3, 2, 4, 1])
    label = rng.integers(0, 3, length.sum())
    widths = {"l": 6, "a": 5, "v": 4}
    features = {m: rng.standard_normal((len(label), w)).astype(np.float32) for m, w in widths.items()}
    for flat in features.values():
        flat[np.arange(len(label)), label] += 2.0  # something to learn
    label[::9] = -1
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    Corpus(
        info=CorpusInfo(
            name="TINY",
            classes=("calm", "glad", "sad"),
            dialogues=tuple(f"d{i}" for i in range(len(length))),
            simulated=("audio",),
            length_bins=(2, 4),
        ),
        features=features,
        label=label,
        speaker=np.concatenate([np.arange(n) % 2 for n in length]),
        offset=np.concatenate([[0], np.cumsum(length)]),
        split=np.array([0] * 8 + [1] * 3 + [2] * 3),
    ).save(path)
    return path


@pytest.fixture
def tiny_corpus(tiny_file: Path):
    """The corpus of `tiny_file`."""
    from lfvd.corpus import Corpus

    return Corpus.open(tiny_file)


TINY = {
    "model.width": 8,
    "model.latent": 2,
    "model.heads": 2,
    "model.dag_layers": 1,
    "optim.lr": 1e-2,
    "optim.batch_size": 4,
    "run.epochs": 4,
    "run.device": "cpu",
}
"""Config values for `tiny_corpus`."""


@pytest.fixture
def tiny_config():
    """A config that trains an epoch of `tiny_corpus` in milliseconds."""
    from lfvd.config import Config

    return Config().with_values(TINY)


PLAN = {
    "base": "meld",
    "set": {
        **{k: v for k, v in TINY.items() if not k.startswith("run.") and k not in ("optim.lr", "model.heads")},
        "data.modalities": "l",
    },
    "space": {
        "optim.lr": {"low": 1e-4, "high": 3e-2, "log": True},
        "loss.gamma2": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.heads": {"choices": [1, 2, 4]},
    },
    "sampler": {"kind": "tpe", "startup_trials": 4, "seed": 0},
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction": 2, "max_epochs": 4},
    "trials": 6,
    "confirm": {"finalists": 2, "seeds": [0, 1]},
}
"""A plan file's values for `tiny_corpus`; small, on one modality."""


def make_plan(**changes):
    """`PLAN` with sections replaced."""
    from tune.space import SearchPlan

    return SearchPlan.from_dict({**PLAN, **changes}, source="plan", folder=Path())


def start_study(folder: Path, corpus, **changes):
    """Begin, or go on with, a study of `PLAN`."""
    import optuna

    from tune.journal import DataSource, Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, make_plan(**changes), DataSource.of(corpus, "tiny.safetensors"), {})


@pytest.fixture
def make_study(tmp_path: Path, tiny_corpus):
    """Begin, or go on with, the study `tmp_path / name`: `make_study("name", trials=9)`."""
    return lambda name="study", **changes: start_study(tmp_path / name, tiny_corpus, **changes)
