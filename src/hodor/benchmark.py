"""How fast, how much memory, and how far from what the machine could do: measured through the same job as `hodor segment`.

The video is made on the spot, H.264 with moving textured objects, so that anybody can repeat the figures; decoding, network
and writing of masks are all in the frames a second. Stages are timed one after another in a run of their own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from hodor.frames import VideoWriter, open_source
from hodor.masks import write_labels, written_whole
from hodor.segment import Outputs, segment
from hodor.tracking import Tracker

STAGES = ("decode", "fit", "encode", "segment", "labels", "remember", "write")


@dataclass(frozen=True)
class Case:
    """One thing to measure: objects, history T, short side inside (None: the model's), frames of the video."""

    objects: int = 1
    history: int = 7
    size: int | None = None
    frames: int = 60


@dataclass(frozen=True)
class Measured:
    """fps: end to end, files written. ms: per frame, the whole of it. stages: ms by stage, run one after another. peak_mb: of
    the process. state_kb: the tracker's state as saved. gflop: multiply-adds counted twice, of one frame's network."""

    case: Case
    fps: float
    ms: float
    stages: dict[str, float]
    peak_mb: float
    state_kb: float
    gflop: float = 0.0


CURVES: dict[str, tuple[Case, ...]] = {
    "objects": tuple(Case(objects=n) for n in (1, 2, 4, 5, 8, 16)),
    "history": tuple(Case(history=t) for t in (1, 2, 4, 7, 10)),
    "size": tuple(Case(size=s) for s in (192, 256, 288, 320, 352, 384, 480)),
    "length": tuple(Case(frames=n) for n in (60, 200, 600)),
}
FIELD = {"objects": "objects", "history": "history", "size": "size", "length": "frames"}
"""What each curve varies."""


def curves(base: Case, names: Sequence[str]) -> list[Case]:
    """The cases of these curves; all but what a curve varies is as in `base`."""
    return [replace(base, **{FIELD[name]: getattr(case, FIELD[name])}) for name in names for case in CURVES[name]]


def run(network: Any, cases: Sequence[Case], *, height: int = 480, width: int = 854) -> dict[str, Any]:
    """Measure the cases; -> a dict for JSON: the machine, its measured peak, and one row a case.

    Raises ValueError: "frames is 1: want at least 2 to measure".
    """
    for case in cases:
        if case.frames < 2:
            raise ValueError(f"frames is {case.frames}: want at least 2 to measure")
    weight = next(network.parameters())
    dtype = weight.dtype
    measured = [measure(network, case, height, width) for case in cases]
    # Counting comes last: what it imports would weigh in the peak memory of all cases but the first.
    counts = [round(count_gflop(network, case, height, width), 3) for case in cases]
    rows = [asdict(replace(row, gflop=gflop)) for row, gflop in zip(measured, counts, strict=True)]
    peak = peak_gflops(dtype, weight.device)
    for row in rows:
        network_ms = sum(row["stages"][s] for s in ("encode", "segment", "remember"))
        row["floor_ms"] = round(row["gflop"] / peak["mean"] * 1000, 2)
        row["times_floor"] = round(network_ms / row["floor_ms"], 2) if row["floor_ms"] else None
    return {
        "machine": machine(),
        "network": {"model": network.name, "size": network.size, "dtype": str(dtype).removeprefix("torch.")},
        "frame": [height, width],
        "peak_gflops": peak,
        "cases": rows,
    }


def measure(network: Any, case: Case, height: int, width: int) -> Measured:
    """One case, on a video made for it."""
    size = case.size or network.size
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        first = make_video(video, case.objects, case.frames, height, width)
        warm = Tracker(network, history=case.history, size=size)
        with open_source(video) as source:
            for frame in source.frames(0, min(case.history + 2, case.frames)):
                warm.track(frame.image, first if frame.index == 0 else None)
        warm.save(Path(folder) / "state")
        state = (Path(folder) / "state").stat().st_size / 1024
        _reset_peak()
        with open_source(video) as source:
            summary = segment(source, {0: first}, network, Outputs(Path(folder) / "out"), history=case.history, size=size)
        peak = _peak_mb()
        stages = time_stages(network, case, video, first, Path(folder))
    ms = summary.seconds / summary.frames * 1000
    return Measured(case, round(1000 / ms, 2), round(ms, 2), stages, round(peak, 1), round(state, 1))


def count_gflop(network: Any, case: Case, height: int, width: int) -> float:
    """-> GFLOP of the network for one frame, with the memory full."""
    tracker = Tracker(network, history=case.history, size=case.size or network.size)
    labels = np.arange(width) * case.objects // width + 1
    frame = np.zeros((height, width, 3), np.uint8)
    tracker.track(frame, np.broadcast_to(labels, (height, width)).astype(np.uint8))
    for _ in range(case.history):
        tracker.track(frame)
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    with FlopCounterMode(display=False, custom_mapping={onednn: _linear_flop} if onednn else {}) as counter:
        tracker.track(frame)
    return float(counter.get_total_flops()) / 1e9


def _linear_flop(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """The counter does not know oneDNN's product by itself."""
    return 2 * int(np.prod(x)) * weight[0]


def time_stages(network: Any, case: Case, video: Path, first: np.ndarray, folder: Path) -> dict[str, float]:
    """-> milliseconds a frame by stage, each stage alone; the first frames warm up and do not count."""
    spent = dict.fromkeys(STAGES, 0.0)
    timed: Any = _Timed(network, spent)
    tracker = Tracker(timed, history=case.history, size=case.size or network.size)
    count, skip = 0, min(5, case.frames // 3)
    with open_source(video) as source:
        frames = source.frames(0, min(case.frames, 40))
        while True:
            began = time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            decoded = time.perf_counter()
            inner = spent["encode"] + spent["segment"] + spent["remember"] + spent["labels"]
            labels = tracker.track(frame.image, first if frame.index == 0 else None)
            tracked = time.perf_counter()
            inner = spent["encode"] + spent["segment"] + spent["remember"] + spent["labels"] - inner
            write_labels(folder / "stage" / f"{frame.name}.png", labels)
            spent["decode"] += decoded - began
            spent["fit"] += tracked - decoded - inner
            spent["write"] += time.perf_counter() - tracked
            count += 1
            if count == skip:
                spent.update(dict.fromkeys(STAGES, 0.0))
    return {stage: round(seconds / max(count - skip, 1) * 1000, 2) for stage, seconds in spent.items()}


class _Timed:  # stands in for a Network
    """A network whose three verbs are timed; predictions time their labels."""

    def __init__(self, network: Any, spent: dict[str, float]) -> None:
        self._network, self._spent = network, spent

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._network, name)
        if name not in ("encode", "segment", "remember"):
            return inner

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            out = inner(*arguments, **named)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self._spent[name] += time.perf_counter() - began
            return (_TimedPrediction(out[0], self._spent), out[1]) if name == "segment" else out

        return timed


class _TimedPrediction:
    def __init__(self, prediction: Any, spent: dict[str, float]) -> None:
        self._prediction, self._spent = prediction, spent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prediction, name)

    def labels(self, size: tuple[int, int]) -> Any:
        began = time.perf_counter()
        out = self._prediction.labels(size)
        self._spent["labels"] += time.perf_counter() - began
        return out


def make_video(path: Path, objects: int, frames: int, height: int, width: int) -> np.ndarray:
    """Write an H.264 video of textured discs that move before a texture; -> labels of its first frame, uint8 [H, W]."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    ground = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / (3 + 1.5 * objects**0.5)
    centres = random.uniform((radius, radius), (height - radius, width - radius), (objects, 2))
    speeds = random.uniform(-3, 3, (objects, 2))
    colours = random.integers(0, 255, (objects, 3))
    first = np.zeros((height, width), np.uint8)
    with VideoWriter(path, Fraction(25)) as out:
        for t in range(frames):
            image = ground.copy()
            for i in range(objects):
                span = np.array([height, width]) - 2 * radius
                place = np.abs((centres[i] + speeds[i] * t - radius) % (2 * span) - span) + radius
                inside = (y - place[0]) ** 2 + (x - place[1]) ** 2 < radius**2
                stripes = ((y + x)[inside] // 8 % 2)[:, None] * 40
                image[inside] = (colours[i] * 0.8 + stripes).clip(0, 255)
                if t == 0:
                    first[inside] = i + 1
            out.write(image)
    return first


def peak_gflops(dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, float]:
    """What this machine reaches, in GFLOP/s, on a 3 x 3 convolution and on a matrix product; the floor uses their mean."""
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    image = torch.randn(1, 256, 64, 128, dtype=dtype, device=device)
    kernel = torch.randn(256, 256, 3, 3, dtype=dtype, device=device)
    image = image.to(memory_format=torch.channels_last)
    kernel = kernel.to(memory_format=torch.channels_last)
    product = 2 * 2048**3 / _best(lambda: a @ a) / 1e9
    conv = 2 * 256 * 256 * 9 * 64 * 128 / _best(lambda: F.conv2d(image, kernel, padding=1)) / 1e9
    return {"conv": round(conv, 1), "matmul": round(product, 1), "mean": round((conv + product) / 2, 1)}


def _best(work: Any, times: int = 12, seconds: float = 2.0) -> float:
    """The quickest of `times` goes, or of as many as fit in `seconds`; the first only warms up."""
    with torch.inference_mode():
        _timed_once(work)
        end, best = time.perf_counter() + seconds, _timed_once(work)
        for _ in range(times - 2):
            if time.perf_counter() > end:
                break
            best = min(best, _timed_once(work))
    return best


def _timed_once(work: Any) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def machine() -> dict[str, Any]:
    """Processor, cores, threads, versions."""
    return {
        "processor": next(_cpu_names(), platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu_names() -> Iterator[str]:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                yield line.partition(":")[2].strip()


def _reset_peak() -> None:
    """Let the peak count from now, without what earlier cases freed, where the system offers it (Linux)."""
    import ctypes
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if platform.system() == "Darwin" else peak / 1024


def check_plot(path: Path) -> None:
    """Raises ValueError before minutes of measuring: "plot x.gif: want a name that ends in .png or .svg", "a plot needs
    matplotlib: pip install 'hodor-vos[viz]'"."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"plot {path}: want a name that ends in .png or .svg")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: pip install 'hodor-vos[viz]'")


