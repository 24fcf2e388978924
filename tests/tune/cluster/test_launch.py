"""The launch folder: the printed SLURM script, run with a pretended SLURM; the YAML files against their schemas; the pages' commands."""

import contextlib
import copy
import os
import random
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from lfvd.files import InputError, write_yaml
from tests.helpers.plans import PLAN
from tune import cli
from tune.cluster import slurm
from tune.cluster.slurm import Allocation, batch_script

LAUNCH = Path(slurm.__file__).parent

ODD = 'it\'s $(touch pwned) "`id`"; rm -r & @data@ ü %j\n#SBATCH --uid=0'
"""A name that is anything but a word."""


@pytest.fixture
def data(tmp_path, tiny_file) -> Path:
    return shutil.copy(tiny_file, tmp_path / "data.safetensors")


def printed(capsys, *argv: object) -> str:
    """What `lfvd-tune slurm …` prints."""
    with pytest.raises(SystemExit) as end:
        cli.main(["slurm", *map(str, argv)])
    out, err = capsys.readouterr()
    assert (end.value.code or 0, err) == (0, "")
    return out


def directives(script: str) -> dict[str, str]:
    """The `#SBATCH` lines as SLURM reads them: up to the first command."""
    header = script.split("\nset ")[0]
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", header, re.MULTILINE))


def test_every_option_appears(capsys, data, tmp_path):
    out = printed(
        capsys, "meld", "--data", data, "--nodes", 4, "--gpus-per-node", 8, "--time", "12:00:00", "--results", tmp_path
    )
    assert directives(out) == {
        "job-name": "meld",
        "output": "%x-%j.log",
        "open-mode": "append",
        "nodes": "4",
        "ntasks-per-node": "1",
        "cpus-per-task": "32",
        "gpus-per-node": "8",
        "time": "12:00:00",
        "no-kill": "",
        "signal": "B:TERM@240",
        "requeue": "",
    }
    assert "--num-cpus=32 --num-gpus=8 " in out
    assert f"\ndata={data}\n" in out
    assert '\nsearch=(lfvd-tune search meld --data "$data" --name meld --results ' in out
    assert f"results={tmp_path}\n" in out
    assert not re.search(r"@[a-z]+@", out)
    assert subprocess.run(["bash", "-n"], input=out, text=True, check=False).returncode == 0


def test_without_gpus(capsys, data):
    out = printed(capsys, "demo", "--data", data, "--nodes", 2, "--cpus-per-node", 6, "--time", "1-0", "--name", "mine")
    assert "gpus-per-node" not in directives(out)
    assert directives(out) | {"cpus-per-task": "6", "time": "1-0", "job-name": "mine"} == directives(out)
    assert "--num-cpus=6 --num-gpus=0 " in out


def test_without_data_the_script_takes_it(capsys, tmp_path):
    """Named to sbatch, or a sentence before anything starts."""
    out = printed(capsys, "meld", "--nodes", 4, "--gpus-per-node", 8, "--time", "12:00:00", "--results", tmp_path)
    start, end = out.index("environment="), out.index("export PATH")
    script = f"""set -u; {out[start:end]} printf '%s\\n' "${{search[@]}}" """
    said = subprocess.run(["bash", "-c", script, "search.sh", "my data"], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[3:5] == ["--data", "my data"]
    said = subprocess.run(["bash", "-c", script, "search.sh"], capture_output=True, text=True, check=False)
    assert said.returncode == 127, said
    assert "name the corpus: sbatch THIS_FILE CORPUS.safetensors" in said.stderr


def test_odd_names_are_only_names(tmp_path, tiny_file, monkeypatch):
    """Nothing of a name or path is run, nor read by SLURM, nor lost."""
    folder = tmp_path / ODD.replace("/", "")
    folder.mkdir()
    shutil.copy(tiny_file, folder / "data")
    write_yaml(folder / "plan.yaml", PLAN)
    monkeypatch.setattr(slurm.sys, "executable", str(folder / "bin" / "python"))
    ask = Allocation(nodes=1, gpus=0, cpus=1, time="1:00:00")
    script = batch_script(str(folder / "plan.yaml"), folder / "data", folder / "results", ODD, ask)
    assert directives(script)["job-name"] == re.sub(r"[^A-Za-z0-9_.-]", "_", ODD)
    assert "uid" not in directives(script)
    start, end = script.index("environment="), script.index("export PATH")
    said = subprocess.run(
        ["bash", "-c", script[start:end] + """printf '%s\\0' "$environment" "${search[@]}" """],
        capture_output=True, check=True, cwd=tmp_path,
    ).stdout.decode()  # fmt: skip
    assert said.split("\0")[:-1] == [
        str(folder / "bin"), "lfvd-tune", "search", str(folder / "plan.yaml"), "--data", str(folder / "data"),
        "--name", ODD, "--results", str(folder / "results"),
    ]  # fmt: skip
    assert not (tmp_path / "pwned").exists()
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("30", 1800),
        ("30:10", 1810),
        ("12:00:00", 43200),
        ("2-12", 216_000),
        ("1-0:30", 88_200),
        ("1-2:03:04", 93_784),
    ],
)
def test_time_limits(limit, seconds):
    """SLURM's six notations."""
    assert slurm._seconds(limit) == seconds


