"""Kill commands by SIGKILL at random moments, resume them, and compare the result with that of an unbroken run.

    python tests/campaigns/kill.py segment --kills 100
    python tests/campaigns/kill.py evaluate --kills 100
    python tests/campaigns/kill.py train --kills 100
    python tests/campaigns/kill.py session --kills 100

"session" is no command: it gives, corrects, undoes, propagates and exports through `hodor.Session`, and after a kill loads the
session and continues after the last edit in it. An edit whose method had returned must be there.

This process runs the command once, so that everything is imported, and then forks a process for every run, which therefore
costs no start. A run is killed after a
random part of the time that an unbroken run takes. It is then resumed: half of the time it is killed again, else it runs to
its end. The result must have the same files as the unbroken run, with the same bytes; films must have the same pictures; what
was given to the command must be unchanged. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

import av
import job
import numpy as np
import torch
import training

from hodor import cli
from hodor.masks import written_whole
from hodor.models import weights
from hodor.session import Session
from hodor.train import Validation
from hodor.training import recipes

FILMS = (".mp4", ".mov")


@dataclass
class Campaign:
    """A command that is killed.

    Attributes:
        start: run the command into a folder; the second argument is whether it resumes.
        same: compare one file of the resumed and of the unbroken run; return whether they are equal.
        given: the files and folders that the command reads.
        place: name the moment of a kill from the files in the folder.
    """

    start: Callable[[Path, bool], int]
    same: Callable[[Path, Path], bool]
    given: list[Path]
    place: Callable[[Path], str]


@dataclass
class Outcome:
    """What a campaign found.

    Attributes:
        kills: kills that hit a running process.
        lives: results that were compared with the unbroken run.
        places: moments of the kills, with their number.
        failures: what differs, one line each.
    """

    kills: int = 0
    lives: int = 0
    places: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def command(*arguments: object) -> int:
    """Run `hodor` in this process; return its exit code."""
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def forked(work: Callable[[], int], log: Path) -> int:
    """Start `work` in a forked process; return the number of the process. It writes what it prints to `log`."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Discard what this process prints."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    try:
        yield
    finally:
        for number, one in zip((1, 2), kept, strict=True):
            getattr(sys, {1: "stdout", 2: "stderr"}[number]).flush()
            os.dup2(one, number)


