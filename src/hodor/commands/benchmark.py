"""`hodor benchmark`: speed, memory, and the time of the network compared with the machine's peak."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from hodor.commands.console import write_json
from hodor.commands.options import Network, parse


@dataclass(frozen=True)
class Benchmark:
    """Measure frames a second from video file to mask files, milliseconds by stage, and peak memory.

    The time of the network is also compared with its lower bound: its GFLOP at the peak speed of this machine.
    """

    curves: tuple[Literal["objects", "history", "size", "length"], ...] = ()
    """Also measure a series of values of these. Default: one object and five objects only."""
    frames: int = 60
    """Length of the video, in frames."""
    height: int = 480
    """Height of the video, in pixels."""
    width: int = 854
    """Width of the video, in pixels."""
    json: Path | None = None
    """Write the results to this file; - prints them."""
    plot: Path | None = None
    """Plot the curves to this PNG or SVG file (needs the extra `viz`)."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
        """Run the command. Returns the exit code."""
        from dataclasses import replace

        from hodor import benchmark

        if self.plot:
            benchmark.check_plot(self.plot)
        network = self.network.load()
        history = network.history if self.network.history is None else self.network.history
        base = benchmark.Case(history=history, size=self.network.size, frames=self.frames)
        cases = list(dict.fromkeys([base, replace(base, objects=5), *benchmark.curves(base, self.curves)]))
        report = benchmark.run(network, cases, height=self.height, width=self.width)
        if self.json != Path("-"):
            for row in report["cases"]:
                case = ", ".join(f"{k} {v}" for k, v in row["case"].items() if v is not None)
                stages = ", ".join(f"{k} {v:.1f}" for k, v in row["stages"].items())
                print(f"{case}: {row['fps']:.1f} frames/s, {row['ms']:.1f} ms ({stages}), {row['peak_mb']:.0f} MB")
                bound = f"lower bound {row['floor_ms']:.1f} ms, measured {row['times_floor']} times that"
                print(f"   {row['gflop']:.1f} GFLOP a frame, {bound}")
        write_json(self.json, report)
        if self.plot:
            benchmark.plot(report, self.plot)
        return 0


def main(argv: list[str]) -> int:
    """Run `hodor benchmark` with these arguments. Returns the exit code."""
    return parse(Benchmark, "benchmark", argv)