@pytest.mark.parametrize(
    ("resources", "ask", "said"),
    [
        ({}, {"time": "12h"}, "--time '12h': must be a time of SLURM's, such as 12:00:00 or 2-12 (days-hours)"),
        ({}, {"time": "12:00"}, "--time 12:00: must be at least 15 minutes, since starting and winding down"),
        (
            {},
            {"cpus": None},
            "--cpus-per-node is missing: must be at least 1, the plan's `resources.cpu`: name the cores",
        ),
        (
            {"cpu": 4},
            {"cpus": 3},
            "--cpus-per-node is 3: must be at least 4, the plan's `resources.cpu`: name the cores",
        ),
        ({}, {"gpus": 2}, "--gpus-per-node 2: the plan's trials use none: set `resources.gpu` in the plan"),
        ({"gpu": 0.25}, {}, "--gpus-per-node 0: must be at least 1, since the plan's `resources.gpu` is 0.25"),
        ({"gpu": "auto"}, {}, "--gpus-per-node 0: must be at least 1, since the plan's `resources.gpu` is auto"),
        ({"gpu": "auto"}, {"gpus": 1, "cpus": None}, "--cpus-per-node is missing: must be at least 1, the plan's"),
        ({"gpu": 2}, {"gpus": 1}, "--gpus-per-node 1: must be at least 2, since the plan's `resources.gpu` is 2"),
    ],
)
def test_what_could_not_run_is_said_before_the_queue(tmp_path, data, resources, ask, said):
    write_yaml(tmp_path / "plan.yaml", {**PLAN, "resources": resources})
    allocation = Allocation(**{"nodes": 1, "gpus": 0, "cpus": 8, "time": "1:00:00", **ask})
    with pytest.raises(InputError) as error:
        batch_script(str(tmp_path / "plan.yaml"), data, tmp_path, "x", allocation)
    assert str(error.value).startswith(said)


def test_missing_data(tmp_path):
    ask = Allocation(nodes=1, gpus=0, cpus=8, time="1:00:00")
    with pytest.raises(InputError, match=r"nowhere: .*"):
        batch_script("demo", tmp_path / "nowhere", tmp_path, "x", ask)


