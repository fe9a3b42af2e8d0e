"""The threat model of docs/engineers.md, line by line: what a file that an attacker made can do, and what it cannot."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import make
from PIL import Image

from benchmarks import mose
from hodor.data.layouts import open_layout
from hodor.evaluation.submit import check
from hodor.frames import open_source
from hodor.mask_files import doctor, png
from hodor.models import weights
from hodor.models.released import read_pth
from hodor.outputs.writers import read_soft
from hodor.scoring.stores.open import open_store
from hodor.tracking import Tracker
from hodor.training import checkpoints

ROOT = Path(__file__).parents[1]
HUGE = 100_000  # pixels to a side
LIMIT = 1_500_000_000  # bytes: the promise of the page


class Runs:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def safetensors(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def big_png(path: Path, side: int = HUGE, depth: int = 8, colour: int = 0) -> Path:
    """A small PNG whose header and whose compressed pixels are of this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(min(side * (side + 1), 1 << 22)), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def refusal(read: Callable[[], Any]) -> str:
    """The message of a refusal, which is one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the tests check the text
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


# Code -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x}, lambda x: {"a": torch.ones(2), "b": x}])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pth_file_cannot_run_code(wrap: Callable[[Any], Any], zipped: bool, tmp_path: Path) -> None:
    torch.save(wrap(Runs(tmp_path / "ran")), tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    assert "refused, since loading it would run code" in refusal(lambda: read_pth(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"step": 1, "recipe": {}, "network": {}, "more": Runs(tmp_path / "ran")}, tmp_path / "last.pt")
    assert "cannot be read as a checkpoint" in refusal(lambda: checkpoints.read(tmp_path / "last.pt"))
    assert not (tmp_path / "ran").exists()


def test_an_npz_file_cannot_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", planes=np.array([Runs(tmp_path / "ran")], object), objects=np.array([1]))
    assert "does not hold soft masks" in refusal(lambda: read_soft(tmp_path / "a.npz"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("small_models")
@pytest.mark.parametrize("model", ["os.system", "training.Recurrent", "../calm", ["calm"], None, {"calm": 1}])
def test_weights_can_only_name_models_that_are_registered(model: Any, tmp_path: Path) -> None:
    about = {"model": model, "settings": {}, "size": 48}
    file = safetensors(tmp_path / "w.safetensors", {"__metadata__": {"hodor": json.dumps(about)}})
    assert str(file) in refusal(lambda: weights.load(file))


def test_a_picture_cannot_start_another_program(tmp_path: Path) -> None:
    """EPS is drawn by Ghostscript: a file of that format is refused under any name, before it is decoded."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    program.chmod(0o755)
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
    assert Image.open(tmp_path / "x.png").format == "EPS"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        assert "EPS" in refusal(lambda: doctor.read(tmp_path / "x.png"))
        assert "EPS" in refusal(lambda: open_source(tmp_path / "x.png"))
    assert not (tmp_path / "ran").exists()


def test_the_package_evaluates_no_text_and_unpickles_nothing() -> None:
    own_processes = ROOT / "src" / "hodor" / "scoring" / "workers.py"  # reads what its own worker processes send
    for path in {*(ROOT / "src").rglob("*.py")} - {own_processes}:
        found = re.findall(
            r"(?<![\w.])(?:eval|exec)\(|pickle\.loads?\(|weights_only=False|allow_pickle=True|shell=True", path.read_text()
        )
        assert not found, f"{path}: {found}"


# Files and addresses --------------------------------------------------------------------------------------------------


