"""`hodor benchmark`: speed, memory, and the distance from the machine's peak."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes

from hodor.commands.console import write_json
from hodor.commands.options import Network, parse


@dataclass(frozen=True)
class Benchmark:
    """Frames a second from file to files, milliseconds by stage, peak memory, and the distance from the machine's peak."""

    curves: tuple[Literal["objects", "history", "size", "length"], ...] = ()
    """Also measure against these; default: one object and five."""
    frames: int = 60
    """Length of the video."""
    height: int = 480
    width: int = 854
    json: Path | None = None
    """Write the figures to this file; - prints them."""
    plot: Path | None = None
    """Draw the curves to this PNG or SVG (needs the extra `viz`)."""
    network: OmitArgPrefixes[Network] = field(default_factory=Network)

    def run(self) -> int:
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
                print(f"   {row['gflop']:.1f} GFLOP a frame, floor {row['floor_ms']:.1f} ms, taken {row['times_floor']}x")
        write_json(self.json, report)
        if self.plot:
            benchmark.plot(report, self.plot)
        return 0


def main(argv: list[str]) -> int:
    return parse(Benchmark, "benchmark", argv)