STUBS = {
    "srun": """while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && export SLURMD_NODENAME=${1#*=}; shift; done
echo $$ >>"$SAID/steps"; exec "$@" """,
    "scontrol": """if [[ $1 == show ]]; then echo n1; echo n2; else echo "$*" >>"$SAID/requeued"; fi""",
    "squeue": 'cat "$SAID/state"',
    "scancel": 'kill $(cat "$SAID/steps"); rm "$SAID/steps"',
    "ray": """echo "$SLURMD_NODENAME $*" >>"$SAID/ray"; trap 'exit 143' TERM
for option in "$@"; do [[ $option == --temp-dir=* ]] && folder=${option#*=}; done
[[ $* == *--head* && ! -e $SAID/no-head ]] && echo 10.1.1.1:5 >"$folder/ray_current_cluster"
env | grep ^RAY_ >"$SAID/environment"; stat -c %a "$folder" "$RAY_AUTH_TOKEN_PATH" >>"$SAID/modes"
touch "$SAID/up-$SLURMD_NODENAME"; while true; do sleep 0.05; done""",
    "lfvd-tune": """echo "$*" >>"$SAID/search"; all=$*; results=${all#*--results }
study=${results%% *}/demo; mkdir -p "$study"
[[ -e $SAID/barren ]] || echo epoch >>"$study/epochs.jsonl"
until [[ -e $SAID/up-n2 ]]; do sleep 0.05; done
trap 'echo wound >>"$SAID/search"; sleep 0.3; exit 130' TERM; trap 'touch "$SAID/ended"' EXIT; touch "$SAID/working"
for i in $(seq "$(cat "$SAID/steps-of-search")"); do sleep 0.05; done; exit "$(cat "$SAID/code")" """,
    "python": f'[[ $1 != - ]] || {{ cat >/dev/null; echo "$2 $3" >>"$SAID/nodes"; exit; }}; exec {shlex.quote(os.sys.executable)} "$@"',
}
"""Commands of SLURM, Ray and this package, as far as the script talks to them; they note what they hear in $SAID."""


@pytest.fixture
def job(tmp_path, data, monkeypatch):
    """The script in a job of two nodes, both here; ended with the test."""
    (tmp_path / "bin").mkdir()
    for name, text in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setattr(slurm.sys, "executable", str(tmp_path / "bin" / "python"))
    said, results = tmp_path / "said", tmp_path / "results"
    said.mkdir()
    (said / "state").write_text("RUNNING\n")
    ask = Allocation(nodes=2, gpus=0, cpus=3, time="1:00:00")
    (tmp_path / "search.sh").write_text(batch_script("demo", data, results, "demo", ask))
    number = str(random.randrange(10**8, 10**9))
    slurm_knows = {
        "SLURM_JOB_ID": number,
        "SLURMD_NODENAME": "n1",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SAID": str(said),
    }
    running = []

    def start(steps: int = 1, code: int = 0) -> subprocess.Popen:
        (said / "steps-of-search").write_text(str(steps))
        (said / "code").write_text(str(code))
        argv, environment = ["bash", str(tmp_path / "search.sh")], {**os.environ, **slurm_knows}
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running.append(subprocess.Popen(argv, env=environment, start_new_session=True, **out))
        return running[0]

    def heard(what: str) -> list[str]:
        return (said / what).read_text().splitlines() if (said / what).exists() else []

    yield SimpleNamespace(start=start, heard=heard, said=said, number=number, results=results, data=data)
    for process in running:
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def left(job) -> list[Path]:
    """What of a job is still lying about."""
    return [*Path("/tmp").glob(f"lfvd-{job.number}.*"), *job.results.glob(".ray-token*"), *job.said.glob("steps")]


