"""`lfvd train` as a process of its own: interrupted by Ctrl-C, and on a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY
from safetensors.numpy import load_file
from test_runs import comparable

from lfvd.cli import main


def arguments(tiny_file: Path, out: Path, epochs: int) -> list[str]:
    settings = [part for key, value in {**TINY, "run.epochs": epochs}.items() for part in ("--set", f"{key}={value}")]
    return ["train", "meld", "--data", str(tiny_file), *settings, "--seeds", "0,1", "--out", str(out)]


def start_train(tiny_file: Path, out: Path, epochs: int, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "lfvd", *arguments(tiny_file, out, epochs)], **options)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.005)


def test_interrupted_train_continues_to_the_same(tiny_file, tmp_path):
    """Stopped by Ctrl-C, then finished, and compared with a run that nothing stopped."""
    out = tmp_path / "run"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with start_train(tiny_file, out, 6, **pipes) as process:
        wait_for(out / "seed0" / "checkpoint.pt", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == f"lfvd: interrupted: the same command continues from the last whole epoch in {out}\n"
    assert not (out / "result.json").exists()
    for folder in (out, tmp_path / "other"):
        with pytest.raises(SystemExit) as end:
            main(arguments(tiny_file, folder, 6))
        assert not end.value.code
    one, other = (comparable_but_commands(folder) for folder in (out, tmp_path / "other"))
    assert one == other


def comparable_but_commands(folder: Path) -> dict[str, object]:
    found = comparable(folder)
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for each in result["seeds"].values():
        each.pop("run")
    found["result.json"] = result
    for name in [n for n in found if n.endswith("model.safetensors")]:
        found[name] = {k: v.tobytes() for k, v in load_file(folder / name).items()}
    return found


def test_progress_on_a_terminal(tiny_file, tmp_path):
    """80 columns wide: no line is broken, the bars are filled at the end, and nothing but tables follows."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    process = start_train(tiny_file, tmp_path / "run", 2, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says EIO where the other side has closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait(timeout=120) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    bars = [line for line in lines if line.startswith("seed ") and "━" in line]
    assert any("first epoch" in line for line in bars)
    assert any("waits" in line for line in bars)
    for seed in (0, 1):
        last = [line for line in bars if line.startswith(f"seed {seed}")][-1]
        assert re.search(r"━ 2/2 loss \d\.\d{3}  val W-F1 \d+\.\d\d  best \d+\.\d\d @\d +\d\d:\d\d", last)
    assert max(map(len, bars)) <= 80
    assert "TINY, validation split, 2 seeds; SIMULATED: audio" in lines
