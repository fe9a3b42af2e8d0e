"""Damage files and read them: every damaged file has to give a right result or one line, in bounded time and memory.

    python tests/campaigns/fuzz.py --inputs 10000 --seed 0
    python tests/campaigns/fuzz.py --only "mask: PNG" --first 17 --inputs 1 --keep FOLDER     repeats one input

Each reader's inputs are read in a child process, which limits its own memory. After a crash or a hang a new one continues
with the next input. Input n of a reader depends only on the seed and n. The exit code is 1 if there was a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaigns.damage import damage

Job = tuple[str, int, int]  # a reader, its first input, and the one after its last

MEMORY = 1.5e9  # bytes: largest resident memory while one input is read, Python and torch included
SECONDS = 10.0  # processor time of one input
HANG = 120.0  # seconds after which an input is called a hang
RESTART = 700e6  # bytes: a child that holds more after an input is replaced
LONGEST = 2000  # characters of a message


@dataclass
class Result:
    """What the inputs of one reader gave.

    Attributes:
        inputs: number of inputs.
        read: number that gave a result.
        refused: number that gave one line.
        findings: (number of the input, type, text) of all others.
        peak: largest resident memory, in bytes.
        slowest: largest processor time of an input, in seconds.
    """

    inputs: int = 0
    read: int = 0
    refused: int = 0
    findings: list[tuple[int, str, str]] = field(default_factory=list)
    peak: float = 0.0
    slowest: float = 0.0


def campaign(
    inputs: int, seed: int, only: Sequence[str] = (), first: int = 0, keep: Path | None = None, quiet: bool = True
) -> dict[str, Result]:
    """Read damaged files with all readers.

    Args:
        inputs: number of inputs for all readers together, shared as `readers.READERS` states.
        seed: seed of the damage.
        only: names of readers. Default: all.
        first: number of the first input of each reader.
        keep: folder for the damaged files of the findings. Default: they are not kept.
        quiet: do not print a line for each reader.

    Returns:
        The results by reader.
    """
    from campaigns.readers import READERS

    jobs = []
    for reader in READERS:
        if not only or reader.name in only:
            count = inputs if len(only) == 1 else max(1, -(-inputs * reader.share // 10_000))
            jobs.append((reader.name, first, first + count))
    found: dict[str, Result] = {}
    for name, result in _with_children(jobs, seed, keep):
        found[name] = result
        if not quiet:
            print(row(name, result), flush=True)
            for number, kind, text in result.findings:
                print(f"    {number}: {kind}: {text}", flush=True)
    return found


def row(name: str, result: Result) -> str:
    """Return one line of the table in docs/reliability.md."""
    cells = [name, result.inputs, result.read, result.refused, len(result.findings), round(result.peak / 1e6)]
    return f"| {' | '.join(map(str, cells))} | {result.slowest:.2f} |"


def _with_children(jobs: Sequence[Job], seed: int, keep: Path | None) -> Iterator[tuple[str, Result]]:
    """Yield the result of every reader. One child reads its inputs after each other; a new one continues after a crash."""
    left, result = [*jobs], Result()
    while left:
        command = [sys.executable, __file__, "--child", json.dumps([left, seed, str(keep or "")])]
        with tempfile.TemporaryFile() as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as child:
            assert child.stdout is not None
            begun: int | None = None
            for line in child.stdout:
                number, outcome, text, peak, seconds = json.loads(line)
                if outcome == "begun":
                    begun = number
                    continue
                name, _, stop = left[0]
                begun = None
                result.inputs += 1
                result.peak, result.slowest = max(result.peak, peak), max(result.slowest, seconds)
                if outcome in ("read", "refused"):
                    setattr(result, outcome, getattr(result, outcome) + 1)
                else:
                    result.findings.append((number, outcome, text))
                left[0] = (name, number + 1, stop)
                if number + 1 == stop:
                    yield name, result
                    left, result = left[1:], Result()
            child.wait()
            errors.seek(0)
            written = errors.read().decode(errors="replace")
        if child.returncode and begun is None:
            raise RuntimeError(f"{left[:1]}: the child failed outside an input ({child.returncode}): {written[-3000:]}")
        if begun is not None:
            name, _, stop = left[0]
            kind = "hang" if "Timeout" in written else f"crash ({child.returncode})"
            result.findings.append((begun, kind, " ".join(written.split())[:400]))
            result.inputs += 1
            left[0] = (name, begun + 1, stop)
            if begun + 1 == stop:
                yield name, result
                left, result = left[1:], Result()


# In the child ---------------------------------------------------------------------------------------------------------


def _child(jobs: Sequence[Job], seed: int, keep: str) -> None:
    import torch
    from campaigns.readers import READERS

    from hodor import cli

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    cli._keep_freed_memory = lambda: None  # memory of one input is not to be counted for the next

    def report(number: int, outcome: str, text: str = "", peak: float = 0, seconds: float = 0) -> None:
        out.write(json.dumps([number, outcome, text, peak, seconds]) + "\n")
        out.flush()

    limited = False
    for name, first, stop in jobs:
        with tempfile.TemporaryDirectory() as folder:
            reader, work = next(r for r in READERS if r.name == name), Path(folder).resolve()
            seeds = reader.write(work)
            for path in seeds:
                reader.read(path)  # the files are valid before they are damaged
            if not limited:
                _limit_memory()
            limited = True
            contents = {path: path.read_bytes() for path in seeds}
            kept = {p: p.read_bytes() for p in _files(work)} | contents
            for number in range(first, stop):
                _clean(work, kept)
                random, path = Random(f"{seed} {name} {number}"), seeds[number % len(seeds)]
                damaged = damage(contents[path], "bytes" if path.name == "old.pth" else reader.kind, random)
                path.write_bytes(damaged)
                report(number, "begun")
                outcome = _tried(reader, path, reader.command is not None and number % 10 == 9)
                if outcome[0] == "refused" and (left := [str(p.relative_to(work)) for p in _files(work) if p not in kept]):
                    outcome = ("half file", ", ".join(left), *outcome[2:])
                if keep and outcome[0] not in ("read", "refused"):
                    Path(keep).mkdir(parents=True, exist_ok=True)
                    (Path(keep) / f"{name.replace(':', '').replace(' ', '-')}-{number}{path.suffix}").write_bytes(damaged)
                report(number, *outcome)
                if _memory("VmRSS") > RESTART:
                    gc.collect()
                    if _memory("VmRSS") > RESTART:
                        return


def _tried(reader: Any, path: Path, by_command: bool) -> tuple[str, str, float, float]:
    """Read one file, watched; return outcome, text, peak memory and processor time."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins anew
    began = time.process_time()
    outcome, text = _commanded(reader, path) if by_command else _read(reader, path)
    seconds, peak = time.process_time() - began, _memory("VmHWM")
    faulthandler.cancel_dump_traceback_later()
    if seconds > SECONDS:
        outcome, text = "slow", f"{seconds:.1f} s"
    if peak > MEMORY:
        outcome, text = "memory", f"{peak / 1e9:.2f} GB"
    return outcome, text, peak, seconds


