"""Output files: read back by pycocotools, Pillow and FFmpeg, and after a kill or on a full disk."""

import csv
import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from hodor.frames import open_source, overlay
from hodor.masks import read_labels
from hodor.outputs.writers import (
    CocoWriter,
    CutoutWriter,
    MaskWriter,
    OverlayWriter,
    Result,
    SheetWriter,
    SoftWriter,
    TableWriter,
    Writer,
    YtvisWriter,
    completed,
    encode_rle,
    read_soft,
)

SIZE = (48, 64)


def result(i: int, **changes: Any) -> Result:
    """Frame i: object 3 moves right, object 300 is there on even frames only, object 7 never."""
    labels = np.zeros(SIZE, np.uint16)
    labels[10:20, i : i + 12] = 3
    if i % 2 == 0:
        labels[30:40, 30:50] = 300
    image = np.random.default_rng(i).integers(0, 256, (*SIZE, 3), np.uint8)
    soft = np.stack([(labels == k) * np.float32(0.8) for k in (3, 7, 300)])
    confidence = {3: 0.9 + i / 1000, 300: 0.5}
    known = {"index": i, "name": f"{i:05d}", "time": i / 25, "image": image, "labels": labels, "objects": (3, 7, 300)}
    known |= {"soft": soft, "confidence": confidence, "lost": {7} if i % 2 == 0 else {7, 300}}
    return Result(**(known | changes))


def write(writer: Writer, *indices: int) -> None:
    with writer:
        for i in indices:
            writer.write(result(i))


RECORDS: dict[str, Callable[..., Writer]] = {
    "coco.json": CocoWriter,
    "ytvis.json": YtvisWriter,
    "table.csv": TableWriter,
    "table.json": TableWriter,
}
ALL: dict[str, Callable[[Path], Writer]] = {
    **RECORDS,
    "masks": MaskWriter,
    "soft": SoftWriter,
    "overlay.mp4": lambda p: OverlayWriter(p, 25),
    "sheet.png": SheetWriter,
    "cut-outs": lambda p: CutoutWriter(p, 3),
    "cut-out.mov": lambda p: CutoutWriter(p, 3, "prores", 25),
}


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_is_what_pycocotools_writes(mask: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    wanted = coco.encode(np.asfortranarray(mask, np.uint8))
    assert encode_rle(mask) == {"size": wanted["size"], "counts": wanted["counts"].decode()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=12))
