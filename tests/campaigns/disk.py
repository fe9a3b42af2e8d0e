"""Take away from running commands what they need: space, permissions, folders, their source, their streams; send them signals.

    python tests/campaigns/disk.py            all cases
    python tests/campaigns/disk.py segment    those of one command
    python tests/campaigns/disk.py "segment: full disk" ...

In every case the command must end with one line and the right exit code; files that it has written are whole; and after the
cause is mended, the resumed run ends with the files of an unbroken one. Cases that need rights which this process does not have
(a mount, another user) are skipped with a word. Runs are forked as in kill.py. Exit code 1 if a case fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kill
import torch
import training
from kill import Campaign, compare, ended, files_in, forked
from PIL import Image

NOBODY = 65534
CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}


class SkippedError(Exception):
    """The case needs something that this machine does not allow."""


@dataclass
class Place:
    """Where a case runs.

    Attributes:
        folder: folder of the case, with `given` (what the command reads) and `disk` (where it writes).
        campaign: the command.
        whole: result of the unbroken run.
        log: what the command printed.
    """

    folder: Path
    campaign: Campaign
    whole: Path
    failures: list[str] = field(default_factory=list)

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def out(self) -> Path:
        return self.disk / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def begin(self, before: Callable[[], None] = lambda: None, resume: bool = False) -> int:
        """Fork the command; `before` is called in the new process."""

        def work() -> int:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            return self.campaign.start(self.out, resume)

        return forked(work, self.log)

    def expect(self, code: int, process: int, *parts: str, lines: int = 1) -> None:
        """Check the exit code, the one line and the files of a process that ends now."""
        found = ended(process)
        if found != code:
            self.failures.append(f"expected exit code {code}, got {found}: {self.printed()[-300:]}")
        text = self.printed()
        said = [line for line in text.splitlines() if line.startswith("hodor: ")]
        if "Traceback" in text or len(said) != lines:
            self.failures.append(f"expected {lines} line, got: {text[-600:]}")
        self.failures += [f"expected {part!r}, got: {text[-300:]}" for part in parts if part not in text]
        self.failures += [f"{path} is not whole" for path in broken(self.out)]

    def expect_resumed(self, resume: bool = True) -> None:
        """Run the command again; its result must be that of the unbroken run."""
        code = ended(self.begin(resume=resume))
        self.failures += compare(self.campaign, self.out, self.whole, files_in(self.whole), code, self.log)

    def printed(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def wait(self, process: int, pattern: str, count: int) -> None:
        """Wait until the command has written `count` files that match the pattern."""
        end = time.monotonic() + 60
        while len(list(self.out.glob(pattern))) < count:
            if time.monotonic() > end or os.waitpid(process, os.WNOHANG)[0]:
                raise AssertionError(f"the run ended, or wrote too little for a minute: {self.printed()}")
            time.sleep(0.001)


def broken(out: Path) -> list[Path]:
    """Return the files that are not whole: parts, pictures and JSON that cannot be read."""
    found = list(out.rglob("*.part"))
    for path in out.rglob("*.png"):
        try:
            with Image.open(path) as picture:
                picture.load()
        except OSError:
            found.append(path)
    for path in out.rglob("*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            found.append(path)
    return found


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A small file system in memory; the function mounts it again with other options."""
    place.mkdir(exist_ok=True)

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(words, capture_output=True, check=False).returncode:
            raise SkippedError("mounting needs root")

    mount(f"size={size}")
    try:
        yield lambda options: mount(f"remount,size={size},{options}")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def as_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def needs_root() -> None:
    if os.geteuid():
        raise SkippedError("another user needs root")


WORK: dict[str, tuple[str, int]] = {
    "segment": ("masks/[0-9]*.png", 15),
    "evaluate": ("b/[0-9]*.png", 3),
    "train": ("last.pt", 1),
}
"""The files that show that a command is in the middle of its work, and their number."""
FULL: dict[str, str] = {"segment": "150k", "evaluate": "32k", "train": "7m"}
"""Sizes of a disk on which the command finds space for a part of its files."""


def full_disk(place: Place, name: str) -> None:
    with mounted(place.disk, FULL[name]) as again:
        process = place.begin()
        place.expect(2, process, "No space left on device")
        if not files_in(place.out):
            place.failures.append("nothing was written before the disk was full")
        again("size=64m")
        place.expect_resumed(resume=name == "segment" or (place.out / "run.json").is_file())


def file_size_limit(place: Place, name: str) -> None:
    """The largest file of the unbroken run does not fit: EFBIG, as over a quota (EDQUOT)."""
    largest = max((place.whole / path).stat().st_size for path in files_in(place.whole))
    limit = largest * 3 // 4

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    place.expect(2, place.begin(limited), "File too large")
    place.expect_resumed()


def read_only_disk(place: Place, name: str) -> None:
    with mounted(place.disk, "64m") as again:
        again("ro")
        place.expect(2, place.begin(), "Read-only file system", str(place.out))
        again("rw")
        place.expect_resumed(resume=False)


def no_permission_to_write(place: Place, name: str) -> None:
    needs_root()
    place.expect(2, place.begin(as_nobody), "Permission denied", str(place.out))
    place.expect_resumed(resume=False)


