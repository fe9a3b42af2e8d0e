"""`hodor evaluate`: run a network over a data set and score its masks. `hodor score` scores masks that exist already."""

import shlex

from hodor.commands.dataset import EvaluateDataset, run_dataset


def main(argv: list[str]) -> int:
    """Run `hodor evaluate DATASET ROOT ...`; return the exit code.

    Raises:
        ValueError: for a call of an older version, with the new call in full: "the option --dataset of `hodor evaluate` was
            removed: run `hodor evaluate davis2017 DAVIS -o masks`"; "expected a data set format (auto, davis2016, ...), got
            'masks': to score masks, run `hodor score masks annotations`".
    """
    if replacement := _new_call(argv):
        raise ValueError(replacement)
    return run_dataset(EvaluateDataset, "evaluate", argv)


def _new_call(argv: list[str]) -> str:
    """Return the message for a call of an older version; "" for a call of this one."""
    from hodor.data.benchmarks import BENCHMARKS

    if "--dataset" in argv:
        at = argv.index("--dataset")
        words = [*argv[at + 1 : at + 3], *argv[:at], *argv[at + 3 :]]
        return f"the option --dataset of `hodor evaluate` was removed: run `{shlex.join(['hodor', 'evaluate', *words])}`"
    names = ("auto", *BENCHMARKS)
    if len(argv) < 2 or {"-h", "--help", *names} & set(argv):
        return ""
    got = f"expected a data set format ({', '.join(names)}), got {argv[0]!r}"
    return f"{got}: to score masks, run `{shlex.join(['hodor', 'score', *argv])}`"
