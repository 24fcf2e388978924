"""The training loop, its checkpoints, evaluation, metrics, and the folder that a run leaves."""
