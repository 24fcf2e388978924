"""MLflow: the runs that it shall hold, and the writer that keeps them so."""
