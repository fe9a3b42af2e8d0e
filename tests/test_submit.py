"""Zip files for the servers: their content, and that every problem is reported before one is written."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks
from benchmarks import labels, numbered
from hodor.commands import submit as command
from hodor.data.layouts import Kind, Layout, open_layout
from hodor.evaluation.submit import check, pack
from hodor.masks import write_labels

PALETTE = "expected 8-bit palette PNG whose index is the id"
CASES: dict[Kind, tuple[Callable[[Path], Path], str]] = {
    "davis2017": (benchmarks.davis2017, "test-dev"),
    "youtube-vos": (benchmarks.youtube, "valid"),
    "mose": (benchmarks.mose, "valid"),
    "lvos": (benchmarks.lvos, "valid"),
}


def ready(kind: Kind, tmp_path: Path) -> tuple[Layout, Path]:
    """A benchmark, and masks that its server would accept: every id that has begun, on every required frame."""
    build, split = CASES[kind]
    layout = open_layout(build(tmp_path / "data"), kind, split)
    for video in layout.videos:
        ids: list[int] = []
        for t, frame in enumerate(video.frames):
            if frame in video.given:
                named = video.given[frame]
                ids += np.unique(video.labels(frame))[1:].tolist() if named is None else list(named)
            if frame in video.required:
                write_labels(tmp_path / "masks" / video.name / f"{frame}.png", labels(t, ids))
    (tmp_path / "masks" / "run.json").write_text("{}")
    return layout, tmp_path / "masks"


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("davis2017", [f"secret/{n}.png" for n in numbered(4)]),
        ("youtube-vos", [f"Annotations/0a/{n}.png" for n in numbered(4, step=5)]),
        ("mose", [f"cd34/{n}.png" for n in numbered(4)]),
        ("lvos", [f"Annotations/long/{n}.png" for n in numbered(8, 8, 5, 1)]),
    ],
)
def test_each_server_gets_its_own_tree_and_the_masks_byte_for_byte(kind: Kind, names: list[str], tmp_path: Path) -> None:
    layout, masks = ready(kind, tmp_path)
    packed = pack(layout, masks, tmp_path / "out" / "send.zip")
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.namelist() == names
        for name in names:
            assert archive.read(name) == (masks / name.removeprefix("Annotations/")).read_bytes()
    assert check(layout, packed.path) == []
    assert (packed.sequences, packed.masks, packed.size) == (1, len(names), packed.path.stat().st_size)


def test_the_same_masks_make_the_same_bytes(tmp_path: Path) -> None:
    layout, masks = ready("youtube-vos", tmp_path)
    first = pack(layout, masks, tmp_path / "a.zip")
    for path in (masks / "0a").iterdir():
        path.touch()
    copied = shutil.copytree(masks, tmp_path / "copy")
    assert pack(layout, copied, tmp_path / "b.zip").sha256 == first.sha256
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert {about.date_time for about in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_davis_does_without_the_first_and_last_frame_and_mose_does_not(tmp_path: Path) -> None:
    for kind, video, problems in (("davis2017", "secret", []), ("mose", "cd34", ["cd34: frames missing: 00000, 00003"])):
        layout, masks = ready(kind, tmp_path / kind)  # type: ignore[arg-type]
        (masks / video / "00000.png").unlink()
        (masks / video / "00003.png").unlink()
        assert check(layout, masks) == problems
        (masks / video / "00001.png").unlink()
        assert "00001" in check(layout, masks)[0]


def test_all_that_is_wrong_is_listed_at_once_and_no_zip_is_left(tmp_path: Path) -> None:
    layout, masks = ready("youtube-vos", tmp_path)
    place = masks / "0a"
    write_labels(place / "00005.png", labels(1, (2, 5)))  # 5 begins on 00010
    write_labels(place / "00010.png", labels(2, (2,), (24, 32)))
    Image.fromarray(labels(3, (2, 5))).convert("RGB").save(place / "00015.png")
    write_labels(place / "00003.png", labels(0, (2,)))
    write_labels(masks / "zz" / "00000.png", labels(0, (1,)))
    (masks / "notes.txt").write_text("x")
    problems = [
        "sequences that are not of valid: zz",
        "files beside the sequences: notes.txt",
        "0a: extra files: 00003.png",
        "0a: expected ids that were given before (2), got 5: 00005",
        "0a: expected 48x64 pixels, the size of the picture, got 24x32: 00010",
        f"0a: {PALETTE}, got 8-bit RGB: 00015",
    ]
    assert check(layout, masks) == problems
    with pytest.raises(ValueError, match="masks cannot be submitted: sequences that are not of valid: zz; files") as error:
        pack(layout, masks, tmp_path / "out" / "send.zip")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_sequence_is_reported(tmp_path: Path) -> None:
    layout, masks = ready("mose", tmp_path)
    shutil.rmtree(masks / "cd34")
    assert check(layout, masks) == ["sequences missing: cd34"]


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (
            lambda p: Image.fromarray(labels(1, (1, 2))).save(p),
            f"{PALETTE}, got 8-bit grey",
        ),
        (
            lambda p: paletted(labels(1, (1, 2)), 16).save(p),
            f"{PALETTE}, got 4-bit palette",
        ),
        (lambda p: Image.fromarray(labels(1, (1, 2))).save(p, "JPEG"), "expected PNG, got another format"),
        (lambda p: p.write_bytes(p.read_bytes()[:60]), "damaged"),
        (lambda p: paletted(labels(1, (1, 255)), 256).save(p), "expected ids that were given before (1, 2), got 255"),
    ],
)
def test_masks_of_another_form_are_reported(write: Callable[[Path], None], fault: str, tmp_path: Path) -> None:
    layout, masks = ready("davis2017", tmp_path)
    write(masks / "secret" / "00001.png")
    (problem,) = check(layout, masks)
    assert problem.startswith(f"secret: {fault}")
    assert problem.endswith(": 00001")


def paletted(mask: np.ndarray, colours: int) -> Image.Image:
    """As many bits a pixel as the palette needs."""
    picture = Image.fromarray(mask)
    picture.putpalette([v for i in range(colours) for v in (i, 0, 0)])
    return picture


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_zip_with_its_folder_packed_along_is_reported(tmp_path: Path) -> None:
    layout, masks = ready("davis2017", tmp_path)
    files = {f"masks/secret/{p.name}": p.read_bytes() for p in sorted((masks / "secret").iterdir())}
    problems = check(layout, zipped(tmp_path / "a.zip", files))
    assert "expected the sequences' folders in the root of the zip file, got all of them in masks" in problems
    assert "sequences missing: secret" in problems


def test_a_zip_without_its_top_folder_or_with_a_mac_s_leavings_is_reported(tmp_path: Path) -> None:
    layout, masks = ready("youtube-vos", tmp_path)
    files = {f"0a/{p.name}": p.read_bytes() for p in sorted((masks / "0a").iterdir())}
    problems = check(layout, zipped(tmp_path / "a.zip", files))
    assert problems[0].startswith("files outside Annotations/: 0a/00000.png")
    mac = {f"Annotations/{n}": data for n, data in files.items()} | {"__MACOSX/._0a": b"x", "Annotations/.DS_Store": b"x"}
    assert check(layout, zipped(tmp_path / "b.zip", mac)) == [
        "files outside Annotations/: __MACOSX/._0a",
        "files beside the sequences: .DS_Store",
    ]


def test_a_damaged_zip_is_reported(tmp_path: Path) -> None:
    layout, masks = ready("davis2017", tmp_path)
    packed = pack(layout, masks, tmp_path / "send.zip")
    data = bytearray(packed.path.read_bytes())
    data[120] ^= 255
    packed.path.write_bytes(data)
    assert check(layout, packed.path) == ["secret: empty or damaged: 00000"]
    packed.path.write_bytes(bytes(data[:200]))
    with pytest.raises(ValueError, match="expected a folder of masks or a zip file, got "):
        check(layout, packed.path)


def test_what_has_no_server_is_refused(tmp_path: Path) -> None:
    layout = open_layout(benchmarks.davis2016(tmp_path), "davis2016")
    with pytest.raises(ValueError, match=r"expected a benchmark with a server \(davis2017, .*, mose\), got 'davis2016'"):
        check(layout, tmp_path)


def test_the_command_packs_checks_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, masks = ready("davis2017", tmp_path)
    data, out = ["--data", str(tmp_path / "data")], tmp_path / "send.zip"
    assert command.main(["davis2017", str(masks), "-o", str(out), *data]) == 0
    assert "1 sequences, 4 masks" in capsys.readouterr().err
    assert command.main(["davis2017", "--check", str(out), *data]) == 0
    assert "can be submitted: 1 sequences of test-dev" in capsys.readouterr().err
    (masks / "secret" / "00001.png").unlink()
    (masks / "extra.txt").write_text("x")
    before = out.read_bytes()
    assert command.main(["davis2017", str(masks), "-o", str(out), *data]) == 2
    errors = capsys.readouterr().err
    assert "2 problems" in errors
    assert "secret: frames missing: 00001" in errors
    assert out.read_bytes() == before
    with pytest.raises(ValueError, match=r"no zip file to write: give one with -o FILE\.zip"):
        command.main(["davis2017", str(masks), *data])


def test_a_damaged_zip_file_is_refused(tmp_path: Path) -> None:
    layout, masks = ready("mose", tmp_path)
    packed = pack(layout, masks, tmp_path / "send.zip")
    data = bytearray(packed.path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at : at + 4] = b"XXXX"
    packed.path.write_bytes(data)
    with pytest.raises(ValueError, match=r"send\.zip cannot be opened"):
        check(layout, packed.path)
