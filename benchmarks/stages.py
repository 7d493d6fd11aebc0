"""Time and peak memory of every stage of ``fibnet reconstruct``, each in a process of its own.

Command: ``python benchmarks/stages.py STACK [--preset quick|standard|best] [--out FOLDER]``.
Without STACK a small two-voltage stack is simulated first. The peak is the largest resident
memory of the process that ran only that stage, so stages do not hide in each other's shadow.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ("fit", "train", "adapt", "segment", "refine", "measure", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stack", nargs="?", help="stack folder; simulated if not given")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--out", help="work folder (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        stack = options.stack
        if stack is None:
            stack = str(Path(scratch) / "stack")
            command = ["simulate", "tilted52", "--out", stack, "--slices", "24", "--side", "112"]
            subprocess.run([sys.executable, "-m", "fibsim.cli", *command], check=True)
        out = Path(options.out or Path(scratch) / "out")
        for stage in STAGES:
            command = [sys.executable, "-m", "fibnet.cli", "reconstruct", stack, "--out", str(out),
                       "--preset", options.preset, "--stages", stage]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)  # fmt: skip
            entry = json.loads((out / "run.json").read_text())["stages"][stage]
            print(f"{stage:8s} {entry['seconds']:8.1f} s {entry['peak_mb']:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
