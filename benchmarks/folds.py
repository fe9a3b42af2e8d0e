"""Cross-validation: train on two thirds of the videos, score the other third, three times.

    python benchmarks/folds.py DAVIS --out runs/folds -- xmem-lite --data.root DAVIS coco --steps 2000 ...
    python benchmarks/folds.py DAVIS --out runs/folds --fold 1 -- ...      # one of them, on a core of its own; at last all

DAVIS is a folder that `hodor evaluate --dataset davis2016` takes. Fold k of K holds out every K-th video in the order of names,
from the k-th on. Behind `--` stands what `hodor train` is given; --out and --data.without are added. A fold that is interrupted
goes on, one that is done is read. One pass, no tuning, weights as the training averaged them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from hodor.data.layouts import open_layout

HODOR = [sys.executable, "-c", "import sys; from hodor.cli import main; sys.exit(main())"]


def scored(data: Path, out: Path, held_out: list[str], training: list[str], options: list[str]) -> dict[str, float]:
    """Train without the held-out videos, unless it is done, and score them -> J&F of each, in percent."""
    results = out / "scores" / "results.json"
    if not results.is_file():
        subprocess.run([*HODOR, "train", *training, "--data.without", *held_out, "--out", str(out / "run")], check=True)
        weights = out / "run" / "weights.safetensors"
        evaluate = ["evaluate", "--dataset", "davis2016", str(data), "--only", *held_out, "-o", str(results.parent)]
        subprocess.run([*HODOR, *evaluate, "--checkpoint", str(weights), *options], check=True)
    found = json.loads(results.read_text())["sequences"]
    return {sequence["name"]: 100 * sequence["summary"]["J&F"] for sequence in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--fold", type=int, help="this one alone, from 1 on")
    parser.add_argument("--history", default="7", help="(default: %(default)s)")
    parser.add_argument("training", nargs="+", help="behind --: the recipe and options of `hodor train`")
    given = parser.parse_args()
    names = sorted(video.name for video in open_layout(given.data, "davis2016").videos)
    if not 2 <= given.folds <= len(names) or not 1 <= (given.fold or 1) <= given.folds:
        sys.exit(
            f"{parser.prog}: fold {given.fold or 1} of {given.folds}, {len(names)} videos: want 2 to as many folds as videos"
        )
    means = []
    for fold in [given.fold] if given.fold else range(1, given.folds + 1):
        held_out = names[fold - 1 :: given.folds]
        try:
            found = scored(given.data, given.out / str(fold), held_out, given.training, ["--history", given.history])
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        means.append(statistics.mean(found.values()))
        print(f"fold {fold}: {means[-1]:.1f}  " + ", ".join(f"{name} {score:.1f}" for name, score in found.items()), flush=True)
    if len(means) > 1:
        print(f"{len(means)} folds: {statistics.mean(means):.1f}, standard deviation {statistics.stdev(means):.1f}")


if __name__ == "__main__":
    main()
