"""Fixtures shared by several test files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.clusters import own_cluster
from tests.helpers.plans import TINY, start_study


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

    from lfvd.data.corpus import Corpus, CorpusInfo

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
    from lfvd.data.corpus import Corpus

    return Corpus.open(tiny_file)


@pytest.fixture
def tiny_config():
    """A config that trains an epoch of `tiny_corpus` in milliseconds."""
    from lfvd.config import Config

    return Config().with_values(TINY)


@pytest.fixture
def make_study(tmp_path: Path, tiny_corpus):
    """Begin, or go on with, the study `tmp_path / name`: `make_study("name", trials=9)`."""
    return lambda name="study", **changes: start_study(tmp_path / name, tiny_corpus, **changes)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Two cores and two GPUs that are numbers only."""
    with own_cluster(cpus=2, gpus=2) as (where, _):
        yield where


@pytest.fixture(scope="module")
def connected(address: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """This process as a driver of that cluster; its environment as it was, afterwards."""
    from tune.execution import ray_cluster
    from tune.sections import ResourcesPlan

    before = dict(os.environ)
    this = request.module
    ray_cluster.ray.cloudpickle.register_pickle_by_value(this)  # workers cannot import a test file
    with ray_cluster.cluster(ResourcesPlan(), address=address):
        yield
    ray_cluster.ray.cloudpickle.unregister_pickle_by_value(this)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def make_job(tmp_path, tiny_config):
    """A job on `tiny_corpus`: `make_job("name", seed, gpu=0.5, run__epochs=9)`."""
    from tune.search.job import Job

    def make(name: str, seed: int = 0, gpu: float = 0.0, **values) -> Job:
        config = tiny_config.with_values(
            {"data.modalities": "l", **{k.replace("__", "."): v for k, v in values.items()}}
        )
        return Job(name=name, config=config, seed=seed, checkpoint=str(tmp_path / f"{name}.pt"), gpu=gpu)

    return make
