"""Packs: what training reads from them, and training where only torch, numpy, Pillow, OpenCV and safetensors exist."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hodor.data.clip import Clip
from hodor.data.pack import PackSettings, read_index, unpack, write_pack
from hodor.data.settings import Data
from hodor.data.stream import Stream
from hodor.frames import VideoWriter, open_source
from hodor.train_pack import changed, main
from hodor.training.loader import Loader
from hodor.training.recipe import Recipe
from hodor.training.recipes import RECIPES
from hodor.video.opencv import OpenCvVideo


def labels_of(t: int, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """Objects 1 and 7 as squares; object 1 moves by 4 pixels a frame."""
    labels = np.zeros(size, np.uint8)
    labels[20:60, 10 + 4 * t : 50 + 4 * t] = 1
    labels[30:80, 110:150] = 7
    return labels


def picture_of(labels: np.ndarray) -> np.ndarray:
    """Object 1 is red, 7 is blue, background is grey."""
    image = np.full((*labels.shape, 3), 128, np.uint8)
    image[labels == 1] = 220, 30, 30
    image[labels == 7] = 30, 30, 220
    return image


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos (one a video file), and four still images with void pixels."""
    root = tmp_path_factory.mktemp("data")
    for name, frames in (("first", 9), ("second", 7)):
        folder = root / "videos" / "Annotations" / name
        folder.mkdir(parents=True)
        for t in range(frames):
            Image.fromarray(labels_of(t)).save(folder / f"{t:05d}.png")
    with VideoWriter(_made(root / "videos" / "videos") / "first.mp4", 25, crf=5) as writer:
        for t in range(9):
            writer.write(picture_of(labels_of(t)))
    second = _made(root / "videos" / "videos" / "second")
    for t in range(7):
        Image.fromarray(picture_of(labels_of(t))).save(second / f"{t:05d}.png")
    images, masks = _made(root / "stills" / "images"), _made(root / "stills" / "masks")
    for i in range(4):
        labels = labels_of(i)
        Image.fromarray(picture_of(labels)).save(images / f"s{i}.png")
        labels[:10] = 255
        Image.fromarray(labels).save(masks / f"s{i}.png")
    return root


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def pack(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pack") / "pack"
    write_pack([data / "videos", data / "stills"], out, PackSettings(short_side=48, quality=95, crf=5))
    return out


def test_a_pack_holds_every_frame_at_the_size_of_training_with_the_ids_and_void_of_its_masks(
    pack: Path, tmp_path: Path
) -> None:
    index = read_index(pack)
    assert [(root["name"], root["kind"], root["items"]) for root in index["roots"]] == [
        ("videos", "videos", 2),
        ("stills", "stills", 4),
    ]
    videos, stills = unpack(pack, tmp_path / "data")
    for name, frames in (("first", 9), ("second", 7)):
        with open_source(videos / "videos" / f"{name}.mp4") as source:
            pictures = [frame.image for frame in source.frames()]
        assert len(pictures) == frames
        assert pictures[0].shape == (48, 80, 3)
        for t, image in enumerate(pictures):
            labels = np.array(Image.open(videos / "Annotations" / name / f"{t:05d}.png"))
            assert np.array_equal(labels, labels_of(t)[::2, ::2]) or _overlap(labels == 1, labels_of(t)[::2, ::2] == 1) > 0.9
            assert set(np.unique(labels)) == {0, 1, 7}
            assert image[labels == 1].mean(0)[0] > 170
            assert image[labels == 7].mean(0)[2] > 170
    mask = np.array(Image.open(stills / "masks" / "s2.png"))
    assert mask.shape == (48, 80)
    assert set(np.unique(mask)) == {0, 1, 7, 255}
    assert (mask[:5] == 255).all()
    assert Image.open(stills / "images" / "s2.webp").size == (80, 48)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_training_clips_of_a_pack_show_the_objects_where_their_masks_are(pack: Path, tmp_path: Path) -> None:
    roots = unpack(pack, tmp_path / "data")
    settings = Data(root=tuple(roots), size=(48, 80), min_area=20, min_side=3, max_objects=2, frame_order="forward")
    stream = Stream(settings, frames=3, batch=4, seed=0)
    seen = {0: 0, 2: 0}
    for step in range(6):
        clip = stream.batch(step)
        inside = clip.masks_BTNHW > 0.5
        for b, t, n in np.ndindex(*inside.shape[:3]):
            if inside[b, t, n].sum() > 60:
                colour = clip.frames_BTCHW[b, t][:, inside[b, t, n]].mean(1)
                strongest = int(colour.argmax())
                assert strongest in seen
                assert colour[strongest] > colour[1] + 0.1
                seen[strongest] += 1
    assert min(seen.values()) > 5


def test_shards_stay_below_their_limit_and_are_the_same_for_the_same_data(data: Path, tmp_path: Path) -> None:
    settings = PackSettings(short_side=96, max_mb=0.002)
    first = write_pack([data / "stills"], tmp_path / "a", settings)
    second = write_pack([data / "stills"], tmp_path / "b", settings)
    assert first["shards"] == second["shards"]
    assert len(first["shards"]) > 1
    assert all(shard["bytes"] <= 2000 for shard in first["shards"])
    names = [name for shard in first["shards"] for name in zipfile.ZipFile(tmp_path / "a" / shard["name"]).namelist()]
    assert sorted(names) == sorted(f"stills/{kind}" for i in range(4) for kind in (f"images/s{i}.webp", f"masks/s{i}.png"))


def test_a_damaged_missing_or_foreign_pack_is_named_in_one_line(pack: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in pack.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shard = copy / "shard-000.zip"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"expected .*shard-000.zip with sha256 \w{12}, got \w{12}: copy it again"):
        unpack(copy, tmp_path / "data")
    shard.unlink()
    with pytest.raises(ValueError, match=r"expected shard-000.zip in .*, got no such file: copy it"):
        unpack(copy, tmp_path / "data")
    shard.write_bytes(whole)
    unpack(copy, tmp_path / "data")
    shard.unlink()
    assert len(unpack(copy, tmp_path / "data")) == 2  # extracted before, so the shard is not read again
    (copy / "pack.json").write_text("{}")
    with pytest.raises(ValueError, match=r"expected format hodor-pack/1 in .*pack.json"):
        read_index(copy)
    with pytest.raises(ValueError, match=r"expected a pack \(a folder with pack.json\), got"):
        read_index(tmp_path)


def test_a_folder_with_the_files_of_another_pack_is_refused(data: Path, pack: Path, tmp_path: Path) -> None:
    write_pack([data / "stills"], tmp_path / "other", PackSettings(short_side=32))
    unpack(tmp_path / "other", tmp_path / "files")
    with pytest.raises(ValueError, match=r"expected a folder without another pack, got .*files: remove it"):
        unpack(pack, tmp_path / "files")
    assert unpack(tmp_path / "other", tmp_path / "files") == [tmp_path / "files" / "stills"]


def test_a_pack_does_not_mix_with_other_files_or_with_a_root_of_the_same_name(data: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"expected an empty folder for the pack"):
        write_pack([data / "stills"], tmp_path)
    with pytest.raises(ValueError, match=r"expected roots with different names, got stills twice"):
        write_pack([data / "stills", data / "stills"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_opencv_reads_the_frames_that_pyav_reads(data: Path) -> None:
    file = data / "videos" / "videos" / "first.mp4"
    with open_source(file) as source:
        expected = [frame.image.astype(int) for frame in source.frames()]
    found = [frame.image.astype(int) for frame in OpenCvVideo(str(file), "first").frames()]
    assert len(found) == len(expected) == 9
    assert max(np.abs(a - b).mean() for a, b in zip(found, expected, strict=True)) < 6  # the conversions to RGB differ
    assert [frame.index for frame in OpenCvVideo(str(file), "first").frames(3, 6)] == [3, 4, 5]


def test_fields_of_a_recipe_are_set_by_text() -> None:
    recipe = changed(
        RECIPES["xmem-lite"],
        [
            "lr=1e-3",
            "data.size=320,576",
            "data.augment.flip=0",
            "precision=float32",
            "settings=context:true,top_k:20",
            "data.only=",
        ],
    )
    assert (recipe.lr, recipe.data.size, recipe.data.augment.flip, recipe.precision) == (1e-3, (320, 576), 0.0, "float32")
    assert recipe.settings == (("context", True), ("top_k", 20))
    assert recipe.data.only == ()
    assert changed(Recipe(), ["mask_feedback=none"]).mask_feedback is None
    for text, message in {
        "lr": r"expected NAME=VALUE, got 'lr'",
        "lrr=1": r"expected a field of Recipe \(model, settings, .*\), got 'lrr'",
        "lr=high": r"expected a value of type float for lr, got 'high'",
        "data.size=1,2,3": r"expected 2 values with commas for data.size",
        "precision=half": r"expected precision to be one of float32, bfloat16, got 'half'",
        "decay_embeddings=1": r"expected true or false for decay_embeddings",
    }.items():
        with pytest.raises(ValueError, match=message):
            changed(Recipe(), [text])


SETTINGS = (
    "data.size=128,256", "data.min_area=20", "data.min_side=3", "data.distractor=0", "data.paste=0", "precision=float32",
    "frames=3", "batch=2", "warmup=1", "save_every=1", "data.pad_objects=true", "references=recent", "reads=2",
)  # fmt: skip
BARE = """
import sys
for name in ("av", "tyro", "rich", "accelerate", "tensorboard", "matplotlib", "docstring_parser"):
    sys.modules[name] = None
from hodor.train_pack import main
sys.exit(main(sys.argv[1:]))
"""


def test_training_on_a_pack_needs_neither_pyav_nor_tyro_and_resumes(pack: Path, tmp_path: Path) -> None:
    def train(out: str, steps: int, *settings: str) -> subprocess.CompletedProcess[str]:
        arguments = [str(pack), "--out", str(tmp_path / out), "--unpacked", str(tmp_path / "data"), *SETTINGS, f"steps={steps}"]
        return subprocess.run([sys.executable, "-c", BARE, *arguments, *settings], capture_output=True, text=True, timeout=300)

    whole = train("whole", 2, "worker_kind=process", "workers=12")
    assert whole.returncode == 0, whole.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1]
    assert train("whole", 2).returncode == 0  # nothing is left to do
    threads = train("threads", 2, "workers=1")
    assert threads.returncode == 0
    made = [(tmp_path / name / "weights.safetensors").read_bytes()[-100_000:] for name in ("whole", "threads")]
    assert made[0] == made[1]  # the clips do not depend on the kind of workers


def test_wrong_input_of_train_pack_is_one_line(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(pack), "--out", str(tmp_path / "run"), "--recipe", "none"]) == 2
    assert main([str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("hodor: expected a recipe (")
    assert "expected a pack" in lines[1]


def test_processes_prepare_the_clips_that_threads_prepare(data: Path) -> None:
    settings = Data(root=(data / "videos", data / "stills"), size=(48, 80), min_area=20, min_side=3)
    stream = Stream(settings, frames=3, batch=4, seed=3)
    stream.warm(2)

    def read(workers: int, kind: str) -> list[Clip]:
        with Loader(stream.batch, [range(0, 2), range(2, 4)], 0, 3, workers, kind=kind) as loader:  # type: ignore[arg-type]
            return [clip.to(torch.device("cpu")) for _, clip in loader]

    for a, b in zip(read(0, "thread"), read(3, "process"), strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_an_error_in_a_process_reaches_the_caller() -> None:
    def make(step: int, part: range) -> Clip:
        raise ValueError(f"expected a clip, got none at step {step}")

    with (
        Loader(make, [range(1)], 0, 2, 1, kind="process") as loader,
        pytest.raises(ValueError, match="expected a clip, got none"),
    ):
        next(iter(loader))


def test_batches_can_have_the_planes_of_the_largest_clip(data: Path) -> None:
    settings = Data(root=(data / "stills",), size=(48, 80), min_area=20, min_side=3, max_objects=4, count="any")
    few = Stream(settings, frames=2, batch=1, seed=0).batch(0)
    all_planes = Stream(replace(settings, pad_objects=True), frames=2, batch=1, seed=0).batch(0)
    count = few.objects_BN.shape[1]
    assert count < 4
    assert all_planes.objects_BN.shape == (1, 4)
    assert torch.equal(all_planes.masks_BTNHW[:, :, :count], few.masks_BTNHW)
    assert not all_planes.masks_BTNHW[:, :, count:].any()
    assert int(all_planes.objects_BN.sum()) == int(few.objects_BN.sum())