def no_permission_to_read(place: Place, name: str) -> None:
    needs_root()
    place.disk.chmod(0o777)
    for path in place.campaign.given:
        mode = path.stat().st_mode
        path.chmod(0)
        place.expect(2, place.begin(as_nobody), path.name)
        if files_in(place.out):
            place.failures.append(f"files were written without {path.name}: {files_in(place.out)}")
        path.chmod(mode)


def removed_folder(place: Place, name: str) -> None:
    process = place.begin()
    place.wait(process, *WORK[name])
    gone = place.out / "masks" if name == "segment" else place.out
    gone.rename(place.folder / "gone")
    place.expect(2, process, str(gone))
    if gone.exists() and files_in(gone):
        place.failures.append(f"files were written to a new {gone.name}: {files_in(gone)}")
    shutil.rmtree(gone, ignore_errors=True)
    (place.folder / "gone").rename(gone)
    place.expect_resumed()


def vanished_source(place: Place, name: str) -> None:
    """The source is removed. `segment` is between its passes then, and opens the video again."""
    process = place.begin()
    place.wait(process, *WORK[name])
    source = place.campaign.given[0]
    source.rename(place.folder / "gone")
    place.expect(2, process, source.name)
    (place.folder / "gone").rename(source)
    place.expect_resumed()


def stopped_by(number: signal.Signals) -> Callable[[Place, str], None]:
    def case(place: Place, name: str) -> None:
        process = place.begin()
        place.wait(process, *WORK[name])
        os.kill(process, number)
        place.expect(CODES[number.name], process, "stopped")
        place.expect_resumed()

    return case


def ignored_hangup(place: Place, name: str) -> None:
    """As under nohup."""
    process = place.begin(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None)
    place.wait(process, *WORK[name])
    os.kill(process, signal.SIGHUP)
    code = ended(process)
    place.failures += compare(place.campaign, place.out, place.whole, files_in(place.whole), code, place.log)


def without(*numbers: int) -> Callable[[Place, str], None]:
    """Without these standard streams (1: output, 2: error) the run is complete."""

    def case(place: Place, name: str) -> None:
        def close() -> None:
            for number in numbers:
                os.close(number)
                setattr(sys, {1: "stdout", 2: "stderr"}[number], None)

        code = ended(place.begin(close))
        allowed = 2 if name != "segment" and 1 in numbers else 0  # the others print a result
        if code != allowed:
            place.failures.append(f"expected exit code {allowed}, got {code}: {place.printed()}")
        place.failures += compare(place.campaign, place.out, place.whole, files_in(place.whole), 0, place.log)
        if "Traceback" in place.printed():
            place.failures.append(place.printed())

    return case


def unwritable(device: str, *numbers: int) -> Callable[[Place, str], None]:
    """Streams to a full disk, or to a reader that has ended: messages are lost, no file is."""

    def case(place: Place, name: str) -> None:
        def replace() -> None:
            if device == "pipe":
                reader, writer = os.pipe()
                os.close(reader)
            else:
                writer = os.open(device, os.O_WRONLY)
            for number in numbers:
                os.dup2(writer, number)

        code = ended(place.begin(replace))
        allowed = {0} if 1 not in numbers or name == "segment" else {1, 2, 141}  # 1: rich, whose reader has ended
        if code not in allowed:
            place.failures.append(f"expected exit code {allowed}, got {code}: {place.printed()}")
        place.failures += compare(place.campaign, place.out, place.whole, files_in(place.whole), 0, place.log)

    return case


CASES: dict[str, Callable[[Place, str], None]] = {
    "full disk": full_disk,
    "file size limit": file_size_limit,
    "read-only disk": read_only_disk,
    "no permission to write": no_permission_to_write,
    "no permission to read": no_permission_to_read,
    "removed folder": removed_folder,
    "vanished source": vanished_source,
    "SIGTERM": stopped_by(signal.SIGTERM),
    "SIGHUP": stopped_by(signal.SIGHUP),
    "SIGINT": stopped_by(signal.SIGINT),
    "SIGHUP under nohup": ignored_hangup,
    "closed standard output": without(1),
    "closed standard error": without(2),
    "both closed": without(1, 2),
    "standard error without a reader": unwritable("pipe", 2),
    "standard output without a reader": unwritable("pipe", 1),
    "full standard error": unwritable("/dev/full", 2),
    "full standard output": unwritable("/dev/full", 1),
}


def run(names: list[str]) -> int:
    """Run the cases that these names choose; print a line for each; return the number of failures."""
    failed = 0
    for command, (make, length) in kill.MADE.items():
        chosen = [c for c in CASES if not names or command in names or f"{command}: {c}" in names]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            top = Path(folder)
            top.chmod(0o755)
            (top / "given").mkdir()
            campaign = make(top / "given", length)
            log = top / "log.txt"
            with kill.silent():
                campaign.start(top / "first", False)
            code = ended(forked(lambda: campaign.start(top / "whole", False), log))  # noqa: B023
            assert code == 0, log.read_text()
            for number, case in enumerate(chosen):
                place = Place(top / f"case{number}", campaign, top / "whole")
                place.disk.mkdir(parents=True)
                try:
                    CASES[case](place, command)
                    result = "; ".join(place.failures) or "ok"
                except SkippedError as why:
                    result = f"skipped: {why}"
                except AssertionError as error:
                    result = str(error)
                failed += not result.startswith(("ok", "skipped"))
                print(f"{command}: {case}: {result}", flush=True)
    return failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.add_models()
    sys.exit(1 if run(sys.argv[1:]) else 0)
