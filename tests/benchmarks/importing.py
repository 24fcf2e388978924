"""Time and peak memory of importing the largest published layouts at full size, generated.

python tests/benchmarks/importing.py [--folder /tmp/import]      (needs 2 GB there; two to three minutes)

Each import runs as the command `lfvd import`, in a process of its own; its peak of resident memory is read from Linux:
mapped pages of the file count. `base` is what the process takes before it reads anything, with a file of eight dialogues.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.layouts import DUMPS, Invented, invented, write

FULL = {"M13": ("meld", 1432, 13708, (1024, 300, 342)), "I12": ("iemocap", 151, 7433, (1024, 1582, 342))}
"""Layout → data set, dialogues, utterances, widths of text, audio, visual."""
KINDS = ("python2", "protocol2", "protocol4", "tensors")


def full_size(layout: str) -> Invented:
    """Dialogues of a data set with its true number of dialogues, utterances and widths; labels and values are noise."""
    name, dialogues, utterances, widths = FULL[layout]
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, utterances), dialogues - 1, replace=False))
    length = np.diff([0, *cuts, utterances])
    meld = name == "meld"
    ids = (
        [i for i in range(1433) if i != 60]
        if meld
        else [f"Ses{1 + i // 31:02d}F_impro{i:03d}" for i in range(dialogues)]
    )
    of = dict(zip(ids, map(int, length), strict=True))

    def features(width: int) -> dict:
        return {key: rng.standard_normal((n, width), dtype=np.float32) for key, n in of.items()}

    return Invented(
        meld=meld,
        labels={key: rng.integers(0, 6, n).tolist() for key, n in of.items()},
        voices={key: (np.arange(n) % 2).tolist() for key, n in of.items()},
        sentences={key: ["And then I said it again."] * n for key, n in of.items()},
        text=[features(widths[0]) for _ in range(4)],
        audio=features(widths[1]),
        visual=features(widths[2]),
        train=ids[:1039] if meld else ids[:110],
        valid=ids[1039:1153] if meld else ids[110:120],
        test=ids[1153:] if meld else ids[120:],
    )


IMPORT = """
import re, sys
from lfvd.cli import main
try:
    main(["import", *sys.argv[1:]])
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
"""
"""The command, which then tells its peak: the system's own figure for a child counts its parent's memory too."""


def measured(file: Path, *options: str) -> tuple[float, float]:
    """Seconds and peak MB of `lfvd import` of a file."""
    argv = [sys.executable, "-c", IMPORT, str(file), "--out", str(file.parent / "out.safetensors"), *options]
    start = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    """Print a line a layout, kind of pickle and option."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=None)
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as name:
        folder = Path(name)
        _, base = measured(write("M13", folder / "small", invented("meld"))[0])
        print(f"base {base:.0f} MB")
        for layout in FULL:
            data = full_size(layout)
            for kind in KINDS:
                lists = kind == "tensors"  # a tensor an utterance
                (file,) = write(layout, folder / kind, data, dump=DUMPS[kind], lists=lists)
                size = file.stat().st_size / 2**20
                for option in ("mean", "concat") if kind == "python2" else ("mean",):
                    seconds, peak = measured(file, "--text-layers", option)
                    print(
                        f"{layout} {kind:9} {option:6} {size:5.0f} MB: {seconds:5.1f} s, peak {peak:5.0f} MB, "
                        f"{(peak - base) / size:.2f} times the file above the base, {peak / size:.2f} in all",
                        flush=True,
                    )
                file.unlink()


if __name__ == "__main__":
    main()