def ended(process: int) -> int:
    """Wait for a process; return its exit code, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def pictures(path: Path) -> list[tuple[Any, np.ndarray]]:
    with av.open(str(path)) as film:
        pixels = "rgba" if path.suffix == ".mov" else "rgb24"
        return [(frame.pts, frame.to_ndarray(format=pixels)) for frame in film.decode(video=0)]


def same_film(one: Path, two: Path) -> bool:
    """Whether two films have the same pictures at the same times. x264 with several threads rounds differently each time."""
    a, b = pictures(one), pictures(two)
    return [t for t, _ in a] == [t for t, _ in b] and all(
        np.abs(x.astype(int) - y).mean() < 4 for (_, x), (_, y) in zip(a, b, strict=True)
    )


def same_npz(one: Path, two: Path) -> bool:
    with np.load(one) as a, np.load(two) as b:
        return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


def untimed(value: Any) -> Any:
    """Return JSON values without durations, paths and the command line, in which two runs differ."""
    left_out = {"seconds", "seconds_with_io", "fps", "fps_with_io", "frames_per_second", "command", "notes", "predictions"}
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in left_out}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def same_file(one: Path, two: Path) -> bool:
    if one.suffix in FILMS:
        return same_film(one, two)
    if one.suffix == ".npz":
        return same_npz(one, two)
    if one.name in ("run.json", "results.json"):
        a, b = (untimed(json.loads(path.read_bytes())) for path in (one, two))
        return bool(a == b)
    return one.read_bytes() == two.read_bytes()


def same_training(one: Path, two: Path) -> bool:
    if one.name == "last.pt":
        return same_state(*(torch.load(path, weights_only=True) for path in (one, two)))
    if one.name == "log.jsonl":
        return bool(training.lines(one.parent) == training.lines(two.parent))
    return one.read_bytes() == two.read_bytes()


def same_state(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same_state(v, two[k]) for k, v in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same_state, one, two))
    return bool(one == two)


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder, without TensorBoard's, whose names contain a time."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p for p in found if p.parts[0] != "tensorboard")


def digest(given: list[Path]) -> str:
    hashed = hashlib.sha256()
    for top in given:
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            hashed.update(str(path).encode())
            hashed.update(path.read_bytes() if path.is_file() else b"")
    return hashed.hexdigest()


def checkpoint(folder: Path) -> Path:
    """Write an untrained HODOR of 0.2 M weights, which takes a few milliseconds a frame."""
    torch.manual_seed(0)
    weights.save(weights.build("tiny").eval(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def segmenting(folder: Path, frames: int) -> Campaign:
    """A video with its mask in the middle, with every output."""
    clip, network = job.video(folder / "clip.mp4", frames), checkpoint(folder)
    first = frames * 3 // 7
    mask = job.mask_file(folder / "mask.png", first)
    options = ["--device", "cpu", "--dtype", "float32", "--checkpoint", network, "--cutout", "1", "--prores", "2"]
    options += ["--overlay", "--sheet", "--soft", "--coco", "--ytvis", "--table"]

    def start(out: Path, resume: bool) -> int:
        resumed = ["--resume"] if resume else []
        return command("segment", clip, "--mask", f"{mask}@{first}", "-o", out, *options, *resumed)

    def place(out: Path) -> str:
        count = len(list((out / "masks").glob("[0-9]*.png"))) if (out / "masks").is_dir() else 0
        if count == frames:
            return "all masks written"
        return "no mask written" if not count else "backward pass" if count < first else "forward pass"

    return Campaign(start, same_file, [clip, mask, network], place)


def evaluating(folder: Path, frames: int) -> Campaign:
    """A data set of five videos, tracked and scored."""
    root = training.write_videos(folder / "data", ["a", "b", "c", "d", "e"], frames)
    network = checkpoint(folder)
    options = ["--workers", "1", "--device", "cpu", "--dtype", "float32", "--checkpoint", network]

    def start(out: Path, resume: bool) -> int:
        resumed = ["--resume"] if resume else []
        return command("evaluate", "davis2017", root, "-o", out, "--csv", out.with_suffix(".csv"), *options, *resumed)

    def place(out: Path) -> str:
        run_file = out / "run.json"
        done = len(json.loads(run_file.read_bytes())["videos"]) if run_file.is_file() else 0
        return f"{done} of 5 videos finished"

    return Campaign(start, same_file, [root, network], place)


def training_run(folder: Path, steps: int) -> Campaign:
    """A network with dropout: checkpoints, weights, validation, pictures and log."""
    root = training.write_videos(folder / "data", ["goat", "cow", "held"])
    validation = Validation(every=4, root=root, sequences=("held",))
    recipe = training.small(root, steps=steps, save_every=2, pictures_every=3, validation=validation)

    recipes.RECIPES["campaign"] = recipe

    def start(out: Path, resume: bool) -> int:
        return command("train", "campaign", "--out", out, "--device", "cpu")  # it resumes a run that it finds

    def place(out: Path) -> str:
        if out.is_dir() and any(out.glob(".*.part")):
            return "while a file is written"
        return "after a checkpoint" if (out / "last.pt").exists() else "before the first checkpoint"

    return Campaign(start, same_training, [root], place)


class Square:
    """A prompter of a square around the first click."""

    def __init__(self, frame: np.ndarray) -> None:
        self.size = frame.shape[:2]

    def predict(self, points: Any = None, labels: Any = None, box: Any = None, mask: Any = None) -> tuple[np.ndarray, float]:
        found = np.zeros(self.size, bool)
        x, y = points[0].astype(int)
        found[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = True
        return found, 1.0


def editing(folder: Path, frames: int) -> Campaign:
    """A session with every edit, propagations and exports between them."""
    clip, network = job.video(folder / "clip.mp4", frames), weights.load(checkpoint(folder))
    returned, middle = folder / "returned.txt", frames // 2
    export = {"coco": True, "table": True, "soft": True, "overlay": True, "cutout": (1,)}
    edits: list[Callable[[Session], object]] = [
        lambda s: s.add_mask(0, 1, job.mask() == 1),
        lambda s: s.add_points(0, 2, [(70, 48)], [1]),
        lambda s: s.add_mask(middle, 1, job.mask(middle) == 1),
        lambda s: s.undo(),
        lambda s: s.redo(),
        lambda s: s.add_mask(middle, 3, job.mask(middle) == 2),
        lambda s: s.merge_objects(2, 3),
        lambda s: s.undo(),
        lambda s: s.swap_objects(2, 3, middle),
        lambda s: s.rename_object(3, 9),
        lambda s: s.add_mask(middle + 4, 9, job.mask(middle + 4) == 2),
        lambda s: s.clear(middle, 1),
        lambda s: s.remove_object(9),
    ]

    def start(out: Path, resume: bool) -> int:
        if not resume:
            returned.write_text("0")
        work = out / "work"
        known: dict[str, Any] = {"network": network, "prompter": Square}
        fresh = not (work / "session.json").is_file()
        with Session(clip, folder=work, **known) if fresh else Session.load(work, **known) as session:
            journal = work / "journal.jsonl"
            done = journal.read_bytes().count(b"\n") if journal.is_file() else 0
            if done < int(returned.read_text() or 0):
                print(f"{returned.read_text()} edits had returned, {done} are in the session")
                return 1
            for number in range(done, len(edits) + 1):
                if number:  # after a kill, what follows the last edit is repeated
                    for _ in session.propagate():
                        pass
                    if number % 4 == 1:
                        session.export(**export)
                if number < len(edits):
                    edits[number](session)
                    with written_whole(returned) as file:
                        file.write(str(number + 1).encode())
            session.save()
        return 0

    def place(out: Path) -> str:
        journal = out / "work" / "journal.jsonl"
        done = journal.read_bytes().count(b"\n") if journal.is_file() else 0
        half = " while a file is written" if out.is_dir() and any(out.rglob(".*.part")) else ""
        return f"{done:2d} of {len(edits)} edits{half}"

    return Campaign(start, same_file, [clip], place)


def kill(made: Campaign, folder: Path, kills: int, seed: int) -> Outcome:
    """Run a campaign until this number of kills has hit."""
    outcome, dice = Outcome(), random.Random(seed)
    log, whole = folder / "log.txt", folder / "whole"
    with silent():
        made.start(folder / "first", False)
    began = time.monotonic()
    code = ended(forked(lambda: made.start(whole, False), log))
    length = time.monotonic() - began
    assert code == 0, f"the unbroken run failed with exit code {code}: {log.read_text()}"
    expected, given = files_in(whole), digest(made.given)
    out = folder / "out"
    while outcome.kills < kills:
        shutil.rmtree(out, ignore_errors=True)
        resume = again = False
        while True:
            process = forked(lambda: made.start(out, resume), log)  # noqa: B023 runs before the values change
            if not resume or again:
                time.sleep(dice.uniform(0, length))
                os.kill(process, signal.SIGKILL)
            code = ended(process)
            if code != -signal.SIGKILL:
                break
            outcome.kills += 1
            outcome.places[made.place(out)] += 1
            resume, again = True, outcome.kills < kills and dice.random() < 0.5
        outcome.lives += 1
        outcome.failures += [f"life {outcome.lives}: {line}" for line in compare(made, out, whole, expected, code, log)]
        if digest(made.given) != given:
            outcome.failures.append(f"life {outcome.lives}: what was given to the command changed")
    return outcome


def compare(made: Campaign, out: Path, whole: Path, expected: list[Path], code: int, log: Path) -> list[str]:
    """Return what is wrong with the result of a resumed run, one line each."""
    if code:
        return [f"exit code {code}: {' '.join(log.read_text().split())[-300:]}"]
    found = files_in(out)
    lines = [f"{path} is missing" for path in sorted({*expected} - {*found})]
    lines += [f"{path} is left over" for path in sorted({*found} - {*expected})]
    return lines + [f"{path} differs" for path in expected if path in found and not made.same(out / path, whole / path)]


MADE: dict[str, tuple[Callable[[Path, int], Campaign], int]] = {
    "segment": (segmenting, 56),
    "evaluate": (evaluating, 12),
    "train": (training_run, 12),
    "session": (editing, 40),
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=MADE)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--length", type=int, help="frames, frames of each video, or steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training.add_models()
    make, length = MADE[options.command]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), options.length or length)
        outcome = kill(made, Path(folder), options.kills, options.seed)
    found = f"{outcome.kills} kills, {outcome.lives} results compared, {len(outcome.failures)} failures"
    print(f"{options.command}: {found}, {time.monotonic() - began:.0f} s")
    for where, count in sorted(outcome.places.items()):
        print(f"  {where}: {count}")
    print(*outcome.failures, sep="\n")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