def test_names_in_a_zip_file_cannot_leave_it(tmp_path: Path) -> None:
    """Nothing is unpacked to the disk: a name with ../ or a root is a name like others."""
    ids = np.zeros((8, 8), np.uint8)
    ids[2:5, 2:5] = 1
    out = io.BytesIO()
    Image.fromarray(ids).save(out, "PNG")
    place = tmp_path / "in" / "masks.zip"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as archive:
        for name in ("../../out/00000.png", "/tmp/out/00001.png", "bear/00000.png"):
            archive.writestr(name, out.getvalue())
    before = sorted(tmp_path.rglob("*"))
    try:
        store = open_store(place)
        for sequence in store.names():
            for frame in store.frames(sequence):
                store.read(sequence, frame)
    except ValueError:
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ending", ["mp4", "m3u8"])
def test_a_playlist_on_disk_cannot_open_an_address_or_another_protocol(ending: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)
        port = server.getsockname()[1]
        (tmp_path / f"list.{ending}").write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n"
        )
        refusal(lambda: open_source(tmp_path / f"list.{ending}"))
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_command_opens_a_connection_by_itself(tmp_path: Path) -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from hodor.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    film = make(tmp_path / "a.mp4", count=3)
    ids = np.zeros((48, 64), np.uint8)
    ids[4:20, 4:20] = 1
    Image.fromarray(ids).save(tmp_path / "m.png")
    command = ["segment", str(film), "--mask", str(tmp_path / "m.png"), "-o", str(tmp_path / "out"), "--size", "48"]
    ran = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr


# Memory and time ------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited() -> Any:
    """Let allocations of more than the promised memory fail."""
    if sys.platform != "linux":
        pytest.skip("limits of the address space are Linux's")
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


PIXELS = "expected 1 to 67108864 pixels"


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (8, 2), (16, 0), (1, 0), (8, 6), (8, 3)])
@pytest.mark.parametrize("side", [12_000, HUGE, 2**31 - 1])
def test_a_png_of_a_huge_size_is_refused(side: int, depth: int, colour: int, tmp_path: Path) -> None:
    file = big_png(tmp_path / "a.png", side, depth, colour)
    assert "a.png" in refusal(lambda: doctor.read(file))
    assert "a.png" in refusal(lambda: png.read_labels(file))
    assert "a.png" in refusal(lambda: open_source(file))


@pytest.mark.usefixtures("limited")
def test_a_png_chunk_of_a_huge_length_is_refused(tmp_path: Path) -> None:
    data = big_png(tmp_path / "a.png", 40).read_bytes()
    at = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :])
    assert "a.png" in refusal(lambda: doctor.read(tmp_path / "a.png"))
    assert "a.png" in refusal(lambda: list(open_source(tmp_path / "a.png").frames()))


