"""The search around LFVD's training: Ray Tune schedules, Optuna samples, ASHA stops early, seeds confirm, MLflow records."""