def plot(report: dict[str, Any], path: Path) -> None:
    """Milliseconds a frame and peak memory against what the cases vary beside the first one, a panel each, as PNG or SVG."""
    check_plot(path)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    base = report["cases"][0]["case"]
    varied = {
        name: [r for r in report["cases"] if all(r["case"][k] == base[k] for k in base if k != name)]
        for name in ("objects", "history", "size", "frames")
    }
    varied = {name: rows for name, rows in varied.items() if len({r["case"][name] for r in rows}) > 1}
    figure, axes = pyplot.subplots(1, max(len(varied), 1), figsize=(4.2 * max(len(varied), 1), 3.4), squeeze=False)
    for axis, (name, rows) in zip(axes[0], varied.items(), strict=False):
        rows = sorted(rows, key=lambda r: r["case"][name] or report["network"]["size"])
        x = [r["case"][name] or report["network"]["size"] for r in rows]
        axis.plot(x, [r["ms"] for r in rows], "o-", color="tab:blue")
        axis.set_xlabel({"size": "short side inside, pixels", "frames": "length, frames"}.get(name, name))
        axis.set_ylabel("milliseconds a frame", color="tab:blue")
        axis.set_ylim(bottom=0)
        other = axis.twinx()
        other.plot(x, [r["peak_mb"] for r in rows], "s--", color="tab:orange", markersize=4)
        other.set_ylabel("peak memory, MB", color="tab:orange")
        other.set_ylim(bottom=0)
    figure.suptitle(f"{report['network']['model']}, {report['network']['dtype']}, {report['machine']['processor']}", fontsize=9)
    figure.tight_layout()
    with written_whole(path) as out:
        figure.savefig(out, dpi=120, format=path.suffix.lower().lstrip("."))
    pyplot.close(figure)
