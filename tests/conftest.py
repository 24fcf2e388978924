"""Fixtures shared by several test files."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction": 2, "max_epochs": 4, "audit": 0},
    "trials": 6,
    "confirm": {"finalists": 2, "seeds": [0, 1], "race": False},
}
"""A plan file's values for `tiny_corpus`; small, on one modality."""


def make_plan(**changes):
    """`PLAN` with sections replaced."""
    from tune.plan import SearchPlan

    return SearchPlan.from_dict({**PLAN, **changes}, source="plan", folder=Path())


def start_study(folder: Path, corpus, **changes):
    """Begin, or go on with, a study of `PLAN`."""
    import optuna

    from tune.study.study import DataSource, Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, make_plan(**changes), DataSource.of(corpus, "tiny.safetensors"), {})


@pytest.fixture
def make_study(tmp_path: Path, tiny_corpus):
    """Begin, or go on with, the study `tmp_path / name`: `make_study("name", trials=9)`."""
    return lambda name="study", **changes: start_study(tmp_path / name, tiny_corpus, **changes)


LOOPBACK = "127.0.0.2"
"""Ray takes 127.0.0.1 in an address for the machine's name, and looks for the cluster at its outer address."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def own_cluster(*, cpus: int, gpus: int = 0) -> Iterator[tuple[str, int]]:
    """A Ray of so many cores and GPUs, which are numbers only → its address, once it is up, and its process."""
    port, scratch = free_port(), tempfile.mkdtemp(prefix="r", dir="/tmp")  # short: it goes into socket names
    argv = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    argv += [f"--node-ip-address={LOOPBACK}", f"--port={port}", f"--temp-dir={scratch}", "--include-dashboard=false"]
    argv += [f"--dashboard-agent-listen-port={free_port()}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"]
    with open(Path(scratch) / "head.txt", "w") as log:
        head = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while "Ray runtime started" not in (text := (Path(scratch) / "head.txt").read_text()):
            assert head.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.2)
        yield f"{LOOPBACK}:{port}", head.pid
    finally:
        head.terminate()  # --block ends with all that it started
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Two cores and two GPUs that are numbers only."""
    with own_cluster(cpus=2, gpus=2) as (where, _):
        yield where


@pytest.fixture(scope="module")
def connected(address: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """This process as a driver of that cluster; its environment as it was, afterwards."""
    from tune.execution import ray_jobs
    from tune.plan import ResourcesPlan

    before = dict(os.environ)
    this = request.module
    ray_jobs.ray.cloudpickle.register_pickle_by_value(this)  # workers cannot import a test file
    with ray_jobs.cluster(ResourcesPlan(), address=address):
        yield
    ray_jobs.ray.cloudpickle.unregister_pickle_by_value(this)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def make_job(tmp_path, tiny_config):
    """A job on `tiny_corpus`: `make_job("name", seed, gpu=0.5, run__epochs=9)`."""
    from tune.execution.worker import Job

    def make(name: str, seed: int = 0, gpu: float = 0.0, **values) -> Job:
        config = tiny_config.with_values(
            {"data.modalities": "l", **{k.replace("__", "."): v for k, v in values.items()}}
        )
        return Job(name=name, config=config, seed=seed, checkpoint=str(tmp_path / f"{name}.pt"), gpu=gpu)

    return make