def until(true, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_ends_by_itself(job):
    """A head, then a worker that knows its address, then the search; everything is ended and removed."""
    process = job.start()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    head, worker = sorted(job.heard("ray"))
    common = "start --block --disable-usage-stats --temp-dir=/tmp/lfvd-{}.0-{} --num-cpus=3 --num-gpus=0"
    assert head.startswith("n1 " + common.format(job.number, 0))
    assert " --head --port=0" in head
    assert worker.startswith("n2 " + common.format(job.number, 1))
    assert worker.endswith("--address=10.1.1.1:5")
    assert job.heard("search") == [
        f"search demo --data {job.data} --name demo --results {job.results} --address 10.1.1.1:5"
    ]
    assert job.heard("nodes") == ["10.1.1.1:5 2"], "waited for both"
    environment = dict(line.split("=", 1) for line in job.heard("environment"))
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == f"{job.results}/.ray-token-{job.number}"
    seconds = [int(environment[f"RAY_health_check_{what}_ms"]) / 1000 for what in ("period", "timeout")]
    assert sum(seconds) * int(environment["RAY_health_check_failure_threshold"]) < 10
    assert set(job.heard("modes")) == {"700", "600"}, "readable by their owner only"
    assert job.heard("requeued") == []
    assert left(job) == []


def test_the_time_limit_comes(job):
    process = job.start(steps=10_000)
    until((job.said / "working").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert job.heard("search")[1:] == ["wound"]
    assert job.heard("requeued") == [f"requeue {job.number}"]
    assert left(job) == []


def test_a_job_too_short_for_an_epoch_does_not_go_round_for_ever(job):
    (job.said / "barren").touch()
    process = job.start(steps=10_000)
    until((job.said / "working").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out.endswith("not one epoch came of this job: give it a longer --time\n")
    assert job.heard("requeued") == []
    assert left(job) == []


def test_a_controller_that_does_not_answer(job):
    """No answer is no cancellation."""
    (job.said / "state").unlink()
    process = job.start(steps=10_000)
    until((job.said / "working").exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert job.heard("requeued") == [f"requeue {job.number}"]


def test_ray_head_lost(job):
    """The search ends with it, as if it had failed; the job goes on in the queue."""
    process = job.start(steps=60, code=1)
    until((job.said / "working").exists)
    os.kill(int(job.heard("steps")[0]), signal.SIGTERM)  # the first step is the head's
    out, _ = process.communicate(timeout=60)
    assert "the Ray head was lost after" in out
    assert job.heard("requeued") == [f"requeue {job.number}"]


def test_a_cancelled_job_stays_away(job):
    process = job.start(steps=10_000)
    until((job.said / "working").exists)
    (job.said / "state").write_text("COMPLETING\n")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert job.heard("requeued") == []
    assert left(job) == []


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_search_that_fails_or_was_stopped_stays_away(job, code):
    process = job.start(code=code)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert ("submit this script again" in out) == (code == 130)
    assert job.heard("requeued") == []
    assert left(job) == []


def test_a_search_that_fails_as_the_time_limit_comes(job):
    """Tried again it would fail again."""
    (job.said.parent / "bin" / "squeue").write_text(
        "#!/bin/bash\nuntil [[ -e $SAID/ended ]]; do sleep 0.05; done; echo RUNNING\n"
    )
    process = job.start(steps=20, code=2)
    until((job.said / "working").exists)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2, out
    assert job.heard("requeued") == []


def test_a_head_that_does_not_start(job):
    (job.said.parent / "bin" / "ray").write_text("#!/bin/bash\necho broken >&2; exit 1\n")
    process = job.start()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "broken" in out
    assert "the Ray head ended at once: see its output above" in out
    assert job.heard("search") == []
    assert left(job) == []


def read(name: str) -> list[dict]:
    return list(yaml.safe_load_all((LAUNCH / name).read_text(encoding="utf-8")))


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
    page = (LAUNCH / "kuberay.md").read_text(encoding="utf-8")
    assert f"rayproject/ray:{__version__}-py311-gpu" in page
    for secret in (cluster["authOptions"]["secretName"], "lfvd-s3"):
        assert f"kubectl create secret generic {secret} " in page


def commands(program: str) -> list[tuple[str, str]]:
    """File and command line, wherever a page, manifest or script names a command of this program."""
    pattern = re.compile(rf"(?<![\w/.-]){program} (?=[a-z])((?:'[^'\n]*'|[^`'\n|;&)])*)")
    found = []
    for path in sorted(LAUNCH.iterdir()):
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
        assert (LAUNCH / file).is_file()
        page = (LAUNCH / f"{stem}.md").read_text(encoding="utf-8")
        for part in ("From nothing to best.yaml", "While it runs", "What happens when", "Safety"):
            assert f"## {part}\n" in page
        for needed in ("lfvd-tune stop", "lfvd-tune status", "best.yaml", "oken"):
            assert needed in page
    mode = stat.S_IMODE((LAUNCH / "slurm.sh").stat().st_mode)
    assert not mode & 0o111, "a template is no program"
