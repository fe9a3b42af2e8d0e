"""How much memory a training step takes, told before it starts, and what to lower when it does not fit.

The step is played once with one small clip on the CPU while every tensor's memory is counted as it comes and goes. What a
clip takes grows with its pixels; weights, gradients, optimiser and average do not.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hodor.data.clip import Clip

PROBE = 128 * 224
"""Pixels of the clip that is tried: small, but several windows of every backbone."""

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """Bytes of a process. fixed: weights, gradients, optimiser, average. clip: activations at their highest, of one clip of
    the recipe's size. clips: played at once. idle: names of the parameters that no gradient reaches."""

    fixed: int
    clip: int
    clips: int
    idle: tuple[str, ...] = ()

    @property
    def need(self) -> int:
        return self.fixed + self.clip * self.clips

    def __str__(self) -> str:
        each = f"{gib(self.fixed)} for weights and optimiser, {gib(self.clip)} for each of {self.clips} clips at once"
        return f"about {gib(self.need)}: {each}"

    def advice(self, available: int, parts: int, checkpoint: bool) -> str:
        """What to lower, in numbers, so that a step fits into `available` bytes; parts: `accumulate` as it is."""
        fitting = max(0, (available - self.fixed) // max(self.clip, 1))
        words = []
        smaller = [n for n in range(self.clips - 1, 0, -1) if self.clips % n == 0]
        if smaller:
            best = next((n for n in smaller if n <= fitting), 1)
            need = gib(self.fixed + best * self.clip)
            words.append(f"--accumulate {parts * self.clips // best} ({best} at once, about {need})")
        if not checkpoint:
            words.append("--checkpoint (less than half of the activations)")
        if fitting < 1:
            share = (available - self.fixed) / max(self.clip, 1)
            side = f" to {math.sqrt(max(share, 0)):.0%} of each side" if share > 0.01 else ""
            words.append(f"a smaller --data.size{side}, or fewer --frames")
        return "lower it with " + ", or ".join(words) if words else "use a smaller --data.size, or fewer --frames"


def check(budget: Budget, device: torch.device, parts: int, checkpoint: bool) -> None:
    """Raises ValueError: "a step needs about 40.1 GiB: ...; cuda:0 has 23.5 GiB free: lower it with --accumulate 4 ..."."""
    free = available(device)
    if free is not None and budget.need > free:
        raise ValueError(f"a step needs {budget}; {device} has {gib(free)} free: {budget.advice(free, parts, checkpoint)}")


@contextlib.contextmanager
def explained(budget: Budget, device: torch.device, parts: int, checkpoint: bool) -> Iterator[None]:
    """Turn running out of memory into a ValueError of one line that says what to lower: "out of memory on cuda:0 (free
    before: ...; estimated: ...): lower it with ..."."""
    free = available(device)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        had = "" if free is None else f" (free before {gib(free)}, a step was estimated at {gib(budget.need)})"
        # the estimate was too low where it fitted: scale what is at hand so that the advice goes below what failed
        room = min(free or budget.need, budget.need) * 4 // 5
        raise ValueError(f"out of memory on {device}{had}: {budget.advice(room, parts, checkpoint)}") from error


def ran_out(error: BaseException) -> bool:
    """Whether this is memory running out, on a GPU or on the CPU, and not another fault."""
    words = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(w in str(error) for w in words)


def estimate(
    network: nn.Module,
    play: Callable[[Clip], Tensor],
    frames: int,
    objects: int,
    size: tuple[int, int],
    clips: int,
) -> Budget:
    """Play one small clip forward and backward on the CPU and scale to `size`; gradients are cleared afterwards.

    network: on the CPU, as it will be trained. play: clip -> total loss. Kernels' own workspace and fragmentation are not
    counted: a GPU takes 10 to 30 % more. Random numbers are drawn; seed after it.
    """
    shrink = min(1.0, math.sqrt(PROBE / (size[0] * size[1])))
    small = tuple(max(32, round(side * shrink / 32) * 32) for side in size)
    meter, trained = Meter(), [p for p in network.parameters() if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(meter.leave_out) for p in trained]
    with meter:
        play(_waves(frames, objects, (small[0], small[1]))).backward()
    for hook in hooks:
        hook.remove()
    idle = tuple(name for name, p in network.named_parameters() if p.requires_grad and p.grad is None)
    for p in trained:
        p.grad = None
    own = sum(t.nbytes for t in [*network.parameters(), *network.buffers()])
    fixed = 2 * own + 3 * sum(p.nbytes for p in trained)
    scale = size[0] * size[1] / (small[0] * small[1])
    return Budget(fixed, round(meter.peak * scale), clips, idle)


class Meter(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is active: `now` those alive, `peak` the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves(args) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = id(storage)
                if key not in self._alive and key not in given:
                    size = storage.nbytes()
                    self._alive[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))  # type: ignore[misc]
                    self.now += size
                    self.peak = max(self.peak, self.now)
        return out

    def leave_out(self, parameter: Tensor) -> None:
        """From now on, do not count this parameter's gradient, which is as large whatever the clip."""
        assert parameter.grad is not None
        key = id(parameter.grad.untyped_storage())
        if self._alive.pop(key, None) is not None:
            self.now -= parameter.grad.nbytes

    def _gone(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now -= size


def _waves(frames: int, objects: int, size: tuple[int, int]) -> Clip:
    """A clip of one colour gradient and vertical stripes as objects."""
    height, width = size
    row = torch.linspace(0, 1, width)
    images = row.expand(1, frames, 3, height, width).contiguous()
    owner = (torch.arange(width) * (objects + 1) // width).expand(height, width)
    planes = torch.stack([(owner == i + 1).float() for i in range(objects)]).expand(1, frames, -1, -1, -1).contiguous()
    yes = torch.ones(1, frames, dtype=torch.bool)
    return Clip(
        images, planes, yes, torch.ones(1, objects, dtype=torch.bool), torch.ones(1, frames, height, width, dtype=torch.bool)
    )


def available(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    found = [*_meminfo(Path("/proc/meminfo")), *_cgroup(Path("/sys/fs/cgroup"))]
    return min(found) if found else None


def _meminfo(path: Path) -> Iterator[int]:
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _cgroup(folder: Path) -> Iterator[int]:
    """What a container may still take."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get("inactive_file", "0")
        yield limit - int((folder / "memory.current").read_text()) + int(cache)


def in_use(device: torch.device) -> int:
    """Bytes in use: the most a GPU's tensors took so far, else what the process holds; 0 where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    return 0


def gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
