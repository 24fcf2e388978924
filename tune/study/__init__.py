"""A study on disk, `results/<name>/`: journal, files of lines, lock, checkpoints, predictions."""
