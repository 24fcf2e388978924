"""What a result must say of where it came from, and the seeding that makes it come again."""

from __future__ import annotations

import os
import platform
import random
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lfvd.files import InputError


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that use the old global generator must repeat too)
    torch.manual_seed(seed)


def configure_precision(precision: str) -> None:
    """On a GPU, repeatable kernels, and matrix products in TF32 only for `tf32`; it is on by default for recurrent layers."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def pick_device(wanted: str) -> torch.device:
    """`auto` → the GPU where there is one, else the CPU. Raises InputError where `cuda` is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("the device is cuda, but torch sees no GPU here: use auto or cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def run_info(device: torch.device | str) -> dict[str, Any]:
    """Commit (with `+` where files differ from it), versions, device and command of this process."""
    return {
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("lfvd", "torch", "numpy", "ray", "optuna", "mlflow")},
        },
        "device": torch.cuda.get_device_name() if str(device).startswith("cuda") else f"cpu ({os.cpu_count()} cores)",
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The checkout's commit, or `none` for an installed package or without git."""
    root = Path(__file__).parents[2]
    try:
        if not (root / ".git").exists():
            return "none"
        run = {"cwd": root, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **run)  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **run)  # type: ignore[call-overload]
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return f"{head.stdout.strip()}{'+' if dirty.stdout.strip() else ''}" if head.returncode == 0 else "none"