def test_rle_of_long_runs_is_what_pycocotools_writes(runs: list[int]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    flat = np.concatenate([np.full(n, k % 2, np.uint8) for k, n in enumerate(runs)])
    mask = np.pad(flat, (0, -flat.size % 100 + 100)).reshape(100, -1, order="F")
    assert encode_rle(mask)["counts"] == coco.encode(np.asfortranarray(mask))["counts"].decode()


def test_masks_are_read_back_and_completed_names_the_complete_ones(tmp_path: Path) -> None:
    write(MaskWriter(tmp_path), 0, 1, 2)
    np.testing.assert_array_equal(read_labels(tmp_path / "00001.png"), result(1).labels)
    assert completed(tmp_path) == {"00000", "00001", "00002"}
    whole = (tmp_path / "00001.png").read_bytes()
    (tmp_path / "00001.png").write_bytes(whole[:-20])
    (tmp_path / "00002.png").write_bytes(b"")
    (tmp_path / ".00003.png").write_bytes(whole)
    (tmp_path / "00004.png.part").write_bytes(whole)
    assert completed(tmp_path) == {"00000"}
    assert completed(tmp_path / "nowhere") == set()


def test_soft_masks_are_read_back_within_half_a_step(tmp_path: Path) -> None:
    soft = np.random.default_rng(0).random((3, *SIZE)).astype(np.float16)
    with SoftWriter(tmp_path) as writer:
        writer.write(result(5, soft=soft))
        with pytest.raises(ValueError, match="expected soft masks for frame 00006, got none"):
            writer.write(result(6, soft=None))
    planes, objects = read_soft(tmp_path / "00005.npz")
    assert objects == (3, 7, 300)
    assert np.abs(planes - soft).max() <= 1 / 510 + 1e-6
    assert os.listdir(tmp_path) == ["00005.npz"]


def test_overlay_has_the_frames_objects_and_times(tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    times = [0.0, 0.1, 0.5]
    flat = np.full((*SIZE, 3), 90, np.uint8)
    with OverlayWriter(path, Fraction(25)) as writer:
        for i, t in enumerate(times):
            writer.write(result(i, image=flat, time=t))
    frames = list(open_source(path))
    assert [f.time for f in frames] == pytest.approx(times)
    wanted = overlay(flat, result(2).labels).astype(int)
    assert np.abs(frames[2].image - wanted)[33:37, 35:45].max() <= 6
    assert np.abs(frames[2].image - wanted)[42:].max() <= 6


def test_a_sheet_of_a_long_run_stays_small(tmp_path: Path) -> None:
    write(SheetWriter(tmp_path / "sheet.png", count=4, columns=2, width=64), *range(30))
    assert Image.open(tmp_path / "sheet.png").size == (64, 48)


def test_the_alpha_of_cut_outs_is_the_soft_mask_or_else_the_labels(tmp_path: Path) -> None:
    with CutoutWriter(tmp_path, 3) as writer:
        writer.write(result(1))
        writer.write(result(2, soft=None))
    soft, hard = (np.asarray(Image.open(tmp_path / f"0000{i}.png")) for i in (1, 2))
    np.testing.assert_array_equal(soft[..., 3], (result(1).labels == 3) * 204)
    np.testing.assert_array_equal(hard[..., 3], (result(2).labels == 3) * 255)
    np.testing.assert_array_equal(hard[..., :3], result(2).image)
    write(CutoutWriter(tmp_path / "a.mov", 3, "prores", 25), 1, 2)
    with av.open(str(tmp_path / "a.mov")) as container:
        first, _ = (f.to_ndarray(format="rgba").astype(int) for f in container.decode(video=0))
    assert np.abs(first[..., 3] - soft[..., 3]).max() <= 1
    with pytest.raises(ValueError, match=r"expected a cut-out kind \(rgba, prores, vp9, ffv1\), got 'exr'"):
        CutoutWriter(tmp_path, 3, "exr")  # type: ignore[arg-type]


def test_coco_is_read_by_pycocotools_with_the_same_masks(tmp_path: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "coco.json"
    write(CocoWriter(path), 3, 2, 0, 1)
    coco = coco_module.COCO(str(path))
    assert [i["file_name"] for i in coco.dataset["images"]] == [f"0000{i}.jpg" for i in range(4)]
    for i in range(4):
        found = {a["track_id"]: a for a in coco.loadAnns(coco.getAnnIds(imgIds=i))}
        assert set(found) == ({3, 300} if i % 2 == 0 else {3})
        for number, annotation in found.items():
            np.testing.assert_array_equal(coco.annToMask(annotation), result(i).labels == number)
            assert annotation["area"] == (result(i).labels == number).sum()
        assert found[3]["bbox"] == [i, 10, 12, 10]
        assert found[3]["score"] == pytest.approx(0.9 + i / 1000)
    assert [a["id"] for a in coco.dataset["annotations"]] == [1, 2, 3, 4, 5, 6]


def test_ytvis_has_a_null_where_an_object_is_absent(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    path = tmp_path / "ytvis.json"
    write(YtvisWriter(path, video="cups"), 0, 1, 2)
    data = json.loads(path.read_text())
    names = [f"cups/0000{i}.jpg" for i in range(3)]
    assert data["videos"] == [{"id": 1, "name": "cups", "length": 3, "height": 48, "width": 64, "file_names": names}]
    tracks = {a["id"]: a for a in data["annotations"]}
    assert set(tracks) == {3, 7, 300}
    assert tracks[7]["segmentations"] == tracks[7]["bboxes"] == tracks[7]["areas"] == [None] * 3
    assert [s is None for s in tracks[300]["segmentations"]] == [False, True, False]
    assert tracks[300]["areas"] == [200, None, 200]
    assert tracks[300]["bboxes"][2] == [30, 30, 20, 10]
    assert (tracks[3]["score"], tracks[300]["score"], "score" in tracks[7]) == (0.901, 0.5, False)
    for i in range(3):
        np.testing.assert_array_equal(coco.decode(tracks[3]["segmentations"][i]), result(i).labels == 3)


def test_a_table_holds_the_place_of_each_object_and_is_empty_where_unknown(tmp_path: Path) -> None:
    for name in ("a.csv", "a.json"):
        with TableWriter(tmp_path / name) as writer:
            writer.write(result(1, name='odd, "name"'))
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert list(rows[0].values()) == ["1", 'odd, "name"', "0.04", "3", "0.901", "false", "120", "1", "10", "12", "10"]
    assert list(rows[1].values())[3:] == ["7", "", "true", "0", "", "", "", ""]
    assert ",".join(rows[0]) == "frame,name,time,object,confidence,lost,area_px,x,y,width,height"
    data = json.loads((tmp_path / "a.json").read_text())
    assert data[0] == dict(zip(rows[0], [1, 'odd, "name"', 0.04, 3, 0.901, False, 120, 1, 10, 12, 10], strict=True))
    assert data[1]["x"] is None
    with pytest.raises(ValueError, match=r"expected a table whose name ends in \.csv or \.json, got a\.txt"):
        TableWriter("a.txt")


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (3, 4, 5, 2, 1, 0)], ids=["forward", "both ways"])
def test_a_killed_and_resumed_run_ends_with_the_bytes_of_an_unbroken_one(
    name: str, order: tuple[int, ...], tmp_path: Path
) -> None:
    write(RECORDS[name](tmp_path / name), *order)
    broken = tmp_path / "broken"
    writer = RECORDS[name](broken / name)
    for i in order[:4]:  # killed here: no close; the fourth frame's mask was not written any more
        writer.write(result(i, confidence={3: 0.1}) if i == order[3] else result(i))
    with (broken / f".{name}.records").open("ab") as file:
        file.write(b'{"index":4,"na')
    assert not (broken / name).exists()
    write(RECORDS[name](broken / name, keep={f"{i:05d}" for i in order[:3]}), *order[3:])
    assert (broken / name).read_bytes() == (tmp_path / name).read_bytes()
    assert os.listdir(broken) == [name]


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_frames_that_are_not_kept_are_dropped(name: str, tmp_path: Path) -> None:
    write(RECORDS[name](tmp_path / "one" / name), 1)
    writer = RECORDS[name](tmp_path / name)
    for i in (0, 1, 2):
        writer.write(result(i))
    writer.abort()
    assert not (tmp_path / name).exists()
    write(RECORDS[name](tmp_path / name, keep={"00001"}))
    assert (tmp_path / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("name", RECORDS)
def test_a_run_stopped_by_ctrl_c_has_its_frames_and_can_be_resumed(name: str, tmp_path: Path) -> None:
    write(RECORDS[name](tmp_path / "two" / name), 0, 1)
    write(RECORDS[name](tmp_path / "four" / name), 0, 1, 2, 3)

    def stopped() -> None:
        with RECORDS[name](tmp_path / name) as writer:
            writer.write(result(0))
            writer.write(result(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (tmp_path / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    write(RECORDS[name](tmp_path / name, keep=("00000", "00001")), 2, 3)
    assert (tmp_path / name).read_bytes() == (tmp_path / "four" / name).read_bytes()
    with pytest.raises(ValueError, match=r"cannot be resumed, 1 finished frames are not in \..*\.records \(00000, "):
        RECORDS[name](tmp_path / name, keep=["00000"])


@pytest.mark.parametrize("name", ALL)
def test_a_failed_run_leaves_the_file_of_the_run_before(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(ALL[name](path), 0, 1)
    before = path.read_bytes() if path.is_file() else sorted(os.listdir(path))

    def fail() -> None:
        with ALL[name](path) as writer:
            writer.write(result(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (path.read_bytes() if path.is_file() else sorted(os.listdir(path))) == before


@pytest.mark.parametrize("name", RECORDS)
def test_an_empty_run_is_a_valid_file(name: str, tmp_path: Path) -> None:
    write(RECORDS[name](tmp_path / name))
    text = (tmp_path / name).read_text()
    assert text.count("\n") == 1 if name.endswith("csv") else json.loads(text) is not None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", [n for n in ALL if n != "sheet.png"])
def test_a_full_disk_is_an_oserror_and_leaves_no_half_file(name: str, tiny_disk: Path) -> None:
    path = tiny_disk / name
    random = np.random.default_rng(0)

    def fill() -> None:
        with ALL[name](path) as writer:
            for i in range(200):
                labels = random.integers(0, 300, SIZE).astype(np.uint16)
                labels[labels > 7] = 0
                image, soft = random.integers(0, 256, (*SIZE, 3), np.uint8), random.random((3, *SIZE))
                writer.write(result(i, labels=labels, image=image, soft=soft))

    with pytest.raises(OSError, match="No space left") as caught:
        fill()
    assert caught.value.errno == errno.ENOSPC
    assert not path.is_file()
    assert not list(tiny_disk.rglob("*.part"))
    if path.is_dir():
        for file in path.iterdir():  # the frames that fitted are whole
            read_soft(file) if file.suffix == ".npz" else Image.open(file).load()


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    import tracemalloc

    same = result(0, soft=None)
    tracemalloc.start()
    with CocoWriter(tmp_path / "coco.json") as writer:
        for i in range(1500):
            writer.write(Result(i, same.name, None, same.image, same.labels, same.objects))
        running, _ = tracemalloc.get_traced_memory()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "coco.json").stat().st_size
    assert running < 50_000
    assert peak < size / 2  # where each frame's line begins


@pytest.mark.parametrize("key", ["index", "name", "time", "height", "objects"])
def test_damaged_records_are_refused_on_resume(key: str, tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "coco.json") as writer:
        writer.write(result(0))
        lines = tmp_path / ".coco.json.records"
        record = lines.read_text()
    for damaged in (json.dumps({**json.loads(record), key: {"x": 1}}) + "\n", "[" * 100_000 + "\n", "{}\n"):
        lines.write_text(damaged)
        with pytest.raises(ValueError, match=r"coco\.json cannot be resumed, .* is damaged: run without resume"):
            CocoWriter(tmp_path / "coco.json", keep={"00000"})
        assert lines.read_text() == damaged


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_damaged_soft_masks_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "0.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"0.npz does not hold soft masks \(.*\): start again without resume"):
        read_soft(tmp_path / "0.npz")


def test_soft_masks_of_another_type_are_refused(tmp_path: Path) -> None:
    for planes, objects in [(np.zeros((1, 4)), [1]), (np.zeros((2, 4, 4), np.uint8), [1]), (np.zeros((1, 4, 4)), [1])]:
        np.savez(tmp_path / "0.npz", planes=planes, objects=np.array(objects))
        with pytest.raises(ValueError, match="does not hold soft masks"):
            read_soft(tmp_path / "0.npz")
