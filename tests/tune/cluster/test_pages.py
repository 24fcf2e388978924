"""The cluster's pages and YAML files: against their schemas, and the commands that they name."""

import copy
import re
import shlex
import stat
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from tune import cli
from tune.cluster import slurm

FOLDER = Path(slurm.__file__).parent


def read(name: str) -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def test_ray_up_fits_rays_own_schema():
    """Filled out and checked as `ray up` does it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    [cluster] = read("ray-up.yaml")
    validate_config(prepare_config(copy.deepcopy(cluster)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**copy.deepcopy(cluster), "filemounts": {}}))
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for role, address in (("head", "--head"), ("worker", "--address=$RAY_HEAD_IP:6379")):
        start = cluster[f"{role}_start_ray_commands"][-1]
        assert subprocess.run(["bash", "-n", "-c", start], check=False).returncode == 0
        assert "export RAY_AUTH_MODE=token" in start
        assert "RAY_health_check_failure_threshold=3" in start
        assert f"ray start {address} " in start


def fields(required: str = "", **properties: dict) -> dict:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


STRING, WHOLE, NUMBER, YES_NO, ANY = ({"type": t} for t in ("string", "integer", "number", "boolean", "object"))
STRINGS = {"type": "object", "additionalProperties": STRING}

AUTH_OPTIONS = fields(enableK8sTokenAuth=YES_NO, secretName=STRING, mode={"enum": ["disabled", "token"]})
AUTOSCALER_OPTIONS = fields(
    resources=ANY, image=STRING, imagePullPolicy=STRING, securityContext=ANY, idleTimeoutSeconds=WHOLE,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, version={"enum": ["v1", "v2"]},
    env={"type": "array"}, envFrom={"type": "array"}, volumeMounts={"type": "array"},
)  # fmt: skip
HEAD_GROUP = fields(
    "template",
    template=ANY, headService=ANY, enableIngress=YES_NO, resources=STRINGS, labels=STRINGS, rayStartParams=STRINGS,
    serviceType=STRING,
)  # fmt: skip
WORKER_GROUP = fields(
    "groupName template",
    suspend=YES_NO, groupName=STRING, replicas=WHOLE, minReplicas=WHOLE, maxReplicas=WHOLE, idleTimeoutSeconds=WHOLE,
    resources=STRINGS, labels=STRINGS, rayStartParams=STRINGS, template=ANY, scaleStrategy=ANY, numOfHosts=WHOLE,
)  # fmt: skip
RAY_CLUSTER = fields(
    "headGroupSpec",
    upgradeStrategy=ANY, authOptions=AUTH_OPTIONS, suspend=YES_NO, managedBy=STRING,
    autoscalerOptions=AUTOSCALER_OPTIONS, headServiceAnnotations=STRINGS, enableInTreeAutoscaling=YES_NO,
    gcsFaultToleranceOptions=ANY, headGroupSpec=HEAD_GROUP, rayVersion=STRING,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)  # fmt: skip
RAY_JOB = fields(
    "rayClusterSpec entrypoint",
    activeDeadlineSeconds=WHOLE, backoffLimit=WHOLE, rayClusterSpec=RAY_CLUSTER, submitterPodTemplate=ANY,
    metadata=STRINGS, clusterSelector=STRINGS, submitterConfig=ANY, managedBy=STRING, deletionStrategy=ANY,
    entrypoint=STRING, runtimeEnvYAML=STRING, jobId=STRING,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]}, entrypointResources=STRING,
    entrypointNumCpus=NUMBER, entrypointNumGpus=NUMBER, ttlSecondsAfterFinished=WHOLE, preRunningDeadlineSeconds=WHOLE,
    shutdownAfterJobFinishes=YES_NO, suspend=YES_NO,
)  # fmt: skip
"""The fields of ray.io/v1 RayJob, down to the pods, after KubeRay 1.6.2's API reference (docs/reference/api.md)."""


def pods(job: dict) -> list[dict]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_kuberay_fits_the_schemas():
    """KubeRay's fields by the list above; volume and pods by Kubernetes' own schema, strictly."""
    volume, job = read("kuberay.yaml")
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(volume, version, strict=True)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    jsonschema.validate(job["spec"], RAY_JOB)
    for template in pods(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **template}
        kubernetes_validate.validate(pod, version, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**pod, "spec": {**pod["spec"], "volume": []}}, version, strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job["spec"], "backOffLimit": 1}, RAY_JOB)


def test_kuberay_fits_together():
    volume, job = read("kuberay.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    head, worker = pods(job)
    assert head["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    for pod in (head, worker):
        health = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}
        assert health["RAY_health_check_failure_threshold"] == "3"
    from ray import __version__

    assert cluster["rayVersion"] == __version__
    page = (FOLDER / "kuberay.md").read_text(encoding="utf-8")
    assert f"rayproject/ray:{__version__}-py311-gpu" in page
    for secret in (cluster["authOptions"]["secretName"], "lfvd-s3"):
        assert f"kubectl create secret generic {secret} " in page


def commands(program: str) -> list[tuple[str, str]]:
    """File and command line, wherever a page, manifest or script names a command of this program."""
    pattern = re.compile(rf"(?<![\w/.-]){program} (?=[a-z])((?:'[^'\n]*'|[^`'\n|;&)])*)")
    found = []
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in (".md", ".yaml"):
            text = re.sub(r"\n\s+--", " --", path.read_text(encoding="utf-8"))
            found += [(path.name, match[1].split(" > ")[0].strip()) for match in pattern.finditer(text)]
    return found


@pytest.mark.parametrize("program", ["lfvd", "lfvd-tune", "ray"])
def test_the_pages_commands_exist(program):
    """Each parses with the real command line."""
    import lfvd.cli

    if program == "ray":
        from ray.scripts.scripts import cli as group
    else:
        group = typer.main.get_command(lfvd.cli.app if program == "lfvd" else cli.app)
    found = [(page, line) for page, line in commands(program) if line.split()[0] in group.commands or program != "ray"]
    assert len(found) >= {"lfvd": 3, "lfvd-tune": 10, "ray": 8}[program]
    for page, line in found:
        name, *arguments = shlex.split(line)
        assert name in group.commands, f"{page}: {program} {line}"
        if arguments:  # else the command is only spoken of
            group.commands[name].make_context(name, arguments)


def test_the_pages_are_all_there():
    for stem, file in (("slurm", "slurm.sh"), ("ray-up", "ray-up.yaml"), ("kuberay", "kuberay.yaml")):
        assert (FOLDER / file).is_file()
        page = (FOLDER / f"{stem}.md").read_text(encoding="utf-8")
        for part in ("From nothing to best.yaml", "While it runs", "What happens when", "Safety"):
            assert f"## {part}\n" in page
        for needed in ("lfvd-tune stop", "lfvd-tune status", "best.yaml", "oken"):
            assert needed in page
    mode = stat.S_IMODE((FOLDER / "slurm.sh").stat().st_mode)
    assert not mode & 0o111, "a template is no program"
