"""What a run leaves to go on from, and what it gives out: whole files or none, whatever is cut off and when.

last.pt holds everything a run needs to end with the weights of an unbroken one; weights.safetensors the averaged weights.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hodor.masks import written_whole
from hodor.models import weights
from hodor.models.base import Network

LAST, WEIGHTS, BEST, RECIPE = "last.pt", "weights.safetensors", "best.safetensors", "recipe.json"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder until this one ends, however it does: the system drops the lock with the process.

    Where folders cannot be locked (Windows, some network disks) nothing is kept out. Raises ValueError: "another run is writing
    to OUT: wait for its end, or take another --out".
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {out}: wait for its end, or take another --out") from None
        except OSError:
            pass
        yield
    finally:
        os.close(folder)


class Average:
    """A second network whose weights follow the first one's: a <- a + (1 - d)(w - a) after every step.

    d is `decay`, less at first, min(decay, (1 + step) / (10 + step)), so that the average soon forgets the untrained network.
    decay 0 keeps a plain copy. Weights that are not trained stay as they are.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        mine = dict(self.network.named_parameters())
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._mine: list[Tensor] = [mine[name] for name in trained]
        self._theirs: list[Tensor] = list(trained.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._mine:
            torch._foreach_lerp_(self._mine, self._theirs, 1 - decay)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """`state` (tensors and plain values) into a file that is the old one or the new one, on the disk, at every moment."""
    with written_whole(path) as out:
        torch.save(dict(state), out)
        out.flush()
        os.fsync(out.fileno())
    if hasattr(os, "O_DIRECTORY"):  # the new name, too, has to reach the disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: Path) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU; None where there is no file. Nothing in it is executed.

    Raises ValueError: "FILE cannot be read as a checkpoint (...): begin again with --fresh, or put a whole file there".
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state["step"], state["recipe"], state["network"]
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        advice = "begin again with --fresh, or put a whole file there"
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason}): {advice}") from None
    return state


def clear(out: Path, *, all_of_it: bool) -> None:
    """Remove what a killed run was writing; with all_of_it, every file of a run as well (and nothing else)."""
    parts = [p for name in (LAST, WEIGHTS, BEST, RECIPE, "*.png") for p in out.glob(f".{name}.*.part")]
    files = [out / name for name in (LAST, WEIGHTS, BEST, RECIPE, "log.jsonl")] if all_of_it else []
    files += [*out.glob("nan*.pt"), *out.glob("pictures/*.png"), *out.glob("tensorboard/events.*")] if all_of_it else []
    for path in [*parts, *out.glob("pictures/.*.part"), *files]:
        path.unlink(missing_ok=True)


def plain(recipe: Any, *, names_only: bool = False) -> dict[str, Any]:
    """A recipe (a dataclass) as JSON has it: lists for tuples, text for paths, or their last part alone."""
    text = json.dumps(asdict(recipe), default=(lambda path: path.name) if names_only else str)
    return dict(json.loads(text))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = ()) -> list[str]:
    """What changed from one plain recipe to another, "batch was 4, now 8", without the fields in `free` and what is in them."""
    one, two, ignored = dict(_flat(old)), dict(_flat(new)), tuple(free)
    names = [name for name in {**one, **two} if not any(name == f or name.startswith(f"{f}.") for f in ignored)]
    return [
        f"{name} was {json.dumps(one.get(name))}, now {json.dumps(two.get(name))}"
        for name in names
        if one.get(name) != two.get(name)
    ]


def completed(old: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A plain recipe of an earlier version, with the fields that it did not have yet as they are by default."""
    pairs = ((name, old.get(name, value), value) for name, value in defaults.items())
    filled = {n: completed(v, d) if isinstance(v, dict) and isinstance(d, dict) else v for n, v, d in pairs}
    return {**old, **filled}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def give_out(path: Path, network: Network, about: Mapping[str, Any], **facts: Any) -> None:
    """The weights in half precision, with the recipe `about` (names, no paths), the commit and `facts` in the file."""
    weights.save(network, path, half=True, recipe=about, commit=commit(), **facts)


def given_out(path: Path) -> dict[str, Any]:
    """What `give_out` wrote beside the weights; {} where there is no such file."""
    return weights.read(path)[0] if path.is_file() else {}


def write_recipe(out: Path, recipe: Any, **facts: Any) -> None:
    """OUT/recipe.json: every field of the recipe as the run uses it, and what it runs on."""
    about = {"recipe": plain(recipe), "commit": commit(), "torch": torch.__version__, **facts}
    weights.write_atomically(out / RECIPE, (json.dumps(about, indent=1) + "\n").encode())


def rounding(processes: int) -> dict[str, str | int]:
    """What the last bits of a run depend on beside its recipe."""
    return {"processes": processes, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def elsewhere(saved: Mapping[str, Any], processes: int) -> str:
    """How the `rounding` of a checkpoint differs from ours: " (threads was 2, now 1: the last bits may differ)", or ""."""
    changed = differences(saved.get("rounding", {}), rounding(processes)) if "rounding" in saved else []
    return f" ({', '.join(changed)}: the last bits may differ)" if changed else ""


def commit() -> str:
    """The commit of the checkout this code runs from, "" outside one."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
