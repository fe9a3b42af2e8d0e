"""The same masks in folders, zip files, JSON and memory are read as the same masks."""

import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hodor import masks
from hodor.outputs.records import Result, encode_rle
from hodor.outputs.writers import CocoWriter, YtvisWriter
from hodor.scoring.stores.base import Store
from hodor.scoring.stores.open import as_labels, open_store

FRAMES = ("8", "9", "10", "11")
Videos = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def videos() -> Videos:
    """Two sequences with ids that have gaps."""
    rng = np.random.default_rng(0)

    def frame() -> np.ndarray:
        labels = np.zeros((12, 17), np.uint8)
        for key in (1, 3):
            top, left = rng.integers(0, 8, 2)
            labels[top : top + 4, left : left + 6] = key
        return labels

    return {name: {stem: frame() for stem in FRAMES} for name in ("bear", "camel")}


def write(folder: Path, videos: Videos) -> Path:
    for name, frames in videos.items():
        for stem, labels in frames.items():
            masks.write_labels(folder / name / f"{stem}.png", labels)
    return folder


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def check(store: Store, videos: Videos) -> None:
    """The store, and what came out of a pickle, hold just these masks."""
    assert isinstance(store, Store)
    for each in (store, pickle.loads(pickle.dumps(store))):
        assert each.names() == sorted(videos)
        for name, frames in videos.items():
            assert each.frames(name) == list(frames)
            for stem, labels in frames.items():
                read = each.read(name, stem)
                assert read.dtype in (np.uint8, np.uint16, np.uint32)
                assert read.tolist() == labels.tolist()
                planes = each.planes(name, stem)
                assert set(planes) == set(masks.objects_in(labels))
                assert all((plane == (labels == i)).all() for i, plane in planes.items())
                assert stem in each.place(name, stem)
    with pytest.raises(ValueError, match=r"has no sequence dog: it has (bear|sequence|results|x|video)"):
        store.frames("dog")
    with pytest.raises(ValueError, match=r"has no frame 77 of .*: it has "):
        store.read(store.names()[0], "77")


def test_a_folder_of_sequences(tmp_path: Path, videos: Videos) -> None:
    store = open_store(write(tmp_path / "x", videos))
    check(store, videos)
    assert not store.single
    assert store.notes == ()
    assert store.strays() == []
    assert store.place("bear", "9") == str(tmp_path / "x" / "bear" / "9.png")


def test_one_sequence_and_the_folder_of_a_run_are_one_sequence(tmp_path: Path, videos: Videos) -> None:
    write(tmp_path / "x", videos)
    store = open_store(str(tmp_path / "x" / "bear"))
    check(store, {"bear": videos["bear"]})
    assert store.single
    run = tmp_path / "bear"
    write(tmp_path / "y", {"masks": videos["bear"]})
    (tmp_path / "y" / "run.json").write_text("{}")
    masks.write_labels(tmp_path / "y" / "sheet.png", videos["bear"]["9"])
    masks.write_labels(tmp_path / "y" / "overlay" / "9.png", videos["bear"]["9"])
    (tmp_path / "y").rename(run)
    for given in (run, run / "masks"):
        store = open_store(given)
        check(store, {"bear": videos["bear"]})
        assert store.single
        assert store.strays() == []


def test_a_folder_of_runs_is_a_folder_of_sequences(tmp_path: Path, videos: Videos) -> None:
    for name, frames in videos.items():
        write(tmp_path / "x" / name, {"masks": frames})
        (tmp_path / "x" / name / "run.json").write_text("{}")
    store = open_store(tmp_path / "x")
    check(store, videos)
    assert store.strays() == []


def test_hidden_files_are_ignored_and_strays_are_listed(tmp_path: Path, videos: Videos) -> None:
    write(tmp_path / "x", videos)
    for name in (".DS_Store", "bear/.DS_Store", "bear/._8.png", ".cache/9.png", "notes.txt", "bear/Thumbs.db"):
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text("?")
    store = open_store(tmp_path / "x")
    check(store, videos)
    assert store.strays() == ["bear/Thumbs.db", "notes.txt"]


@pytest.mark.parametrize("wrapper", ["", "Annotations", "a/480p"])
def test_a_zip_file_with_and_without_a_wrapping_folder(tmp_path: Path, videos: Videos, wrapper: str) -> None:
    write(tmp_path / "in" / wrapper, videos)
    (tmp_path / "in" / "__MACOSX").mkdir()
    (tmp_path / "in" / "__MACOSX" / "9.png").write_text("?")
    path = zipped(tmp_path / "x.zip", tmp_path / "in")
    store = open_store(path)
    check(store, videos)
    assert store.notes == ((f"the sequences of x.zip were read from its folder {wrapper}/",) if wrapper else ())
    assert store.place("bear", "9") == f"{path}: {wrapper}/bear/9.png".replace(": /", ": ")
    store.read("bear", "9")
    pickle.dumps(store)  # an open file does not hinder


