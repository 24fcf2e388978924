"""Where the files of a study lie: `results/<name>/`, and its checkpoints in another storage if the user names one."""

from __future__ import annotations

from pathlib import Path

from tune.study import checkpoints

RECORDS = ("journal.log", "epochs.jsonl", "confirm.jsonl", "faults.jsonl", "test_looks.jsonl")
"""Files of lines that only grow."""


class StudyPaths:
    """Paths in a study's folder."""

    def __init__(self, folder: Path, storage: str | None) -> None:
        self.folder = folder
        self.storage = storage or str((folder / "checkpoints").absolute())
        """Where checkpoints lie; the session may move it to each node's own disk."""

    def checkpoint(self, job: str) -> str:
        """A job's checkpoint: a path or an address (tune.study.checkpoints)."""
        return checkpoints.join(self.storage, f"{job}.pt")

    def weights(self, trial: int, seed: int) -> Path:
        """The best epoch's weights of a confirmed run."""
        return self.folder / "weights" / f"trial{trial}-seed{seed}.safetensors"

    def predictions(self, trial: int, split: str) -> Path:
        """The predictions of a confirmed config on a split (tune.study.predictions)."""
        return self.folder / "predictions" / f"trial{trial}-{split}.npz"