def objects(size: Any, **more: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, "height": size[0], "width": size[1]}], "annotations": [{"id": 1, "image_id": 1, **more}]}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "content",
    [
        objects((HUGE, HUGE), segmentation=[[0, 0, 9, 0, 9, 9]]),
        objects((HUGE, HUGE), segmentation={"size": [HUGE, HUGE], "counts": [HUGE * HUGE]}),
        objects((None, None), segmentation={"size": [10**15, 10**15], "counts": [10**30]}),
        objects((-5, -5), segmentation={"size": [-5, -5], "counts": [25]}),
        {"shapes": [{"label": "a", "points": [[0, 0], [9, 9], [0, 9]]}], "imageHeight": HUGE, "imageWidth": HUGE},
        {"shapes": [{"label": "a", "points": [[0, 0], [9, 9]], "shape_type": "circle"}], "imageHeight": 1, "imageWidth": 2**40},
    ],
)
def test_json_of_a_huge_size_is_refused(content: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert PIXELS in refusal(lambda: doctor.read(tmp_path / "a.json"))


@pytest.mark.usefixtures("limited")
def test_run_lengths_cannot_grow_without_end(tmp_path: Path) -> None:
    for counts in ("o" * 1_000_000, [2**70] * 10, [1] * 1_000_000):
        (tmp_path / "a.json").write_text(json.dumps(objects((9, 9), segmentation={"size": [9, 9], "counts": counts})))
        assert "holds" in refusal(lambda: doctor.read(tmp_path / "a.json"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 100_000])
def test_json_that_is_nested_deeply_or_long_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    for read in (doctor.read, open_store):
        assert "a.json" in refusal(lambda read=read: read(tmp_path / "a.json"))


@pytest.mark.usefixtures("limited")
def test_compressed_content_cannot_fill_the_memory(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("bear/0.png", "w") as member:
        for _ in range(2000):
            member.write(zeros)
    for name in ("a.npz", "a.pth", "last.pt"):
        (tmp_path / name).write_bytes((tmp_path / "a.zip").read_bytes())
    store = open_store(tmp_path / "a.zip")
    assert "is larger than 64 MiB" in refusal(lambda: store.read("bear", "0"))
    assert "bytes" in refusal(lambda: read_soft(tmp_path / "a.npz"))
    assert "compressed" in refusal(lambda: read_pth(tmp_path / "a.pth"))
    assert "compressed" in refusal(lambda: checkpoints.read(tmp_path / "last.pt"))
    assert check(open_layout(mose(tmp_path / "mose"), "mose", "valid"), tmp_path / "a.zip")


@pytest.mark.usefixtures("limited", "small_models")
@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}},
        b"[" * 100_000,
        {"__metadata__": {"hodor": "[" * 100_000}},
        {"__metadata__": {"hodor": json.dumps({"model": "calm", "settings": {"width": 2**20, "heads": 4}, "size": 48})}},
        {"__metadata__": {"hodor": json.dumps({"model": "calm", "settings": {"encoder_layers": 2**63}, "size": 48})}},
        {"__metadata__": {"hodor": json.dumps({"model": "calm", "settings": {"heads": 5}, "size": 48})}},
        {"__metadata__": {"tracker": "[" * 100_000}},
    ],
)
def test_a_safetensors_header_cannot_fill_the_memory(header: Any, tmp_path: Path) -> None:
    file = safetensors(tmp_path / "a.safetensors", header)
    assert "a.safetensors" in refusal(lambda: weights.load(file))
    tracker = Tracker(weights.build("calm").eval())
    assert "a.safetensors" in refusal(lambda: tracker.restore(file))
    file.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    assert "a.safetensors" in refusal(lambda: weights.load(file))


@pytest.mark.usefixtures("limited")
def test_a_video_of_a_huge_size_is_refused(tmp_path: Path) -> None:
    """A raw stream of MJPEG whose header states 65,500 x 65,500 pixels."""
    data = bytearray(make(tmp_path / "a.avi", count=3, codec="mjpeg", pixels="yuvj420p").read_bytes())
    for found in re.finditer(rb"\xff\xc0\x00\x11\x08", bytes(data)):
        data[found.end() : found.end() + 4] = struct.pack(">HH", 65_500, 65_500)
    (tmp_path / "a.avi").write_bytes(data)
    assert "no frame of" in refusal(lambda: open_source(tmp_path / "a.avi"))


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_models")
def test_a_refused_file_leaves_no_other_file(tmp_path: Path) -> None:
    from hodor.cli import main

    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04" + b"x" * 50)
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(tmp_path / "bad.pth"), str(tmp_path / "out.safetensors")])
    assert stop.value.code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def test_names_of_frames_cannot_leave_the_folder_of_the_results(tmp_path: Path) -> None:
    """Outputs are named by the stems of picture files and by numbers, which hold no separator."""
    for name in ("...png", "a..png", "-x.png", "..\\a.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name, "PNG")
    with open_source(str(tmp_path / "*.png")) as source:
        assert all(Path(frame.name).name == frame.name for frame in source.frames())


def test_a_tag_of_a_video_can_be_in_any_encoding(tmp_path: Path) -> None:
    film = make(tmp_path / "a.mkv", count=3)
    film.write_bytes(film.read_bytes().replace(b"Lavf", b"L\xe9\xff\x80"))
    assert b"L\xe9\xff\x80" in film.read_bytes()
    with open_source(film) as source:
        assert sum(1 for _ in source) == 3