def _read(reader: Any, path: Path) -> tuple[str, str]:
    """Read a file by the function; return the outcome and a text."""
    from hodor.commands.console import one_line

    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            reader.read(path)
            outcome, text = "read", ""
        except (ValueError, OSError) as error:
            message = one_line(str(error))
            outcome, text = "refused", ""
            if "\n" in str(error).strip() and "\n- " not in str(error):
                outcome, text = "several lines", message[:300] + _place(error)
            elif len(message) > LONGEST:
                outcome, text = "long message", message[:300] + _place(error)
            elif path.stem not in message and not any(str(p) in message for p in path.parents if len(p.parts) > 2):
                outcome, text = "message without the file", message[:300] + _place(error)
        except MemoryError as error:
            outcome, text = "memory", f"MemoryError {error}" + _place(error)
        except Exception as error:
            outcome, text = "traceback", f"{type(error).__name__}: {error}"[:300] + _place(error)
    hidden = DeprecationWarning | ResourceWarning | FutureWarning  # the command hides these, and those of Pillow
    shown = [w for w in warned if not issubclass(w.category, hidden) and "/PIL/" not in w.filename]
    if outcome in ("read", "refused") and shown:
        return "warning", f"{shown[0].message} ({Path(shown[0].filename).name}:{shown[0].lineno})"[:300]
    return outcome, text


def _commanded(reader: Any, path: Path) -> tuple[str, str]:
    """Read a file by the command, in this process; return the outcome and a text."""
    from hodor import cli

    code: Any = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            cli.main(reader.command(path))
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            return "traceback", f"{type(error).__name__}: {error}"[:300] + _place(error)
    written = errors.getvalue()
    if "Traceback" in written or "Warning:" in written:
        return "traceback", written[-300:]
    if code == 0:
        return "read", ""
    if code == 2:
        return "refused", ""
    return f"exit code {code}", written[-300:]


def _place(error: BaseException) -> str:
    """Return the last places of this package in a traceback."""
    steps = [s for s in traceback.extract_tb(error.__traceback__) if "/hodor/" in s.filename or "readers.py" in s.filename]
    return " @ " + " < ".join(f"{Path(s.filename).name}:{s.lineno}" for s in reversed(steps[-3:]))


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file())


def _clean(folder: Path, kept: dict[Path, bytes]) -> None:
    """Remove what a reading has written, and restore the files."""
    for path in [*_files(folder)]:
        if path not in kept:
            path.unlink()
    for path, content in kept.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for left in folder.iterdir():
        if left.is_dir() and not any(left.iterdir()):
            shutil.rmtree(left)


def _limit_memory() -> None:
    """Let larger allocations fail: a hundredth of a second of a runaway reader is enough to fill the machine."""
    if sys.platform == "linux":
        limit = int(_memory("VmSize") + MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _memory(key: str) -> float:
    """Return a number of /proc/self/status in bytes; 0 where there is no such file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return float(line.split()[1]) * 1024
    return 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of readers; of a single one, all inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, help="folder for the damaged files of the findings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        _child(*json.loads(chosen.child))
        return 0
    began = time.monotonic()
    print(
        "| reader | inputs | read | refused in one line | findings | peak memory, MB | slowest, s |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    found = campaign(chosen.inputs, chosen.seed, chosen.only, chosen.first, chosen.keep, quiet=False)
    total = Result(
        sum(r.inputs for r in found.values()),
        sum(r.read for r in found.values()),
        sum(r.refused for r in found.values()),
        [f for r in found.values() for f in r.findings],
        max(r.peak for r in found.values()),
        max(r.slowest for r in found.values()),
    )
    print(row("all", total))
    print(f"{time.monotonic() - began:.0f} s; findings: {dict(Counter(kind for _, kind, _ in total.findings)) or 'none'}")
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
