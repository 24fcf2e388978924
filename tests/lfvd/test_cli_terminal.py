"""`lfvd train` on a terminal of 80 columns: its bars, Ctrl-C, and the same command again."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lfvd.cli import main
from tests.helpers.plans import TINY
from tests.helpers.run_folders import comparable

EPOCHS = 6

SCRIPT = """
import os, sys
from lfvd.cli import main
from lfvd.training import runs

write, pipe = runs._write_epochs, sys.argv.pop(1)

def hold(path, history):
    write(path, history)
    if len(history) == 2:
        open(pipe).read()  # until the test has sent its Ctrl-C

runs._write_epochs = hold
main(sys.argv[1:])
"""
"""`lfvd`, which after two epochs waits at a named pipe."""


def arguments(tiny_file: Path, out: Path) -> list[str]:
    # Without the contrastive terms, which after so many epochs fall below zero.
    values = {**TINY, "run.epochs": EPOCHS, "loss.gamma1": 0, "loss.gamma2": 0}
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return ["train", "meld", "--data", str(tiny_file), *settings, "--seeds", "0,1", "--out", str(out)]


def read_terminal(master: int) -> str:
    """All that is written to a pseudo-terminal until its other side closes."""
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # Linux says EIO where the other side has closed
        pass
    os.close(master)
    return shown.decode()


def visible_lines(text: str) -> list[str]:
    """Every line that was drawn, without colours and cursor movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


def test_ctrl_c_on_a_terminal_and_the_same_command_again(tiny_file, tmp_path, monkeypatch, capsys):
    """Stopped by Ctrl-C, then finished, and compared with a run that nothing stopped."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    out = tmp_path / "run"
    master, slave = pty.openpty()
    os.mkfifo(pipe := tmp_path / "pipe")
    argv = [sys.executable, "-c", SCRIPT, str(pipe), *arguments(tiny_file, out)]
    process = subprocess.Popen(argv, stdout=slave, stderr=slave)
    os.close(slave)
    with pipe.open("w"):  # opens when the command has come there, and closes after the signal
        process.send_signal(signal.SIGINT)
    lines = visible_lines(read_terminal(master))
    assert process.wait(timeout=60) == 130
    assert lines[-1] == f"lfvd: interrupted: the same command continues from the last whole epoch in {out}"
    assert all(line.startswith("seed ") and len(line) <= 77 for line in lines[:-1])
    assert any(f"0/{EPOCHS} first epoch" in line for line in lines)
    assert any(f"0/{EPOCHS} waits" in line for line in lines)
    assert not (out / "result.json").exists()

    monkeypatch.setenv("FORCE_COLOR", "1")  # bars without a terminal
    for folder in (out, tmp_path / "other"):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(arguments(tiny_file, folder))
        assert not end.value.code
        lines = visible_lines(capsys.readouterr().out)
        for seed in (0, 1):
            bar = [line for line in lines if line.startswith(f"seed {seed} ━")][-1]
            assert re.search(
                rf"━ {EPOCHS}/{EPOCHS} loss \d\.\d{{3}}  val W-F1 \d+\.\d\d  best \d+\.\d\d @\d+ +\d\d:\d\d$", bar
            )
            assert len(bar) <= 77
        assert "TINY, validation split, 2 seeds; SIMULATED: audio" in lines
    assert comparable(out) == comparable(tmp_path / "other")
