"""Files of a run: checkpoints to resume from, and weights. A file is complete at every moment, also if the process is killed.

last.pt contains everything that a resumed run needs to end with the weights of an uninterrupted one; weights.safetensors
contains the averaged weights.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from hodor.files import check_stored
from hodor.masks import written_whole
from hodor.models import weights
from hodor.models.model import Model

N = TypeVar("N", bound=nn.Module)
LAST, WEIGHTS, BEST, RECIPE = "last.pt", "weights.safetensors", "best.safetensors", "recipe.json"


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Lock the folder for this run; the system releases the lock when the process ends, also if it is killed.

    Where folders cannot be locked (Windows, some network disks) nothing is locked.

    Raises:
        ValueError: "another run is writing to OUT: wait for its end, or choose another --out".
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
            raise ValueError(f"another run is writing to {out}: wait for its end, or choose another --out") from None
        except OSError:
            pass
        yield
    finally:
        os.close(folder)


class Average(Generic[N]):
    """Exponential moving average of a network's weights: a <- a + (1 - d)(w - a) after every step.

    d is min(decay, (1 + step) / (10 + step)): smaller at first, so that the initial weights soon lose their influence. Weights
    that are not trained are not averaged.

    Args:
        network: the network that is trained. The attribute `network` is its averaged copy.
        decay: d, in [0, 1); 0 keeps a plain copy.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network: N = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        averaged = dict(self.network.named_parameters())
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._averaged: list[Tensor] = [averaged[name] for name in trained]
        self._trained: list[Tensor] = list(trained.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after the optimiser's step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._averaged:
            torch._foreach_lerp_(self._averaged, self._trained, 1 - decay)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; at every moment the file on disk is the complete old one or the complete new one.

    Args:
        path: the file.
        state: tensors and plain values.
    """
    with written_whole(path, new_folder=False) as out:
        guarded = _Guarded(out)
        try:
            torch.save(dict(state), cast("IO[bytes]", guarded))
        except RuntimeError:
            if guarded.error is None:
                raise
            raise guarded.error from None
        out.flush()
        os.fsync(out.fileno())
    if hasattr(os, "O_DIRECTORY"):  # the new name has to reach the disk too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _Guarded:
    """A file that keeps the error of a write: torch reports a full disk as "unexpected pos", without its cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def check_present(out: Path) -> None:
    """Raise FileNotFoundError if the folder of a run was removed after the run began, so that it is not created again."""
    if not (out / RECIPE).is_file():
        raise FileNotFoundError(errno.ENOENT, "the folder was removed or emptied during the run", str(out))


def read(path: Path, advice: str = "start again with --fresh, or replace the file") -> dict[str, Any] | None:
    """Read a file of `save` to the CPU; None if there is no file. No code in the file is executed.

    Args:
        path: the file.
        advice: what the error message advises. Default: to start again with --fresh, or to replace the file.

    Raises:
        ValueError: "FILE cannot be read as a checkpoint (...): start again with --fresh, or replace the file".
    """
    if not path.is_file():
        return None
    try:
        check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual protocols: what cannot be read raises
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state["step"], int) or not isinstance(state["recipe"], dict):
            raise TypeError("it has no step or no recipe")
        state["network"]
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason}): {advice}") from None
    return state


def clear(out: Path, *, all_of_it: bool) -> None:
    """Remove the unfinished files of a killed run; with all_of_it, every file of a run (and no other file)."""
    parts = [p for name in (LAST, WEIGHTS, BEST, RECIPE, "*.png") for p in out.glob(f".{name}.*.part")]
    files = [out / name for name in (LAST, WEIGHTS, BEST, RECIPE, "log.jsonl")] if all_of_it else []
    files += [*out.glob("nan*.pt"), *out.glob("pictures/*.png"), *out.glob("tensorboard/events.*")] if all_of_it else []
    for path in [*parts, *out.glob("pictures/.*.part"), *files]:
        path.unlink(missing_ok=True)


def plain(recipe: Any, *, names_only: bool = False) -> dict[str, Any]:
    """Convert a recipe to JSON values: lists for tuples, text for paths. names_only: only the last part of paths."""
    text = json.dumps(asdict(recipe), default=(lambda path: path.name) if names_only else str)
    return dict(json.loads(text))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Iterable[str] = ()) -> list[str]:
    """Return the differences between two plain recipes, such as "batch was 4, now 8".

    Args:
        old: the earlier recipe, from `plain`.
        new: the later recipe.
        free: names of fields to ignore, with the fields inside them.
    """
    before, after, ignored = dict(_flat(old)), dict(_flat(new)), tuple(free)
    names = [name for name in {**before, **after} if not any(name == f or name.startswith(f"{f}.") for f in ignored)]
    return [
        f"{name} was {json.dumps(before.get(name))}, now {json.dumps(after.get(name))}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def completed(old: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default values of the fields that a plain recipe of an earlier version does not have."""
    pairs = ((name, old.get(name, value), value) for name, value in defaults.items())
    filled = {n: completed(v, d) if isinstance(v, dict) and isinstance(d, dict) else v for n, v, d in pairs}
    return {**old, **filled}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_weights(path: Path, network: Model, about: Mapping[str, Any], **facts: Any) -> None:
    """Write the weights in half precision.

    Args:
        path: the .safetensors file.
        network: the network.
        about: the plain recipe, with names instead of paths; stored in the file, as is the commit.
        facts: further plain values to store.
    """
    weights.save(network, path, half=True, new_folder=False, recipe=about, commit=commit(), **facts)


def facts_of(path: Path) -> dict[str, Any]:
    """Return what `write_weights` stored beside the weights; {} if there is no file."""
    return weights.read(path)[0] if path.is_file() else {}


def write_recipe(out: Path, recipe: Any, **facts: Any) -> None:
    """Write OUT/recipe.json: every field of the recipe, the commit, the version of torch, and `facts`."""
    about = {"recipe": plain(recipe), "commit": commit(), "torch": torch.__version__, **facts}
    weights.write_atomically(out / RECIPE, (json.dumps(about, indent=1) + "\n").encode())


def rounding(processes: int) -> dict[str, str | int]:
    """Return what the last bits of a run's numbers depend on beside its recipe."""
    return {"processes": processes, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def rounding_note(saved: Mapping[str, Any], processes: int) -> str:
    """Return how the `rounding` of a checkpoint differs: " (threads was 2, now 1: the last bits may differ)", or ""."""
    changed = differences(saved.get("rounding", {}), rounding(processes)) if "rounding" in saved else []
    return f" ({', '.join(changed)}: the last bits may differ)" if changed else ""


def commit() -> str:
    """Return the git commit of this code, "" outside a checkout."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
