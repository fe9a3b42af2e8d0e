"""The readers that the fuzz campaign damages files for: how valid files are made, and how they are read.

The results of a reading are checked where there is a second way to know them: labels by both PNG readers, ids and sizes by
their limits.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training
from clips import make
from PIL import Image
from scored import store, video

from benchmarks import labels as boxes
from benchmarks import mose, youtube
from hodor.frames import open_source
from hodor.masks import palette, read_labels, write_labels

SIZE = (40, 56)


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: name in the table of results.
        share: number of inputs of 10,000.
        kind: how its files are built; see `damage.damage`.
        write: writes valid files into a folder and returns those to damage.
        read: reads a file. Files that it writes are in the same folder.
        command: arguments of `hodor` that read the file; every tenth input goes through the command.
    """

    name: str
    share: int
    kind: str
    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    command: Callable[[Path], list[str]] | None = None


def labels(shift: int = 0) -> np.ndarray:
    out = np.zeros(SIZE, np.uint8)
    out[4:20, 4 + shift : 24 + shift] = 1
    out[22:36, 20 + shift : 40 + shift] = 2
    return out


def check_labels(found: np.ndarray) -> None:
    assert found.ndim == 2
    assert found.dtype in (np.uint8, np.uint16), found.dtype


# Masks ----------------------------------------------------------------------------------------------------------------


def write_pngs(folder: Path) -> list[Path]:
    ids, paths = labels(), [folder / f"{n}.png" for n in range(8)]
    write_labels(paths[0], ids)
    Image.fromarray(ids * 100).save(paths[1])
    Image.fromarray(ids.astype(np.uint16) * 500).save(paths[2])
    colours = palette()[ids]
    Image.fromarray(colours).save(paths[3])
    Image.fromarray(np.dstack([colours, (ids > 0) * np.uint8(255)])).save(paths[4])
    Image.fromarray(ids > 0).save(paths[5])
    Image.fromarray(np.dstack([ids, np.full_like(ids, 255)]), "LA").save(paths[6])
    Image.fromarray(ids * 100).resize((56, 40), Image.Resampling.BILINEAR).save(paths[7])
    return paths


def write_label_pngs(folder: Path) -> list[Path]:
    return [path for path in write_pngs(folder) if path.stem not in ("3", "4")]


def write_pictures(folder: Path) -> list[Path]:
    paths = []
    for kind in ("jpg", "bmp", "gif", "tif", "webp", "pgm", "ppm", "tga", "pbm"):
        picture = Image.fromarray((labels() > 0) * np.uint8(255))
        picture = picture.convert({"pbm": "1", "ppm": "RGB", "webp": "RGB"}.get(kind, "L"))
        paths.append(folder / f"mask.{kind}")
        picture.save(paths[-1], **({"lossless": True} if kind == "webp" else {}))
    return paths


def read_mask(path: Path) -> None:
    from hodor.mask_files import doctor

    reading = doctor.read(path)
    check_labels(reading.labels)
    assert reading.objects
    assert reading.labels.max() == reading.objects[-1] <= 65535


def doctor_command(path: Path) -> list[str]:
    return ["doctor", str(path)]


def read_both(path: Path) -> None:
    """The fast reader of label PNGs, and Pillow's: where both read the file, the labels are equal."""
    from hodor.mask_files import png

    fast = png.read_labels(path)
    check_labels(fast)
    try:
        slow = read_labels(path)
    except ValueError:
        return  # Pillow's reader checks some chunks more strictly
    assert np.array_equal(fast, slow), "the two readers of PNGs differ"


def runs(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=2))
    return np.diff(edges, prepend=0)[: len(edges)].tolist()


def annotation(i: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": i, "image_id": 7, "category_id": 1, "track_id": i, "segmentation": segmentation, "area": 320, "iscrowd": 0,
            "bbox": [4, 4, 20, 16], **more}  # fmt: skip