def test_a_zip_file_of_one_sequence(tmp_path: Path, videos: Videos) -> None:
    write(tmp_path / "in", videos)
    store = open_store(zipped(tmp_path / "bear.zip", tmp_path / "in" / "bear"))
    check(store, {"bear": videos["bear"]})
    assert store.single


def sav(folder: Path, videos: Videos) -> Path:
    """<video>/<object>/<frame>.png, 0 and 255."""
    for name, frames in videos.items():
        for stem, labels in frames.items():
            for key in (1, 3):
                masks_of = folder / name / f"{key:03d}" / f"{stem}.png"
                masks_of.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((labels == key).astype(np.uint8) * 255).save(masks_of)
    return folder


def test_sa_v_is_distinguished_from_a_folder_of_sequences(tmp_path: Path, videos: Videos) -> None:
    store = open_store(sav(tmp_path / "x", videos))
    assert store.notes == ("x was read as SA-V: <video>/<object>/<frame>.png, one folder per object",)
    assert store.names() == ["bear", "camel"]
    assert store.frames("bear") == list(FRAMES)
    for stem, labels in videos["bear"].items():
        planes = store.planes("bear", stem)
        assert list(planes) == [1, 3]
        assert all((plane == (labels == i)).all() for i, plane in planes.items())
        assert store.read("bear", stem).tolist() == labels.tolist()
    inside = open_store(zipped(tmp_path / "x.zip", sav(tmp_path / "in" / "wrap", videos).parent))
    assert inside.names() == ["bear", "camel"]
    assert list(inside.planes("bear", "9")) == [1, 3]


def test_objects_of_sa_v_may_overlap(tmp_path: Path) -> None:
    for key, columns in (("000", slice(0, 6)), ("007", slice(4, 9))):
        labels = np.zeros((5, 9), np.uint8)
        labels[:, columns] = 1
        masks.write_labels(tmp_path / "x" / "v" / key / "00000.png", labels)
        masks.write_labels(tmp_path / "x" / "w" / key / "00000.png", labels)
    store = open_store(tmp_path / "x")
    planes = store.planes("v", "00000")
    assert list(planes) == [0, 7]
    assert (planes[0] & planes[7]).sum() == 10
    assert store.read("v", "00000")[0].tolist() == [0, 0, 0, 0, 7, 7, 7, 7, 7]


def test_sequences_with_names_are_not_read_as_objects(tmp_path: Path) -> None:
    for name in ("bear", "camel"):
        masks.write_labels(tmp_path / "in" / "A" / name / "0.png", np.ones((3, 4), np.uint8))
    assert open_store(zipped(tmp_path / "x.zip", tmp_path / "in")).notes[0].startswith("the sequences of x.zip were read")
    with pytest.raises(ValueError, match="did you mean"):
        open_store(tmp_path / "in")


@pytest.mark.parametrize("change", ["labels", "size", "frames"])
def test_sequences_called_by_numbers_are_not_read_as_objects(tmp_path: Path, change: str) -> None:
    """One wrapping folder, sequences 001 and 002."""
    for name in ("001", "002"):
        other = name == "002"
        labels = np.zeros((5, 9 + (change == "size" and other)), np.uint8)
        labels[1:3, 2:4], labels[3:, 4:] = 1, 2 if change == "labels" else 1
        masks.write_labels(tmp_path / "in" / "A" / name / f"{3 if change == 'frames' and other else 0:05d}.png", labels)
    store = open_store(zipped(tmp_path / "x.zip", tmp_path / "in"))
    assert store.names() == ["001", "002"]
    with pytest.raises(ValueError, match=re.escape(f"in it: did you mean {tmp_path / 'in' / 'A'}?")):
        open_store(tmp_path / "in")


def youtube(videos: Videos, **keys: Any) -> dict[str, Any]:
    """A YouTube-VIS file; `keys` of its annotations beside the video's number."""
    listed, annotations = [], []
    for number, (name, frames) in enumerate(videos.items(), 1):
        files = [f"{name}/{stem}.jpg" for stem in frames]
        listed.append({"id": number, "height": 12, "width": 17, "length": len(files), "file_names": files})
        for key in (1, 3):
            runs = [encode_rle(labels == key) if (labels == key).any() else None for labels in frames.values()]
            annotations.append({"video_id": number, "segmentations": runs} | {k: v(key) for k, v in keys.items()})
    return {"videos": listed, "annotations": annotations}


