"""The printed SLURM script: its text, and what it does in a job of a pretended SLURM."""

import contextlib
import os
import random
import re
import select
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from lfvd.files import InputError, write_yaml
from tests.helpers.plans import PLAN
from tune import cli
from tune.cluster import slurm
from tune.cluster.slurm import Allocation, batch_script

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
    "ray": """echo "$SLURMD_NODENAME $*" >>"$SAID/ray"
for option in "$@"; do [[ $option == --temp-dir=* ]] && folder=${option#*=}; done
env | grep ^RAY_ >"$SAID/environment"; stat -c %a "$folder" "$RAY_AUTH_TOKEN_PATH" >>"$SAID/modes"
sleep infinity & trap 'kill $!; exit 143' TERM
if [[ $* == *--head* ]]; then echo 10.1.1.1:5 >"$folder/ray_current_cluster"; else echo >"$SAID/worker"; fi
wait""",
    "lfvd-tune": """echo "$*" >>"$SAID/search"; all=$*; results=${all#*--results }
study=${results%% *}/demo; mkdir -p "$study"
[[ -e $SAID/barren ]] || echo epoch >>"$study/epochs.jsonl"
read <"$SAID/worker"
if [[ -p $SAID/working ]]; then
    cat "$SAID/end" >/dev/null & trap 'kill $!; echo wound >>"$SAID/search"; exit 130' TERM
    echo $$ >"$SAID/working"; wait
fi
exit "$(cat "$SAID/code")" """,
    "python": f'[[ $1 != - ]] || {{ cat >/dev/null; echo "$2 $3" >>"$SAID/nodes"; exit; }}; exec {shlex.quote(os.sys.executable)} "$@"',
}
"""Commands of SLURM, Ray and this package, as far as the script talks to them; they note what they hear in $SAID.

Named pipes hold them: the search waits for the worker's Ray, and where there are pipes `working` and `end`, it tells its process
by the one and works until the other is written to.
"""


class Job:
    """The script in a job of two nodes, both here."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.said, self.results = folder, data, folder / "said", folder / "results"
        self.number = str(random.randrange(10**8, 10**9))
        self.said.mkdir()
        (self.said / "state").write_text("RUNNING\n")
        os.mkfifo(self.said / "worker")
        (folder / "bin").mkdir()
        for name, text in STUBS.items():
            self.stub(name, text)
        allocation = Allocation(nodes=2, gpus=0, cpus=3, time="1:00:00")
        (folder / "search.sh").write_text(batch_script("demo", data, self.results, "demo", allocation))

    def stub(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (self.folder / "bin" / name).chmod(0o755)

    def start(self, *, code: int = 0) -> None:
        """Submit it; the search ends at once, with this code."""
        (self.said / "code").write_text(str(code))
        slurm_sets = {
            "SLURM_JOB_ID": self.number,
            "SLURMD_NODENAME": "n1",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SAID": str(self.said),
        }
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        argv = ["bash", str(self.folder / "search.sh")]
        self.process = subprocess.Popen(argv, env={**os.environ, **slurm_sets}, **out)

    def start_working(self, *, code: int = 0) -> int:
        """Submit it → the search's process, at work until it is signalled or `end_search`."""
        os.mkfifo(self.said / "working")
        os.mkfifo(self.said / "end")
        self.start(code=code)
        return int((self.said / "working").read_text())

    def end_search(self) -> None:
        (self.said / "end").write_text("")

    def time_limit(self) -> None:
        """The signal that SLURM sends some minutes before."""
        self.process.send_signal(signal.SIGTERM)

    def output(self) -> str:
        """All that it printed, once it has ended."""
        return self.process.communicate()[0]

    def heard(self, what: str) -> list[str]:
        return (self.said / what).read_text().splitlines() if (self.said / what).exists() else []

    def leftovers(self) -> list[Path]:
        return [
            *Path("/tmp").glob(f"lfvd-{self.number}.*"),
            *self.results.glob(".ray-token*"),
            *self.said.glob("steps"),
        ]


@pytest.fixture
def job(tmp_path, data, monkeypatch):
    """A job that ends with the test."""
    monkeypatch.setattr(slurm.sys, "executable", str(tmp_path / "bin" / "python"))
    job = Job(tmp_path, data)
    yield job
    with contextlib.suppress(ProcessLookupError):  # nothing of it is left
        os.killpg(job.process.pid, signal.SIGKILL)
    job.process.stdout.close()
    job.process.wait()


def wait_for_end(process: int) -> None:
    """Wait for a process that is no child of this one."""
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        ended = os.pidfd_open(process)
        select.select([ended], [], [])
        os.close(ended)


def test_a_job_that_ends_by_itself(job):
    """A head, then a worker that knows its address, then the search; everything is ended and removed."""
    job.start()
    out = job.output()
    assert job.process.returncode == 0, out
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
    assert job.leftovers() == []


@pytest.mark.parametrize(
    ("state", "requeued"),
    [
        ("RUNNING", True),
        (None, True),  # a controller that does not answer: no answer is no cancellation
        ("COMPLETING", False),  # a cancelled job stays away
    ],
)
def test_the_time_limit_comes(job, state, requeued):
    job.start_working()
    (job.said / "state").unlink()
    if state:
        (job.said / "state").write_text(f"{state}\n")
    job.time_limit()
    out = job.output()
    assert job.process.returncode == 130, out
    assert job.heard("search")[1:] == ["wound"]
    assert job.heard("requeued") == [f"requeue {job.number}"] * requeued
    assert job.leftovers() == []


def test_a_job_too_short_for_an_epoch_does_not_go_round_for_ever(job):
    (job.said / "barren").touch()
    job.start_working()
    job.time_limit()
    assert job.output().endswith("not one epoch came of this job: give it a longer --time\n")
    assert job.process.returncode == 1
    assert job.heard("requeued") == []
    assert job.leftovers() == []


def test_ray_head_lost(job):
    """The search ends with it, as if it had failed; the job goes on in the queue."""
    job.start_working(code=1)
    head = int(job.heard("steps")[0])  # the first step is the head's
    os.kill(head, signal.SIGTERM)
    wait_for_end(head)
    job.end_search()
    assert "the Ray head was lost after" in job.output()
    assert job.heard("requeued") == [f"requeue {job.number}"]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_a_search_that_fails_or_was_stopped_stays_away(job, code):
    job.start(code=code)
    out = job.output()
    assert job.process.returncode == code, out
    assert ("submit this script again" in out) == (code == 130)
    assert job.heard("requeued") == []
    assert job.leftovers() == []


def test_a_search_that_fails_as_the_time_limit_comes(job):
    """Tried again it would fail again. It ends while the script asks SLURM for the job's state."""
    for pipe in ("asked", "answer"):
        os.mkfifo(job.said / pipe)
    job.stub("squeue", 'echo >"$SAID/asked"; cat "$SAID/answer"')
    search = job.start_working(code=2)
    job.time_limit()
    (job.said / "asked").read_text()
    job.end_search()
    wait_for_end(search)
    (job.said / "answer").write_text("RUNNING\n")
    out = job.output()
    assert job.process.returncode == 2, out
    assert job.heard("requeued") == []


def test_a_head_that_does_not_start(job):
    job.stub("ray", "echo broken >&2; exit 1")
    job.start()
    out = job.output()
    assert job.process.returncode == 1
    assert "broken" in out
    assert "the Ray head ended at once: see its output above" in out
    assert job.heard("search") == []
    assert job.leftovers() == []
