"""Cross-validation: train on two thirds of the videos and score the other third, three times.

    python benchmarks/folds.py DAVIS --out runs/folds -- xmem-lite --data.root DAVIS coco --steps 2000 ...
    python benchmarks/folds.py DAVIS --out runs/folds --fold 1 -- ...      # one fold, to run each on its own core

DAVIS is a folder that `hodor evaluate davis2016 DAVIS` accepts. Fold k of K holds out every K-th video in the order of
names, from the k-th on. The arguments after `--` are those of `hodor train`; --out and --data.without are added. An
interrupted fold resumes; a finished fold is read from its results.json and not run again. Without --fold all folds are run,
or read, and averaged. There is no tuning: each network is scored in one pass, with the weights that the training averaged.

Prints a line a fold (its mean J&F and J&F of each video, in percent) and, for more than one fold, mean and standard
deviation of the folds.
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
    """Train without the held-out videos and score them, unless that is done; return J&F of each video, in percent."""
    results = out / "scores" / "results.json"
    if not results.is_file():
        subprocess.run([*HODOR, "train", *training, "--data.without", *held_out, "--out", str(out / "run")], check=True)
        weights = out / "run" / "weights.safetensors"
        evaluate = ["evaluate", "davis2016", str(data), "--only", *held_out, "-o", str(results.parent)]
        subprocess.run([*HODOR, *evaluate, "--checkpoint", str(weights), *options], check=True)
    sequences = json.loads(results.read_text())["sequences"]
    return {sequence["name"]: 100 * sequence["summary"]["J&F"] for sequence in sequences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of DAVIS 2016, or of a data set with its layout")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs and scores")
    parser.add_argument("--folds", type=int, default=3, help="number of folds (default: %(default)s)")
    parser.add_argument("--fold", type=int, help="run this fold only, from 1 on")
    parser.add_argument("--history", default="7", help="number of past frames kept in memory (default: %(default)s)")
    parser.add_argument("training", nargs="+", help="after --: the recipe and options of `hodor train`")
    options = parser.parse_args()
    names = sorted(video.name for video in open_layout(options.data, "davis2016").videos)
    if not 2 <= options.folds <= len(names):
        sys.exit(f"{parser.prog}: expected --folds from 2 to {len(names)}, the number of videos, got {options.folds}")
    if options.fold is not None and not 1 <= options.fold <= options.folds:
        sys.exit(f"{parser.prog}: expected --fold from 1 to {options.folds}, got {options.fold}")
    means = []
    for fold in [options.fold] if options.fold else range(1, options.folds + 1):
        held_out = names[fold - 1 :: options.folds]
        try:
            found = scored(options.data, options.out / str(fold), held_out, options.training, ["--history", options.history])
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)
        means.append(statistics.mean(found.values()))
        print(f"fold {fold}: {means[-1]:.1f}  " + ", ".join(f"{name} {score:.1f}" for name, score in found.items()), flush=True)
    if len(means) > 1:
        print(f"{len(means)} folds: {statistics.mean(means):.1f}, standard deviation {statistics.stdev(means):.1f}")


if __name__ == "__main__":
    main()