def test_youtube_vis_json(tmp_path: Path, videos: Videos) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(youtube(videos, track_id=lambda key: key, id=lambda key: 70 + key)))
    check(open_store(path), videos)
    path.write_text(json.dumps(youtube(videos, id=lambda key: key)))
    check(open_store(path), videos)
    plain = youtube({"bear": videos["bear"]})
    path.write_text(json.dumps(plain))
    store = open_store(path)
    assert store.single
    assert store.notes == ("1 videos: ids follow the order of the annotations",)
    assert list(store.planes("bear", "9")) == [1, 2]
    path.write_text(json.dumps([a | {"score": 0.5} for a in plain["annotations"]]))
    assert open_store(path).frames("1") == ["00000", "00001", "00002", "00003"]
    assert (open_store(path).planes("1", "00001")[2] == (videos["bear"]["9"] == 3)).all()


def test_plain_run_lengths_and_outlines_in_json(tmp_path: Path) -> None:
    square = [[2, 1, 5, 1, 5, 4, 2, 4]]
    runs = {"size": [6, 8], "counts": [13, 3, 3, 3, 3, 3, 20]}
    video = {"id": 5, "name": "v", "height": 6, "width": 8, "file_names": ["v/1.jpg", "v/2.jpg"]}
    data = {"videos": [video], "annotations": [{"id": 9, "video_id": 5, "segmentations": [square, runs]}]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    store = open_store(tmp_path / "x.json")
    wanted = np.zeros((6, 8), np.uint8)
    wanted[1:4, 2:5] = 9
    assert store.read("v", "1").tolist() == store.read("v", "2").tolist() == wanted.tolist()


@pytest.mark.parametrize("kind", ["coco", "youtube-vis"])
def test_what_segment_writes_as_json_is_read_back(tmp_path: Path, videos: Videos, kind: str) -> None:
    path = tmp_path / "x.json"
    with CocoWriter(path) if kind == "coco" else YtvisWriter(path, video="x") as writer:
        for index, (stem, labels) in enumerate(videos["bear"].items()):
            writer.write(Result(index, stem, index / 10, np.zeros((12, 17, 3), np.uint8), labels, (1, 3)))
    check(open_store(path), {"x": videos["bear"]})


@pytest.mark.parametrize("form", [np.asarray, np.int64, "list", "tensor", "tracked"])
def test_masks_in_memory(videos: Videos, form: Any) -> None:
    torch = pytest.importorskip("torch")
    forms: dict[Any, Callable[[np.ndarray], Any]] = {
        "list": lambda labels: labels,
        "tensor": lambda labels: torch.from_numpy(labels.astype(np.int64)),
        "tracked": lambda labels: SimpleNamespace(labels=labels, objects=(1, 3)),
    }
    make = forms.get(form, form)
    given = {name: {stem: make(labels) for stem, labels in frames.items()} for name, frames in videos.items()}
    store = open_store(given)
    assert not store.single
    check(store, videos)
    one = open_store(given["bear"])
    assert one.single
    check(one, {"sequence": videos["bear"]})


def test_a_list_or_an_array_is_one_sequence(videos: Videos) -> None:
    torch = pytest.importorskip("torch")
    stack = np.stack(list(videos["bear"].values()))
    wanted = {f"{number:05d}": labels for number, labels in enumerate(stack)}
    for given in (stack, list(stack), tuple(stack), torch.from_numpy(stack), dict(enumerate(stack))):
        check(open_store(given), {"sequence": wanted})
        check(open_store({"bear": given}), {"bear": wanted})


def test_a_run_length_in_memory_is_object_1() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    store = open_store({"v": {"0": encode_rle(mask)}})
    assert store.read("v", "0").tolist() == mask.astype(int).tolist()
    assert list(store.planes("v", "0")) == [1]


def test_a_store_is_itself(videos: Videos) -> None:
    store = open_store(videos)
    assert open_store(store) is store


def test_ids_keep_as_many_bits_as_they_need() -> None:
    for top, dtype in ((254, np.uint8), (300, np.uint16), (70_000, np.uint32)):
        labels = as_labels(np.array([[0, top]]), "x")
        assert labels.dtype == dtype
        assert labels.tolist() == [[0, top]]


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def only_pictures(folder: Path) -> Path:
    (folder / "bear").mkdir(parents=True)
    (folder / "bear" / "1.jpg").write_text("?")
    return folder


def both_levels(folder: Path) -> Path:
    labels = np.ones((2, 2), np.uint8)
    masks.write_labels(folder / "1.png", labels)
    masks.write_labels(folder / "bear" / "1.png", labels)
    return folder


def two_levels(folder: Path) -> Path:
    masks.write_labels(folder / "bear" / "1.png", np.ones((2, 2), np.uint8))
    masks.write_labels(folder / "a" / "b" / "1.png", np.ones((2, 2), np.uint8))
    return folder


def text(name: str, content: bytes) -> Callable[[Path], Path]:
    def written(path: Path) -> Path:
        path = path.with_name(name)
        path.write_bytes(content)
        return path

    return written


def encrypted(path: Path) -> Path:
    path = path.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bear/1.png", b"?")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path, FileNotFoundError, "predictions .*x does not exist: give a folder of mask PNGs, a zip file"),
        (empty, ValueError, r"predictions folder .*x has no PNGs: give <sequence>/<frame>.png"),
        (only_pictures, ValueError, r"predictions folder .*x has no PNGs, only .jpg: masks are PNGs"),
        (both_levels, ValueError, r"has PNGs \(1.png\) and folders of PNGs \(bear\): give one sequence or a set"),
        (two_levels, ValueError, r"has PNGs in bear, a/b: give <sequence>/<frame>.png"),
        (text("x.txt", b"?"), ValueError, "x.txt: expected a folder of mask PNGs.*, got a .txt file"),
        (text("x.zip", b"PK no zip"), ValueError, "zip file .*x.zip cannot be opened: "),
        (encrypted, ValueError, r"x.zip is encrypted \(bear/1.png\): give one without a password"),
        (text("x.json", b"{"), ValueError, "predictions .*x.json: expected JSON, got "),
        (text("x.json", b"\xff\xfe{"), ValueError, "predictions .*x.json: expected JSON, got "),
        (text("x.json", b'{"a": 1}'), ValueError, "x.json is JSON of another format: give COCO"),
        (text("x.json", b'{"videos": [{"id": 1}]}'), ValueError, "x.json is damaged: KeyError 'file_names'"),
        (text("x.json", b'{"videos": []}'), ValueError, "x.json has no video and no picture"),
    ],
)
def test_what_cannot_be_opened_is_reported_in_one_line(
    tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        open_store(make(tmp_path / "x"), "predictions")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [{}, [], None, 3, {"a": np.ones((2, 2)), "b": {}}, {"size": [1, 1], "counts": [1]}])
