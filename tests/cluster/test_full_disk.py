"""The disk of the study full in the middle of a search: it waits, says so, and goes on when there is room."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lfvd.data.simulate import simulate
from lfvd.files import write_yaml
from tests.helpers.plans import PLAN
from tests.helpers.soundness import assert_sound

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting a small disk needs root"),
]

SECONDS = 180


def test_a_full_disk(tmp_path):
    """Trials and driver wait for room, MLflow too; nothing is lost and nothing is half-written."""
    simulate("meld", seed=0, dialogues=120, widths={"l": 8, "a": 4}).save(tmp_path / "data.safetensors")
    fixed = {**PLAN["set"], "model.width": 32, "model.dag_layers": 2}
    write_yaml(
        tmp_path / "plan.yaml",
        {**PLAN, "set": fixed, "trials": 4, "confirm": {"folds": 0, "finalists": 1, "seeds": [0]}},
    )
    (tmp_path / "disk").mkdir()
    search = [str(Path(sys.executable).with_name("lfvd-tune")), "search", "plan.yaml", "--data", "data.safetensors"]
    # The shell stays, and the disk with it, until this test closes its input; the search ends with it at the latest.
    script = 'mount -t tmpfs -o size=24m tmpfs disk && "$@"; echo "exit $?"; read'
    argv = ["unshare", "--mount", "bash", "-c", script, "bash", *search, "--name", "full", "--results", "disk"]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        shell = subprocess.Popen(
            argv, cwd=tmp_path, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
        )
    try:
        disk = Path(f"/proc/{shell.pid}/root{tmp_path}/disk")  # as the driver sees it
        study, deadline = disk / "full", time.monotonic() + SECONDS

        def until(true, what: str) -> None:
            while not true():
                assert shell.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"{what}: {log.read_text()}"
                time.sleep(0.02)

        until(lambda: (study / "epochs.jsonl").is_file(), "the first epoch")
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(bytes(4096))
                except OSError:
                    break
        until(lambda: "waiting for room" in log.read_text(), "the warning")
        (disk / "ballast").unlink()
        until(lambda: "exit " in log.read_text(), "the end")
        shutil.copytree(disk, tmp_path / "results")
    finally:
        try:
            shell.communicate(timeout=60)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ended as it should
                os.killpg(shell.pid, signal.SIGKILL)
    assert log.read_text().endswith("exit 0\n")
    found = assert_sound(tmp_path / "results" / "full")
    kinds = {fault["then"] for fault in found.faults()}
    assert kinds & {"waited for room", "waiting for room"}, found.faults()
    assert {fault["then"] for fault in found.faults()} <= {"waited for room", "waiting for room"}
    print(f"disk full: {len(found.faults())} waits, no trial lost")
