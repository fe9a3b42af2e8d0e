"""Measure speed and memory of the whole job of `hodor segment`, and compare the network with the machine's peak.

The video is generated, H.264 with moving textured objects, so the measurement can be repeated without data. Frames a second
include decoding, the network and writing the masks. The stages are timed one after another in a separate run.
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

from hodor.analysis.plots import load_matplotlib
from hodor.frames import VideoWriter, open_source
from hodor.masks import write_labels, written_whole
from hodor.segment import Outputs, segment
from hodor.tracking import Tracker

STAGES = ("decode", "fit", "encode", "segment", "labels", "remember", "write")
"""Stages of a frame; "fit" is resizing the frame and the rest of the tracker."""


@dataclass(frozen=True)
class Case:
    """One configuration to measure.

    Attributes:
        objects: number of objects.
        history: number of past frames kept in memory (T).
        size: short side inside the network, in pixels; None means the model's.
        frames: length of the video.
    """

    objects: int = 1
    history: int = 7
    size: int | None = None
    frames: int = 60


@dataclass(frozen=True)
class Measured:
    """The measurements of one case.

    Attributes:
        case: the case.
        fps: frames a second from video file to mask files.
        ms: milliseconds a frame, all stages together.
        stages: milliseconds a frame by stage, when the stages run one after another.
        peak_mb: peak memory of the process, in MB.
        state_kb: size of the saved state of the tracker, in kB.
        gflop: GFLOP of the network for one frame; a multiply-add counts as two operations.
    """

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
"""Curve -> the field of `Case` that it varies."""


def curves(base: Case, names: Sequence[str]) -> list[Case]:
    """Return the cases of some curves.

    Args:
        base: the values of all fields that a curve does not vary.
        names: keys of CURVES.

    Returns:
        One case for each point of each curve.
    """
    return [replace(base, **{FIELD[name]: getattr(case, FIELD[name])}) for name in names for case in CURVES[name]]


def run(network: Any, cases: Sequence[Case], *, height: int = 480, width: int = 854) -> dict[str, Any]:
    """Measure some cases.

    Args:
        network: the network, on its device.
        cases: what to measure.
        height: height of the generated video, in pixels.
        width: width of the generated video, in pixels.

    Returns:
        A dict for JSON: the machine, its measured peak, and one row for each case. `floor_ms` of a row is the lower bound
        of the network's time, its GFLOP at the measured peak; `times_floor` is the time of encode, segment and remember
        divided by it.

    Raises:
        ValueError: "expected at least 2 frames to measure, got 1".
    """
    for case in cases:
        if case.frames < 2:
            raise ValueError(f"expected at least 2 frames to measure, got {case.frames}")
    weight = next(network.parameters())
    dtype = weight.dtype
    measured = [measure(network, case, height, width) for case in cases]
    # counting comes last: what it imports would add to the peak memory of all cases but the first
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
    """Measure one case on a generated video.

    Args:
        network: the network, on its device.
        case: what to measure.
        height: height of the video, in pixels.
        width: width of the video, in pixels.

    Returns:
        The measurements, without `gflop`.
    """
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
    """Count the operations of the network for one frame, with a full memory.

    Args:
        network: the network, on its device.
        case: number of objects, history and size.
        height: height of the frame, in pixels.
        width: width of the frame, in pixels.

    Returns:
        GFLOP.
    """
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
    """Count oneDNN's matrix product, which the counter does not support."""
    return 2 * int(np.prod(x)) * weight[0]


def time_stages(network: Any, case: Case, video: Path, first: np.ndarray, folder: Path) -> dict[str, float]:
    """Time each stage, one after another; the first frames warm up and are not counted.

    Args:
        network: the network, on its device.
        case: history, size and length.
        video: the video file.
        first: labels of its first frame.
        folder: folder for the written masks.

    Returns:
        Milliseconds a frame by stage.
    """
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


class _Timed:
    """A network whose methods encode, segment and remember are timed; its predictions time `labels`."""

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
    """Write an H.264 video of textured discs that move over a texture.

    Args:
        path: the file.
        objects: number of discs.
        frames: length of the video.
        height: height, in pixels.
        width: width, in pixels.

    Returns:
        Labels of its first frame, uint8 [H, W].
    """
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    texture = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / (3 + 1.5 * objects**0.5)
    centres = random.uniform((radius, radius), (height - radius, width - radius), (objects, 2))
    speeds = random.uniform(-3, 3, (objects, 2))
    colours = random.integers(0, 255, (objects, 3))
    first = np.zeros((height, width), np.uint8)
    with VideoWriter(path, Fraction(25)) as out:
        for t in range(frames):
            image = texture.copy()
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
    """Measure the peak speed of this machine on a 3 x 3 convolution and on a matrix product.

    Args:
        dtype: dtype of the operands.
        device: device of the operands.

    Returns:
        GFLOP/s by "conv", "matmul" and "mean"; the lower bound of a frame's time uses the mean.
    """
    a = torch.randn(2048, 2048, dtype=dtype, device=device)
    image = torch.randn(1, 256, 64, 128, dtype=dtype, device=device)
    kernel = torch.randn(256, 256, 3, 3, dtype=dtype, device=device)
    image = image.to(memory_format=torch.channels_last)
    kernel = kernel.to(memory_format=torch.channels_last)
    product = 2 * 2048**3 / _best(lambda: a @ a) / 1e9
    conv = 2 * 256 * 256 * 9 * 64 * 128 / _best(lambda: F.conv2d(image, kernel, padding=1)) / 1e9
    return {"conv": round(conv, 1), "matmul": round(product, 1), "mean": round((conv + product) / 2, 1)}


def _best(work: Any, times: int = 12, seconds: float = 2.0) -> float:
    """Return the shortest time of `times` calls, or of as many as fit in `seconds`; the first call warms up."""
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
    """Describe the machine: processor, cores, threads, GPU and versions."""
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
    """Reset the peak memory, without memory that earlier cases freed, where the system supports it (Linux)."""
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
    """Check that a plot can be written, before minutes of measuring.

    Args:
        path: the file.

    Raises:
        ValueError: "expected a plot whose name ends in .png or .svg, got x.gif", "a plot needs matplotlib: pip install
            'hodor-vos[viz]'".
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"expected a plot whose name ends in .png or .svg, got {path}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: pip install 'hodor-vos[viz]'")
    load_matplotlib()


def plot(report: dict[str, Any], path: Path) -> None:
    """Plot milliseconds a frame and peak memory against each field in which cases differ from the first one.

    Args:
        report: the result of `run`.
        path: the file, which ends in .png or .svg.

    Raises:
        ValueError: as `check_plot`.
    """
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
        axis.set_xlabel({"size": "short side inside the network, pixels", "frames": "length, frames"}.get(name, name))
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