def test_what_is_not_a_set_of_masks_is_reported(given: Any) -> None:
    with pytest.raises(
        ValueError,
        match=r"^predictions: expected (.* got (an empty source|NoneType|int|dict)|a mapping of masks or)",
    ):
        open_store(given, "predictions")


@pytest.mark.parametrize("mask", [np.ones((2, 3), np.float32), np.ones((2, 3, 4), int), "mask.png", [[1, -1]], [[1 << 40]]])
def test_a_mask_in_memory_of_another_type_is_reported(mask: Any) -> None:
    store = open_store({"bear": {"3": mask}}, "predictions")
    with pytest.raises(ValueError, match=r"^predictions bear 3: expected (integer labels .*, got |ids from 1 to \d+, got)"):
        store.read("bear", "3")


def test_damage_inside_a_zip_file_is_reported_and_a_bomb_is_not_unpacked(tmp_path: Path, videos: Videos) -> None:
    path = zipped(tmp_path / "x.zip", write(tmp_path / "x", videos))
    data = bytearray(path.read_bytes())
    data[data.index(b"bear/8.png") + 30] ^= 255
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"^zip file .*x.zip is damaged at bear/8.png: [^\n]+$"):
        open_store(path).read("bear", "8")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bear/1.png", bytes(70 << 20))
        archive.writestr("bear/2.png", b"no picture")
    store = open_store(tmp_path / "bomb.zip")
    with pytest.raises(ValueError, match=r"bomb.zip: bear/1.png is larger than 64 MiB: give a mask PNG"):
        store.read("bear", "1")
    with pytest.raises(ValueError, match=r"^mask .*bomb.zip: bear/2.png "):
        store.read("bear", "2")


def test_runs_that_do_not_fill_the_picture_are_reported(tmp_path: Path, videos: Videos) -> None:
    data = youtube({"bear": videos["bear"]})
    data["annotations"][0]["segmentations"][1] = {"size": [12, 17], "counts": [3, 4]}
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"x.json: bear 9 .*\b7\b.*17x12"):
        open_store(tmp_path / "x.json").read("bear", "9")
    del data["annotations"][1]["segmentations"][0]
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"x.json has 3 masks of an object of bear, which has 4 frames$"):
        open_store(tmp_path / "x.json")


def test_a_folder_is_opened_and_read_without_pillow_or_torch(tmp_path: Path, videos: Videos) -> None:
    write(tmp_path / "x", videos)
    code = (
        "import sys; from hodor.scoring.stores.open import open_store; store = open_store(sys.argv[1]); "
        "print(store.read('bear', '9').sum(), 'PIL' in sys.modules, 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [str(videos["bear"]["9"].sum()), "False", "False"]


def test_a_zip_file_with_an_empty_name_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"x")
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "0.png")
        archive.write(tmp_path / "0.png", "bear/0.png")
    assert (open_store(tmp_path / "a.zip").read("bear", "0") == np.eye(4)).all()
