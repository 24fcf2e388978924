"""Scripts that users copy: SLURM, `ray up`, KubeRay, and a page for each."""
