"""A Ray of its own, whose object store is smaller than the corpus."""

import pytest

from tests.helpers.workers import Listed
from tune.execution import ray_cluster, ray_jobs
from tune.sections import ResourcesPlan

# Ray 2.60 leaves its sockets and the ends of its pipes to the collector when a driver leaves a cluster.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.slow
def test_an_object_store_that_is_full(make_job, monkeypatch):
    """A corpus larger than Ray's whole store: it lies on disk then, and the jobs go on."""
    from lfvd.data.simulate import simulate

    init = ray_cluster.ray.init
    monkeypatch.setattr(
        ray_cluster.ray, "init", lambda **options: init(**options, num_cpus=2, object_store_memory=80_000_000)
    )
    corpus = simulate("meld", seed=0, dialogues=250, widths={"l": 12_000})
    assert corpus.features["l"].nbytes > 100_000_000
    source = Listed([make_job(f"job{seed}", seed, run__epochs=1) for seed in range(3)])
    with ray_cluster.cluster(ResourcesPlan()):
        ray_jobs.run_jobs(source, corpus.restricted("train", "valid"), ResourcesPlan())
    assert source.ended == {f"job{seed}": "finished" for seed in range(3)}
