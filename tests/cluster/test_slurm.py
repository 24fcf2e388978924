"""The printed batch script on a real SLURM: two slurmd on this host, a Ray node on each, and a time limit on the way.

Everything of SLURM is the tests' own: its key, folders, ports on loopback. Needs root and Debian's slurm-wlm and munge.
"""

import itertools
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lfvd.files import read_yaml, write_yaml
from tests.helpers.hosts import until
from tests.helpers.soundness import assert_sound

TOOLS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "srun")
LACKING = [tool for tool in TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd starts jobs for others, which needs root"),
    pytest.mark.skipif(
        bool(LACKING), reason=f"Debian's slurm-wlm and munge are not installed: no {', '.join(LACKING)}"
    ),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
KillWait=5
FirstJobId={first}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""
"""Two nodes of one core each. A job that goes back into the queue waits for the credentials' end, by default two minutes.
Jobs have numbers of their own, as on a site: what a killed job left under its number is in no later one's way."""

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

TRIALS, EPOCHS = 1000, 20

PLAN = {
    "base": "meld",
    "set": {"model.width": 16, "model.latent": 4, "model.dag_layers": 1, "optim.batch_size": 4},
    "space": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
    "sampler": {"startup_trials": 4},
    "scheduler": {"kind": "none", "max_epochs": EPOCHS},
    "trials": TRIALS,
    "resources": {"cpu": 1},
    "confirm": {"folds": 0, "finalists": 1, "seeds": [0]},
}
"""Each trial fills a node, and no machine comes to the end before a time limit: `shorten` gives the next job an end."""


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Slurm:
    """A SLURM of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        ports = free_ports(3)
        values = {"folder": folder, "host": socket.gethostname(), "ports": ports, "first": os.getpid()}
        (folder / "slurm.conf").write_text(CONF.format(**values))
        (folder / "state").mkdir()

    def start(self) -> None:
        own = [
            f"--{what}={self.folder}/{what.removesuffix('-file')}"
            for what in ("key-file", "pid-file", "seed-file", "log-file")
        ]
        subprocess.run(["mungekey", "--create", f"--keyfile={self.folder}/key"], check=True, timeout=30)
        self.daemon("munged", "--foreground", f"--socket={self.folder}/socket", *own)
        until((self.folder / "socket").exists, 30, self.said)
        for node in ("n1", "n2"):
            (self.folder / f"spool-{node}").mkdir()
        self.daemon("slurmctld", "-D")
        self.daemon("slurmd", "-D", "-N", "n1")
        self.daemon("slurmd", "-D", "-N", "n2")
        until(lambda: self.run("sinfo", "--noheader", "--format=%T", check=False).split() == ["idle"], 60, self.said)

    def daemon(self, *argv: str) -> None:
        log = open(self.folder / f"{argv[0]}-{len(self.daemons)}.txt", "w")  # noqa: SIM115 (the process keeps it)
        with log:
            self.daemons.append(subprocess.Popen(argv, stdout=log, stderr=log, env=self.environment))

    def said(self) -> str:
        return "\n".join(path.read_text()[-1000:] for path in self.folder.glob("*.txt"))

    def run(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` knows of it."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", number)))

    def end(self) -> None:
        """Jobs first, then the daemons, each by its own process."""
        if len(self.daemons) == 4:
            self.run("scancel", "--user=root", check=False)
            until(lambda: not self.run("squeue", "--noheader", check=False), 60, "jobs are still there")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # short: it goes into socket names
    folder.chmod(0o755)  # munge wants its socket to be in everyone's reach
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.end()
        shutil.rmtree(folder)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def batch_script(tmp_path: Path) -> Path:
    """What `lfvd-tune slurm` prints for a search on both nodes, in a file; its results go to `tmp_path / "results"`."""
    from lfvd.data.simulate import simulate

    data, plan, results = tmp_path / "data.safetensors", tmp_path / "plan.yaml", tmp_path / "results"
    simulate("meld", seed=0, dialogues=24).save(data)
    write_yaml(plan, PLAN)
    command = [Path(sys.executable).with_name("lfvd-tune"), "slurm", plan, "--data", data, "--results", results]
    command += ["--nodes", "2", "--cpus-per-node", "1", "--time", "1:00:00", "--name", "a search"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert printed.count("ray start --block") == 1
    script = tmp_path / "search.sh"
    # Both nodes are this host, and nothing of the tests shall listen outside it.
    script.write_text(printed.replace("ray start --block", "ray start --block --node-ip-address=127.0.0.2"))
    return script


def shorten(tmp_path: Path, study: Path) -> int:
    """Two trials more than have begun, from the next job on. Returns how many that makes."""
    trials = 3 + max(record["trial"] for record in lines(study / "epochs.jsonl"))
    write_yaml(tmp_path / "plan.yaml", {**PLAN, "trials": trials})
    return trials


def test_a_job_at_its_time_limit_goes_on(slurm, tmp_path):
    """On both nodes; wound down before the limit, back in the queue by itself, and no epoch twice."""
    script, results = batch_script(tmp_path), tmp_path / "results"
    number = slurm.run("sbatch", "--parsable", f"--chdir={tmp_path}", str(script)).strip()
    log, study = tmp_path / f"a_search-{number}.log", results / "a search"

    def said() -> str:
        return f"{slurm.job(number)}\n{log.read_text() if log.exists() else 'no log'}"

    until(lambda: len(lines(study / "epochs.jsonl")) > 5 or slurm.job(number)["JobState"] in ENDED, 400, said)
    assert slurm.job(number)["JobState"] == "RUNNING", said()
    token = results / f".ray-token-{number}"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    secret = token.read_text()
    assert re.fullmatch(r"[0-9a-f]{64}", secret)

    hours, minutes, _ = map(int, slurm.job(number)["RunTime"].split(":"))
    slurm.run("scontrol", "update", f"JobId={number}", f"TimeLimit={60 * hours + minutes + 4}")
    until(lambda: "winding down" in log.read_text(), 120, said)
    slurm.run("scontrol", "update", f"JobId={number}", "TimeLimit=60")  # what the next job has
    trials = shorten(tmp_path, study)
    until(lambda: slurm.job(number)["Restarts"] == "1", 180, said)
    assert "back into the queue, where the search goes on" in log.read_text()
    before = lines(study / "epochs.jsonl")
    assert 5 < len(before) < trials * EPOCHS
    assert not (study / "best.yaml").exists()

    until(lambda: slurm.job(number)["JobState"] in ENDED, 900, said)
    assert (slurm.job(number)["JobState"], slurm.job(number)["ExitCode"]) == ("COMPLETED", "0:0"), said()
    assert read_yaml(study / "best.yaml")["provenance"]["study"] == "a search"
    after = lines(study / "epochs.jsonl")
    assert after[: len(before)] == before
    searched = [(r["trial"], r["epoch"]) for r in after if r["stage"] == "search"]
    assert sorted(searched) == [(t, e) for t in range(trials) for e in range(1, EPOCHS + 1)], "each epoch once"
    changes = sum(a != b for (a, _), (b, _) in itertools.pairwise(searched))
    assert changes > trials, "trials side by side: each node holds one at a time"
    assert not token.exists()
    assert secret not in log.read_text()
    assert not list(Path("/tmp").glob(f"lfvd-{number}.*")), "Ray's folders are removed"


def test_a_job_killed_at_its_time_limit_and_submitted_again(slurm, tmp_path):
    """No warning comes before the limit: SLURM kills what does not end within `KillWait`; the next job goes on."""
    script, study = batch_script(tmp_path), tmp_path / "results" / "a search"

    def submit(*options: str) -> str:
        return slurm.run("sbatch", "--parsable", f"--chdir={tmp_path}", *options, str(script)).strip()

    def said() -> str:
        return "\n".join(path.read_text() for path in tmp_path.glob("*.log"))

    killed = number = submit("--signal=B:CONT@1")  # SIGCONT, which says nothing, in place of the warning
    until(lambda: len(lines(study / "epochs.jsonl")) > 5 or slurm.job(number)["JobState"] in ENDED, 400, said)
    assert slurm.job(number)["JobState"] == "RUNNING", said()
    hours, minutes, _ = map(int, slurm.job(number)["RunTime"].split(":"))
    slurm.run("scontrol", "update", f"JobId={number}", f"TimeLimit={max(1, 60 * hours + minutes)}")
    until(lambda: slurm.job(number)["JobState"] in ENDED, 180, said)
    assert (slurm.job(number)["JobState"], slurm.job(number)["Restarts"]) == ("TIMEOUT", "0"), said()
    before, trials = lines(study / "epochs.jsonl"), shorten(tmp_path, study)
    assert 5 < len(before) < trials * EPOCHS
    assert not (study / "best.yaml").exists()

    number = submit()
    until(lambda: slurm.job(number)["JobState"] in ENDED, 900, said)
    assert slurm.job(number)["JobState"] == "COMPLETED", said()
    assert lines(study / "epochs.jsonl")[: len(before)] == before
    assert_sound(study)
    for folder in Path("/tmp").glob(f"lfvd-{killed}.*"):  # Ray's, which a killed job leaves
        shutil.rmtree(folder)
