"""`hodor submit`: pack masks as the zip file that a benchmark's server accepts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from hodor.commands.console import info
from hodor.commands.options import parse
from hodor.data.benchmarks import Kind


@dataclass(frozen=True)
class Submit:
    """Check masks against the benchmark's folder and pack them as its server expects them.

    All problems are listed at once; then no file is written. Exit codes: 0 done; 2 there are problems.
    """

    kind: Positional[Kind]
    """The benchmark: davis2017, youtube-vos, mose or lvos."""
    masks: Positional[Path | None] = None
    """Folder of the masks, <video>/<frame>.png, as `hodor segment --dataset` writes it."""
    data: Path = Path(".")
    """The benchmark's folder, which defines the sequences, frames, sizes and ids."""
    out: Annotated[Path | None, arg(aliases=["-o"])] = None
    """The zip file to write."""
    split: str | None = None
    """Default: test-dev of DAVIS, valid of the others."""
    check: Path | None = None
    """Check this zip file, and write nothing."""

    def run(self) -> int:
        from hodor.data.layouts import open_layout
        from hodor.evaluation import submit

        if (self.check is None) == (self.masks is None):
            raise ValueError("expected either a folder of masks to pack, or --check FILE.zip")
        if self.check is None and self.out is None:
            raise ValueError("no zip file to write: give one with -o FILE.zip")
        layout = open_layout(self.data, self.kind, self.split or submit.submission_of(self.kind).split)
        for note in layout.notes:
            info(note)
        source = self.check or self.masks
        assert source is not None
        if problems := submit.check(layout, source):
            info(f"hodor: {source} cannot be submitted, {len(problems)} problems:")
            for problem in problems:
                info(f"  {problem}")
            return 2
        if self.out is None or self.check is not None:
            info(f"{source} can be submitted: {len(layout.videos)} sequences of {layout.split}")
            return 0
        packed = submit.pack(layout, source, self.out)
        info(f"{packed.sequences} sequences, {packed.masks} masks, {packed.size:,} bytes -> {packed.path}")
        info(f"sha256 {packed.sha256}")
        return 0


def main(argv: list[str]) -> int:
    """Run `hodor submit`; return the exit code."""
    return parse(Submit, "submit", argv)