def coco() -> dict[str, Any]:
    size = list(SIZE)
    shapes = [
        [[4, 4, 24, 4, 24, 20, 4, 20], [30, 2, 40, 2, 35, 12]],
        {"size": size, "counts": runs(labels() == 2)},
        {"size": size, "counts": compressed(labels() == 1)},
    ]
    return {
        "images": [{"id": 7, "file_name": "a/00000.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation(i, shape) for i, shape in enumerate(shapes, 1)],
        "categories": [{"id": 1, "name": "cup"}],
    }


def compressed(mask: np.ndarray) -> str:
    from pycocotools import mask as official

    return official.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def labelme() -> dict[str, Any]:
    small = io.BytesIO()
    Image.fromarray(np.ones((6, 9), bool)).save(small, "PNG")
    points = [[4.0, 4.0], [24.0, 20.0], [8.0, 30.0]]
    kinds = {"polygon": points, "rectangle": points[:2], "circle": points[:2], "mask": points[:2]}
    shapes = [{"label": "cup", "points": p, "shape_type": k, "group_id": None, "flags": {}} for k, p in kinds.items()]
    shapes[3]["mask"] = base64.b64encode(small.getvalue()).decode()
    return {"version": "5.4", "shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1], "imagePath": "a.jpg"}


def write_json(name: str, *contents: Any) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        paths = [folder / f"{name}{n or ''}.json" for n in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(json.dumps(content))
        return paths

    return write


# Frames ---------------------------------------------------------------------------------------------------------------

FILMS: dict[str, dict[str, Any]] = {
    "h264.mp4": {}, "long.mov": {"g": 4}, "h264.mkv": {}, "h264.ts": {"form": "mpegts"}, "h264.flv": {},
    "mpeg4.avi": {"codec": "mpeg4"}, "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"}, "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg1.mpg": {"codec": "mpeg1video"}, "ffv1.mkv": {"codec": "ffv1"}, "raw.h264": {"form": "h264"},
    "png.mov": {"codec": "png", "pixels": "rgb24"}, "frames.gif": {"codec": "gif", "pixels": "rgb8"},
}  # fmt: skip


def write_films(folder: Path) -> list[Path]:
    return [make(folder / name, count=8, size=(32, 48), **options) for name, options in FILMS.items()]


def read_film(path: Path) -> None:
    """Read forwards, then from the middle, then backwards."""
    with open_source(path) as source:
        for count, frame in enumerate(source.frames(0, 60)):
            assert frame.image.shape == (*source.size, 3)
            assert frame.index == count
        for frame in source.frames(4, 6):
            assert 4 <= frame.index < 6
        for frame in source.frames(0, 20, reverse=True):
            assert frame.image.shape == (*source.size, 3)


def write_stills(folder: Path) -> list[Path]:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    paths = [folder / f"{kind}.{kind}" for kind in ("png", "jpg", "webp", "tif", "bmp")]
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in paths:
        Image.fromarray(image).save(path, **({} if path.suffix == ".bmp" else {"exif": exif}))
    Image.fromarray(image[..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    return [*paths, folder / "deep.png"]


def read_still(path: Path) -> None:
    with open_source(path) as source:
        assert [frame.image.shape for frame in source.frames()] == [(*source.size, 3)]


def write_cutouts(folder: Path) -> list[Path]:
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 4), np.uint8)
    image[..., 3] = (labels() > 0) * np.uint8(255)
    Image.fromarray(image).save(folder / "cut.png")
    Image.fromarray(image).save(folder / "cut.webp", lossless=True)
    return [folder / "cut.png", folder / "cut.webp"]


def read_for_training(path: Path) -> None:
    """The readers of training: pictures, and cut-outs with alpha. They skip the files for which they raise."""
    from hodor.data.file_cache import FileCache, read_picture
    from hodor.data.paste import _read_alpha

    cache = FileCache(1 << 20)
    cache.files, cache.quiet, cache.tolerated = 1, True, 1.0
    cache.get("picture", path, lambda: ((found := read_picture(path, None, SIZE)), found.nbytes))
    cache.get("alpha", path, lambda: _read_alpha(path, SIZE))


# Networks -------------------------------------------------------------------------------------------------------------


def write_weights(folder: Path) -> list[Path]:
    from hodor.models import weights

    training.add_models()
    torch.manual_seed(0)
    weights.save(weights.build("calm"), folder / "calm.safetensors", half=True, recipe={"model": "calm"})
    return [folder / "calm.safetensors"]


def read_weights(path: Path) -> None:
    from hodor.models import weights

    weights.load(path)


def write_state(folder: Path) -> list[Path]:
    from hodor.tracking import Tracker

    tracker = Tracker(network())
    for t in range(3):
        tracker.track(frame(t), labels() if t == 0 else None)
    tracker.save(folder / "state.safetensors", job={}, index=3)
    return [folder / "state.safetensors"]


def network() -> Any:
    from hodor.models import weights

    global _network
    if _network is None:
        training.add_models()
        torch.manual_seed(0)
        _network = weights.build("calm").eval().requires_grad_(False)
    return _network


_network: Any = None


def frame(t: int) -> np.ndarray:
    return np.random.default_rng(t).integers(0, 255, (*SIZE, 3), np.uint8)


def read_state(path: Path) -> None:
    """Restore and segment one frame; a refused state leaves the tracker as it was."""
    from hodor.tracking import Tracker

    tracker = Tracker(network())
    tracker.track(frame(0), labels())
    before = tracker.memory, tracker.index
    try:
        tracker.restore(path)
    except ValueError:
        assert (tracker.memory, tracker.index) == before
        raise
    found = tracker.track(frame(3))
    check_labels(found)
    assert found.shape == SIZE


def write_pth(folder: Path) -> list[Path]:
    state = {"a.weight": torch.ones(3, 4), "a.bias": torch.zeros(3), "n": torch.tensor(3)}
    torch.save(state, folder / "new.pth")
    torch.save({"model": state}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return [folder / "new.pth", folder / "old.pth"]


def read_pth(path: Path) -> None:
    from hodor.models.released import read_pth

    assert all(isinstance(value, torch.Tensor) for value in read_pth(path).values())


def convert_command(path: Path) -> list[str]:
    return ["convert", str(path), str(path.with_name("converted.safetensors"))]


def write_checkpoint(folder: Path) -> list[Path]:
    from hodor.training import checkpoints

    recipe = checkpoints.plain(training.small(Path("data")), names_only=True)
    state = {"step": 3, "recipe": recipe, "network": {"a": torch.ones(4)}, "rounding": {"threads": 1}}
    checkpoints.save(folder / "last.pt", state)
    return [folder / "last.pt"]


def read_checkpoint(path: Path) -> None:
    """The beginning of a training run in a folder that has a checkpoint."""
    import contextlib

    from hodor import train

    out = path.parent
    recipe = training.small(Path("data"))
    with contextlib.ExitStack() as held:
        try:
            train._begin(recipe, out, False, False, 1, held)
        finally:
            (out / "recipe.json").unlink(missing_ok=True)


def write_log(folder: Path) -> list[Path]:
    lines = [{"step": n, "loss": 0.5} for n in range(5)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [folder / "log.jsonl"]


def read_log(path: Path) -> None:
    from hodor.training.journal import cut

    cut(path, 3)


# Scores ---------------------------------------------------------------------------------------------------------------


def write_results(folder: Path) -> list[Path]:
    from hodor.evaluate import evaluate

    store(folder / "truth" / "bear", video())
    store(folder / "found" / "bear", video(shift=1))
    report = evaluate(folder / "found", folder / "truth", workers=1).to_json()
    shutil.rmtree(folder / "truth")
    shutil.rmtree(folder / "found")
    (folder / "other.json").write_text(json.dumps(report))
    (folder / "scores.json").write_text(json.dumps(report))
    return [folder / "scores.json"]


def read_results(path: Path) -> None:
    from hodor.scoring import result_files

    results = result_files.read(path)
    result_files.write_csv(results, path.with_name("out.csv"))
    result_files.write_html(results, path.with_name("out.html"))


def compare_command(path: Path) -> list[str]:
    html = str(path.with_name("compared.html"))
    return ["compare", str(path.with_name("other.json")), str(path), "--draws", "100", "--html", html]


def write_archive(folder: Path) -> list[Path]:
    with zipfile.ZipFile(folder / "masks.zip", "w") as archive:
        for n, ids in enumerate(video()):
            out = io.BytesIO()
            Image.fromarray(ids).save(out, "PNG")
            archive.writestr(f"bear/{n:05d}.png", out.getvalue())
    store(folder / "truth" / "bear", video())
    return [folder / "masks.zip"]


def read_store(path: Path) -> None:
    from hodor.scoring.stores.open import open_store

    opened = open_store(path)
    for sequence in opened.names():
        for name in opened.frames(sequence):
            assert opened.read(sequence, name).ndim == 2
            opened.planes(sequence, name)


def score_command(path: Path) -> list[str]:
    return ["score", str(path), str(path.with_name("truth")), "--workers", "1", "--json", str(path.with_name("out.json"))]


def tracks() -> tuple[Any, Any]:
    clip = video(frames=3)
    height, width = clip[0].shape
    images = [{"id": t, "file_name": f"{t:05d}.jpg", "height": height, "width": width} for t in range(3)]
    shapes = [
        {
            "id": 3 * i + t,
            "image_id": t,
            "track_id": i,
            "segmentation": {"size": [height, width], "counts": compressed(ids == i)},
        }
        for t, ids in enumerate(clip)
        for i in (1, 2)
    ]
    videos = [{"id": 1, "name": "bear", "file_names": [f"{t:05d}.jpg" for t in range(3)], "height": height, "width": width}]
    rows = [
        {"id": i, "video_id": 1, "segmentations": [{"size": [height, width], "counts": runs(ids == i)} for ids in clip]}
        for i in (1, 2)
    ]
    return {"images": images, "annotations": shapes}, {"videos": videos, "annotations": rows}


# Data sets ------------------------------------------------------------------------------------------------------------


def write_coco_set(folder: Path) -> list[Path]:
    Image.fromarray(frame(0)).save(folder / "00000.jpg")
    content = coco()
    content["images"][0]["file_name"] = "00000.jpg"
    (folder / "instances.json").write_text(json.dumps(content))
    return [folder / "instances.json"]


def read_coco_set(path: Path) -> None:
    from hodor.data.coco import open_coco
    from hodor.data.file_cache import FileCache

    cache = FileCache(1 << 20)
    cache.files, cache.quiet, cache.tolerated = 1, True, 1.0
    for still in open_coco(path):
        found = cache.get(still.name, still.mask, lambda still=still: (still.draw(), 0))
        assert found.ndim == 2


def write_youtube(folder: Path) -> list[Path]:
    root = youtube(folder / "yt")
    return sorted(root.rglob("meta.json"))[:2]


def read_layout(path: Path) -> None:
    from hodor.data.layouts import open_layout

    root = path
    while root.name != "yt":
        root = root.parent
    for split in ("train", "valid"):
        for one in open_layout(root, "youtube-vos", split).videos:
            for name in one.given:
                one.labels(name)


def read_submission(path: Path) -> None:
    """Check a zip file for a server. Its problems are returned, one line each."""
    from hodor.data.layouts import open_layout
    from hodor.evaluation.submit import check

    problems = check(open_layout(path.parent / "mose", "mose", "valid"), path)
    assert all("\n" not in problem for problem in problems)


def write_submission(folder: Path) -> list[Path]:
    from hodor.data.layouts import open_layout

    layout = open_layout(mose(folder / "mose"), "mose", "valid")
    write_labels(folder / "one.png", boxes(0, (1,)))
    with zipfile.ZipFile(folder / "send.zip", "w") as archive:
        for one in layout.videos:
            for name in one.required:
                archive.writestr(f"{one.name}/{name}.png", (folder / "one.png").read_bytes())
    return [folder / "send.zip"]


def write_run(folder: Path) -> list[Path]:
    one = {"object": 1, "area": 4, "box": [0, 0, 2, 2], "confidence": 0.5, "lost": False, "counts": "022228"}
    record = {"index": 0, "name": "00000", "time": 0.1, "height": 4, "width": 4, "objects": [one]}
    lines = "".join(json.dumps({**record, "index": t, "name": f"{t:05d}"}) + "\n" for t in range(4))
    (folder / ".coco.json.records").write_text(lines)
    return [folder / ".coco.json.records"]


def read_run(path: Path) -> None:
    """Resume the records of a killed run."""
    from hodor.outputs.records import CocoWriter

    before = path.read_bytes()
    try:
        with CocoWriter(path.with_name("coco.json"), keep={"00000", "00001"}):
            pass
    finally:
        path.write_bytes(before)


def write_soft(folder: Path) -> list[Path]:
    planes = np.random.default_rng(0).integers(0, 255, (2, *SIZE), np.uint8)
    np.savez_compressed(folder / "00000.npz", planes=planes, objects=np.array([1, 2]))
    return [folder / "00000.npz"]


def read_soft(path: Path) -> None:
    from hodor.outputs.writers import read_soft

    planes, objects = read_soft(path)
    assert planes.ndim == 3
    assert len(planes) == len(objects)


READERS = (
    Reader("mask: PNG", 1500, "png", write_pngs, read_mask, doctor_command),
    Reader("mask: JPEG, BMP, GIF, TIFF, WebP, PNM, TGA", 1200, "bytes", write_pictures, read_mask, doctor_command),
    Reader("mask: label PNG, two readers", 700, "png", write_label_pngs, read_both),
    Reader("mask: COCO JSON", 900, "json", write_json("coco", coco(), coco()["annotations"]), read_mask, doctor_command),
    Reader("mask: labelme JSON", 600, "json", write_json("labelme", labelme()), read_mask, doctor_command),
    Reader("frames: pictures", 500, "bytes", write_stills, read_still),
    Reader("frames: video files, 13 types", 1500, "bytes", write_films, read_film),
    Reader("training: pictures and cut-outs", 300, "png", write_cutouts, read_for_training),
    Reader("training: COCO JSON", 500, "json", write_coco_set, read_coco_set),
    Reader("data set: YouTube-VOS meta.json", 200, "json", write_youtube, read_layout),
    Reader("weights: safetensors", 400, "safetensors", write_weights, read_weights),
    Reader("weights: .pth", 300, "zip", write_pth, read_pth, convert_command),
    Reader("checkpoint: last.pt", 300, "zip", write_checkpoint, read_checkpoint),
    Reader("training log: log.jsonl", 100, "lines", write_log, read_log),
    Reader("state of a tracker", 500, "safetensors", write_state, read_state),
    Reader("records of a run", 200, "lines", write_run, read_run),
    Reader("soft masks: npz", 300, "zip", write_soft, read_soft),
    Reader("scores: results JSON", 500, "json", write_results, read_results, compare_command),
    Reader("scores: zip of masks", 500, "zip", write_archive, read_store, score_command),
    Reader("submission: zip of masks", 200, "zip", write_submission, read_submission),
    Reader("scores: COCO and YouTube-VIS JSON", 500, "json", write_json("tracks", *tracks()), read_store),
)
"""All readers; their shares are 11,700 of 10,000 inputs, so that `--inputs 10000` runs at least as many."""
