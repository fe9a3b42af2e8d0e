"""Memory of a training step, estimated before the first step, and advice on what to lower if it does not fit.

One step runs with one small clip on the CPU while the memory of every tensor is counted. The memory of a clip grows with its
pixels; that of weights, gradients, optimiser and average does not.
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
"""Pixels of the small clip: few, but several windows of every backbone."""

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """Memory of a process, in bytes.

    Attributes:
        fixed: weights, gradients, optimiser and averaged weights.
        clip: peak of the activations of one clip of the recipe's size.
        clips: clips that a process runs at once.
        idle: names of the parameters that no gradient reaches.
    """

    fixed: int
    clip: int
    clips: int
    idle: tuple[str, ...] = ()

    @property
    def need(self) -> int:
        return self.fixed + self.clip * self.clips

    def __str__(self) -> str:
        each = f"{gib(self.fixed)} for weights and optimiser, {gib(self.clip)} for each of {self.clips} clips at once"
        return f"about {gib(self.need)} ({each})"

    def advice(self, available: int, parts: int, checkpoint: bool) -> str:
        """Return what to lower, in numbers, so that a step fits.

        Args:
            available: available memory, in bytes.
            parts: the recipe's `accumulate`.
            checkpoint: the recipe's `checkpoint`.
        """
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
    """Compare the estimate with the free memory of the device; arguments as `Budget.advice`.

    Raises:
        ValueError: "expected about 40.1 GiB (...) free on cuda:0 for a step, got 23.5 GiB: lower it with --accumulate 4 ...".
    """
    free = available(device)
    if free is not None and budget.need > free:
        raise ValueError(
            f"expected {budget} free on {device} for a step, got {gib(free)}: {budget.advice(free, parts, checkpoint)}"
        )


@contextlib.contextmanager
def explained(budget: Budget, device: torch.device, parts: int, checkpoint: bool) -> Iterator[None]:
    """Turn running out of memory into a ValueError that states what to lower; arguments as `check`.

    Raises:
        ValueError: "out of memory on cuda:0 (free before 23.5 GiB, a step was estimated at 20.1 GiB): lower it with ...".
    """
    free = available(device)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        had = "" if free is None else f" (free before {gib(free)}, a step was estimated at {gib(budget.need)})"
        # the estimate was too low if it fitted: scale the memory so that the advice is lower than what failed
        usable = min(free or budget.need, budget.need) * 4 // 5
        raise ValueError(f"out of memory on {device}{had}: {budget.advice(usable, parts, checkpoint)}") from error


def ran_out(error: BaseException) -> bool:
    """Return whether the error is memory running out, on a GPU or on the CPU."""
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
    """Run one small clip forward and backward on the CPU and scale its memory to `size`.

    Gradients are cleared afterwards. The workspace of kernels and fragmentation are not counted: a GPU needs 10 to 30 % more.
    The global random generator is used: set its seed afterwards.

    Args:
        network: the network on the CPU, as it will be trained.
        play: function from a clip to its total loss.
        frames: frames of a clip.
        objects: planes of a clip.
        size: height and width of a clip, in pixels.
        clips: clips that a process runs at once.
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


FRAMES = 5
"""Frames of the clip that is measured for longer clips of the scheme "propagate", whose memory grows with their frames."""


class Meter(TorchDispatchMode):
    """Count the bytes of the tensors made while it is active: `now` those alive, `peak` their maximum."""

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
        """Stop counting this parameter's gradient, whose size does not depend on the clip."""
        assert parameter.grad is not None
        key = id(parameter.grad.untyped_storage())
        if self._alive.pop(key, None) is not None:
            self.now -= parameter.grad.nbytes

    def _gone(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now -= size


def _waves(frames: int, objects: int, size: tuple[int, int]) -> Clip:
    """A clip with one colour gradient as picture and vertical stripes as objects."""
    height, width = size
    row = torch.linspace(0, 1, width)
    images = row.expand(1, frames, 3, height, width).contiguous()
    owner = (torch.arange(width) * (objects + 1) // width).expand(height, width)
    planes = torch.stack([(owner == i + 1).float() for i in range(objects)]).expand(1, frames, -1, -1, -1).contiguous()
    labelled_BT, objects_BN = torch.ones(1, frames, dtype=torch.bool), torch.ones(1, objects, dtype=torch.bool)
    return Clip(images, planes, labelled_BT, objects_BN, torch.ones(1, frames, height, width, dtype=torch.bool))


def available(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, None if the system does not report it."""
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
    """The memory that a container may still use."""
    with contextlib.suppress(OSError, ValueError):
        limit = int((folder / "memory.max").read_text())
        cache = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get("inactive_file", "0")
        yield limit - int((folder / "memory.current").read_text()) + int(cache)


def in_use(device: torch.device) -> int:
    """Return the memory in use in bytes: the peak of a GPU's tensors so far, else that of the process; 0 if not reported."""
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
