"""A study on disk, `results/<name>/`: journal, files of lines, lock, checkpoints, predictions."""

from pathlib import Path

from lfvd.files import InputError


def study_folder(results: Path, name: str) -> Path:
    """The folder of a study. Raises InputError for a name that is no plain name."""
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(
            f"--name {name!r}: must be a plain name, since it becomes a folder in {results}: leave out slashes"
        )
    return results / name
