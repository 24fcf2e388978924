"""Files that users copy: a search on SLURM, on AWS with `ray up`, on Kubernetes with KubeRay, and a page of words for each."""
