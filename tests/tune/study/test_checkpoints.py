"""Where checkpoints lie: by path, by address, on each node; whole or not at all."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from lfvd.files import InputError
from lfvd.training.trainer import train
from tune.execution.worker import run_job
from tune.study import checkpoints


@pytest.fixture
def told(monkeypatch) -> list[dict]:
    """What a run reports, in this process."""
    news: list[dict] = []
    monkeypatch.setattr("ray.tune.report", news.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    return news


def test_place():
    assert checkpoints.join("/a/b", "t.pt") == "/a/b/t.pt"
    assert checkpoints.join("s3://b/x?scheme=http&endpoint_override=h:1", "t.pt") == (
        "s3://b/x/t.pt?scheme=http&endpoint_override=h:1"
    )


def test_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoints.parse("here") == str(tmp_path / "here")
    assert checkpoints.parse(f"file://{tmp_path}") == f"file://{tmp_path}"
    assert checkpoints.parse("gs://bucket/x") == "gs://bucket/x"
    system, path = checkpoints._open(checkpoints.join("gs://bucket/x", "t.pt"))  # asks nobody yet
    assert (system.type_name, path) == ("gcs", "bucket/x/t.pt")
    with pytest.raises(InputError) as error:
        checkpoints.parse("swift://bucket/x")
    assert str(error.value) == (
        "--storage swift://bucket/x: is no place for checkpoints (Unrecognized filesystem type in URI: "
        "swift://bucket/x): name a folder that all nodes share, s3://… or gs://…"
    )


def continues(place: str, make_job, corpus, told: list[dict]) -> None:
    """A run leaves its checkpoint at a place; another process's run of the same job goes on from there."""
    short = make_job("moves", run__epochs=3)
    whole = dataclasses.replace(make_job("moves", run__epochs=6), checkpoint=place)
    run_job({"job": dataclasses.replace(short, checkpoint=place)}, corpus)
    assert checkpoints.exists(place)
    told.clear()
    steps = []
    import lfvd.training.trainer

    real = lfvd.training.trainer._Run.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lfvd.training.trainer._Run, "epoch", lambda self: steps.append(1) or real(self))
        run_job({"job": whole}, corpus)
    assert len(steps) == 3, "three epochs came with the checkpoint"
    records = [json.loads(each["record"]) for each in told if "record" in each]
    alone = train(whole.config, corpus, whole.seed)
    assert [r["val/wf1"] for r in records] == [r["val/wf1"] for r in alone.history]
    checkpoints.delete(place)
    assert not checkpoints.exists(place)
    checkpoints.delete(place)


def test_a_path(make_job, tiny_corpus, told, tmp_path):
    continues(str(tmp_path / "deep" / "down" / "t.pt"), make_job, tiny_corpus, told)


def test_an_address(make_job, tiny_corpus, told, tmp_path):
    place = checkpoints.join(checkpoints.parse(f"file://{tmp_path}/store"), "t.pt")
    continues(place, make_job, tiny_corpus, told)
    assert not list((tmp_path / "store").iterdir()), "no part of a file stays"


def test_an_epoch_is_brought_once(make_job, tiny_corpus, told, tmp_path, monkeypatch):
    """Epochs that a checkpoint brings back are not sent again."""
    sent = []
    put = checkpoints._put
    monkeypatch.setattr(checkpoints, "_put", lambda *arguments: sent.append(1) or put(*arguments))
    place = checkpoints.join(f"file://{tmp_path}/store", "t.pt")
    for epochs in (3, 5):
        run_job({"job": dataclasses.replace(make_job("x", run__epochs=epochs), checkpoint=place)}, tiny_corpus)
    assert len(sent) == 3 + 1 + 2, "the fetched file goes back once, since it is new here"


def test_on_each_node(make_job, tiny_corpus, told, tmp_path, monkeypatch):
    """Apart for users and studies; a worker that takes its next job removes what the last one left there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = checkpoints.node_local_folder(Path("results/a"))
    assert folder.startswith(f"{tmp_path}/lfvd-tune-{os.getuid()}/a-")
    assert checkpoints.node_local_folder(Path("elsewhere/a")) != folder
    places = [checkpoints.join(folder, f"{name}.pt") for name in ("one", "two")]
    for place in places:
        run_job({"job": dataclasses.replace(make_job("x"), checkpoint=place)}, tiny_corpus)
    assert [checkpoints.exists(place) for place in places] == [False, True]
    run_job({"job": make_job("y")}, tiny_corpus)
    assert not checkpoints.exists(places[1])
    kept = make_job("y").checkpoint
    run_job({"job": make_job("z")}, tiny_corpus)
    assert checkpoints.exists(kept), "a shared one is the driver's to remove"


@pytest.fixture(scope="module")
def s3():
    """A bucket of an S3 server on loopback."""
    from tests.helpers.clusters import LOOPBACK, free_port

    port = free_port()
    argv = [str(Path(sys.executable).with_name("moto_server")), "-H", LOOPBACK, "-p", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            from pyarrow import fs

            options = {"access_key": "test", "secret_key": "test", "region": "us-east-1", "scheme": "http"}
            system = fs.S3FileSystem(
                endpoint_override=f"{LOOPBACK}:{port}", allow_bucket_creation=True, connect_timeout=2, **options
            )
            deadline = time.monotonic() + 60
            while True:
                try:
                    system.create_dir("bucket")
                    break
                except OSError:
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield f"s3://test:test@bucket/studies?scheme=http&region=us-east-1&endpoint_override={LOOPBACK}:{port}"
        finally:
            server.terminate()


@pytest.mark.slow
def test_s3(make_job, tiny_corpus, told, s3):
    continues(checkpoints.join(checkpoints.parse(s3), "t.pt"), make_job, tiny_corpus, told)


@pytest.mark.slow
def test_large_files_arrive_whole(s3, tmp_path):
    """Above the size from which S3 takes a file in parts."""
    place = checkpoints.join(s3, "large.pt")
    content = np.random.default_rng(0).bytes(30_000_000)
    with checkpoints.local(place) as (file, bring):
        file.write_bytes(content)
        bring()
    with checkpoints.local(place) as (file, _):
        assert file.read_bytes() == content
