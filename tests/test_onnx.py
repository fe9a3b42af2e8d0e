"""`hodor export`: graphs that compute what torch computes, and a tracker without torch that gives the tracker's labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from golden_rules import frames as pictures
from PIL import Image

from hodor import cli, masks
from hodor.frames import open_source
from hodor.models import long_term, weights
from hodor.models.base import Entry, Memory, Network
from hodor.models.cutie import Cutie
from hodor.models.memory_blocks import Keys
from hodor.models.onnx_parts import pair
from hodor.models.stcn import STCN
from hodor.models.xmem import XMem
from hodor.tracking import Tracker

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from hodor import onnx_export, onnx_memory
from hodor.onnx_runtime import OnnxTracker

ROOT = Path(__file__).parents[1]
SIZE = (64, 100)
SMALL = {"backbone": "tiny", "mask_encoder": "light", "key_width": 16, "mem_every": 2}
KINDS: dict[str, tuple[type[Network] | None, dict[str, Any]]] = {
    "xmem": (
        XMem,
        {
            **SMALL,
            "value_width": 32,
            "sensory_width": 16,
            "decoder_width": 32,
            "normed": True,
            "context": True,
            "prototypes": 40,
            "max_prototypes": 60,
        },
    ),
    "stcn": (STCN, {**SMALL, "value_width": 32}),
    "cutie": (Cutie, {**SMALL, "width": 32, "heads": 4, "feedforward_width": 64, "normed": True, "blocks": 2}),
    "hodor": (None, {"pooling": "soft", "feature_positions": True, "decoder_layers": 2}),
}


def network(kind: str, **changes: Any) -> Network:
    """An untrained network of some 0.1 M weights whose objects win pixels."""
    make, settings = KINDS[kind]
    if make is None:
        made: Network = tiny.network(**settings)
    else:
        torch.manual_seed(3)
        with pytest.MonkeyPatch.context() as patch:
            tiny.add_backbone(patch)
            made = make(**{**settings, **changes})
    made.name, made.size, made.history = kind, 60, 4
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Network, Path]]:
    """The network of a kind, and the folder of its graphs."""

    @cache
    def made(kind: str) -> tuple[Network, Path]:
        one, folder = network(kind), tmp_path_factory.mktemp(kind)
        onnx_export.export(one, folder)
        return one, folder

    return made


@pytest.fixture(params=KINDS)
def exported(request: pytest.FixtureRequest, graphs: Callable[[str], tuple[Network, Path]]) -> tuple[Network, Path]:
    return graphs(request.param)


def given(size: tuple[int, int] = SIZE) -> np.ndarray:
    """Ids 7 and 300 as two rectangles."""
    one, two = tiny.planes(size).numpy()
    return (7 * one + 300 * two * (1 - one)).astype(np.uint16)


def images(count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [(255 * each.permute(1, 2, 0)).byte().numpy() for each in pictures(0.0, T=count, H=size[0], W=size[1])]


def follow(tracker: Any) -> np.ndarray:
    """Labels of a video with two objects; a third is given later, the first is corrected, and the second is removed."""
    first, found = given(), []
    for i, image in enumerate(images(16)):
        labels = {0: first, 5: np.where(np.roll(first, 20, 0) == 7, 9, 0), 9: np.where(np.roll(first, 30, 1) == 7, 7, 0)}.get(i)
        if i == 12:
            tracker.remove(300)
        found.append(tracker.track(image, labels))
    return np.stack(found)


def test_labels_are_the_trackers_with_objects_that_are_added_corrected_and_removed(exported: tuple[Network, Path]) -> None:
    made, folder = exported
    wanted, found = follow(Tracker(made)), follow(OnnxTracker(folder))
    assert wanted.dtype == found.dtype
    assert {0, 7, 9, 300} <= set(np.unique(wanted)), "the video must show every object"
    assert (wanted == found).mean() >= 0.999, (wanted == found).mean((1, 2))


def table(memory: Memory) -> onnx_memory.Memory:
    """A memory of torch in the form of `onnx_memory`."""
    parts = []
    for index, entry in memory.frames.items():
        token, query = pair(Keys(*(entry.shared[name].flatten(2)[..., None] for name in long_term.KEYS)))
        used, reads = memory.tally.get(f"used.{index}", torch.zeros(1, 2, len(token)))[0]
        flags = {name: getattr(entry, f"{name}_BN")[0].expand(len(token), -1) for name in ("valid", "given")}
        part = {"token": token, "query": query, "values": entry.per_object[0].flatten(2).permute(2, 0, 1), **flags}
        part |= {"used": used, "reads": reads, "frame": torch.full((len(token),), max(index, -1))}
        parts.append({name: each.numpy().copy() for name, each in part.items()})
    return onnx_memory.joined(*parts)


def in_order(memory: onnx_memory.Memory) -> onnx_memory.Memory:
    """Rows in an order that does not depend on how they are grouped."""
    return onnx_memory.rows_of(memory, np.lexsort((memory["query"][:, 0], memory["frame"])))


def test_the_long_term_memory_is_the_networks() -> None:
    random = torch.Generator().manual_seed(0)
    memory = Memory((1, 2, 3))
    mine: onnx_memory.Memory = {}
    about = {"pin_first": True, "keep": "long_term", "prototypes": 6, "max_prototypes": 10}
    counts = []
    for index in range(12):
        keys = [torch.rand(1, side, 3, 4, generator=random) for side in (8, 1, 8)]
        valid = torch.tensor([[True, index != 4, index > 1]])
        given = torch.tensor([[index == 0, index in (0, 7), index == 2]])
        shared = dict(zip(long_term.KEYS, (keys[0], keys[1] + 1, keys[2]), strict=True))
        values = torch.rand(1, 3, 5, 3, 4, generator=random)
        entry = Entry(values, shared, valid, given & valid, torch.tensor([True]))
        alone = table(Memory((1, 2, 3), {index: entry}))
        mine = onnx_memory.joined(mine, alone) if mine else alone
        memory = memory.add(index, entry)
        use = torch.rand(len(mine["token"]), generator=random)  # by the order of the rows in `mine`
        mine["used"], mine["reads"] = mine["used"] + use.numpy(), mine["reads"] + 1
        place = {float(q): float(u) for q, u in zip(mine["query"][:, 0], use, strict=True)}
        theirs = torch.tensor([[place[float(q)] for q in table(memory)["query"][:, 0]]])
        memory = long_term.keep(long_term.count(memory, theirs), 4, True, prototypes=6, max_prototypes=10)
        mine = onnx_memory.keep(mine, about, 4)
        counts.append(int((mine["frame"] < 0).sum()))
        wanted, found = in_order(table(memory)), in_order(mine)
        for name, each in wanted.items():
            np.testing.assert_allclose(found[name], each, atol=1e-5, err_msg=f"{name} after frame {index}")
    assert {0, 6, 10} <= set(counts), "prototypes must be made, and the least used forgotten"


def test_network_json_describes_what_the_graphs_take_and_return(exported: tuple[Network, Path]) -> None:
    _, folder = exported
    about, tracker = json.loads((folder / "network.json").read_text()), OnnxTracker(folder)
    assert set(about["graphs"]) == set(tracker.sessions) == {path.stem for path in folder.glob("*.onnx")}
    for name, graph in about["graphs"].items():
        session = tracker.sessions[name]
        for side, real in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [each["name"] for each in graph[side]] == [each.name for each in real], (name, side)
            for said, each in zip(graph[side], real, strict=True):
                free = [isinstance(length, str) for length in said["shape"]]
                assert free == [not isinstance(length, int) for length in each.shape], (name, said, each.shape)
                assert all(a == b for a, b, f in zip(said["shape"], each.shape, free, strict=True) if not f)
    names = {each["name"] for each in about["graphs"]["segment"]["inputs"]} if about["state"] else set()
    assert {each["name"] for each in about["state"]} & names == names & {"hidden", "sensory", "last_mask", "summaries"}


def test_frames_can_change_their_size_and_masks_can_be_tiny(exported: tuple[Network, Path]) -> None:
    made, folder = exported
    if isinstance(made, Cutie):
        pytest.skip("Cutie's state has the size of the first frame, with torch too")
    labels, trackers = given(), (Tracker(made, size=48), OnnxTracker(folder, size=48))
    labels[5, 5] = 12  # one pixel, which falls between those that are sampled
    found = []
    for tracker in trackers:
        first = [tracker.track(image, labels if i == 0 else None) for i, image in enumerate(images(4))]
        found.append([*first, *(tracker.track(image) for image in images(3, (70, 200)))])
    assert 12 in found[0][0]
    for wanted, mine in zip(*found, strict=True):
        assert wanted.shape == mine.shape
        assert (wanted == mine).mean() >= 0.999


def test_runs_where_torch_cannot_be_imported(graphs: Callable[[str], tuple[Network, Path]], tmp_path: Path) -> None:
    made, folder = graphs("xmem")
    np.savez(tmp_path / "video.npz", frames=np.stack(images(6)), labels=given())
    code = """if True:
        import sys, numpy
        sys.modules["torch"] = None  # importing it raises ModuleNotFoundError
        from hodor.onnx_runtime import OnnxTracker
        video, tracker = numpy.load("video.npz"), OnnxTracker(sys.argv[1])
        labels = [tracker.track(frame, None if i else video["labels"]) for i, frame in enumerate(video["frames"])]
        numpy.save("labels.npy", labels)
        print(sorted({"PIL", "av", "safetensors", "hodor.masks"} & set(sys.modules)))
    """
    ran = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]", "numpy and onnxruntime must be enough"
    tracker = Tracker(made)
    wanted = [tracker.track(image, None if i else given()) for i, image in enumerate(images(6))]
    assert (np.load(tmp_path / "labels.npy") == np.stack(wanted)).mean() >= 0.999


def test_before_any_mask_every_pixel_is_background_and_wrong_input_is_refused(
    graphs: Callable[[str], tuple[Network, Path]], tmp_path: Path
) -> None:
    tracker, image = OnnxTracker(graphs("stcn")[1]), images(1)[0]
    assert not tracker.track(image).any()
    with pytest.raises(ValueError, match=r"expected a frame uint8 \[H, W, 3\], got float64"):
        tracker.track(image / 255)
    with pytest.raises(ValueError, match=r"expected labels of \(64, 100\), the size of the frame, got \(4, 5\)"):
        tracker.track(image, np.ones((4, 5), np.uint8))
    with pytest.raises(ValueError, match="expected labels with ids from 1 to 65535, got \\[\\]"):
        tracker.track(image, np.zeros(SIZE, np.uint8))
    with pytest.raises(ValueError, match=r"expected objects that are followed \(\), got \[3\]"):
        tracker.remove(3)
    (tmp_path / "network.json").write_text('{"format": 2}')
    with pytest.raises(ValueError, match=r"expected a network.json of format 1 in .*, got 2: export it again"):
        OnnxTracker(tmp_path)


def test_networks_without_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a HODOR with joint True, got False"):
        onnx_export.export(tiny.network(joint=False).eval(), tmp_path)
    with pytest.raises(ValueError, match="expected a network in float32 on the CPU, got bfloat16 on cpu: load it so"):
        onnx_export.export(network("stcn").to(torch.bfloat16), tmp_path)
    other = type("Other", (Network,), {})()
    other.backbone = network("stcn").backbone
    with pytest.raises(ValueError, match="expected a network of the kinds XMem, STCN, Cutie, HODOR, got Other"):
        onnx_export.export(other, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_compute_what_torch_computes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = onnx_export._traced
    made = network("stcn")

    def of_another_network(graph: Any) -> bytes:
        for parameter in graph.module.parameters():
            parameter.data.mul_(1.1)
        data = traced(graph)
        for parameter in graph.module.parameters():
            parameter.data.div_(1.1)
        return data

    monkeypatch.setattr(onnx_export, "_traced", of_another_network)
    with pytest.raises(
        ArithmeticError, match=r"expected encode.onnx to compute what torch computes at the size 80x48, got a diff"
    ):
        onnx_export.export(made, tmp_path)


def test_masks_are_resized_to_the_bits_of_torch() -> None:
    """Row 29 of 60 lies exactly between rows 31 and 32 of 64, the outline of both masks."""
    planes = tiny.planes((64, 100)).numpy()
    wanted = torch.nn.functional.interpolate(torch.from_numpy(planes)[None], (60, 94), mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(onnx_memory.resized(planes, (60, 94)), wanted[0].numpy())


def test_maps_are_resized_as_torch_does() -> None:
    random = np.random.default_rng(0)
    maps = random.random((2, 13, 21)).astype(np.float32)
    planes = (random.random((2, 40, 33)) > 0.98).astype(np.float32)
    for size in ((7, 40), (26, 10)):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
        np.testing.assert_allclose(onnx_memory.resized(maps, size), wanted.numpy(), atol=1e-5)
        wanted = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(planes), size)
        np.testing.assert_array_equal(onnx_memory.touched(planes, size), wanted.numpy())


@pytest.mark.parametrize("size", [(480, 854), (1000, 60), (60, 61), (8, 900)])
def test_the_network_sees_frames_of_the_trackers_size(size: tuple[int, int]) -> None:
    tracker = OnnxTracker.__new__(OnnxTracker)
    tracker.size, tracker.about = 96, {"multiple": 16, "pad": "around", "pad_colour": [0, 0, 0]}
    picture, place = tracker._picture(np.zeros((*size, 3), np.uint8))
    assert place.inner == masks.fit_size(size, 96)
    assert picture.shape[2] % 16 == picture.shape[3] % 16 == 0


def test_the_command_writes_the_graphs_and_compares_them_on_a_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.add_backbone(monkeypatch)
    made = network("stcn")
    monkeypatch.setitem(weights.MODELS, "small", weights.Preset(STCN, KINDS["stcn"][1], 60))
    made.name = "small"
    weights.save(made, tmp_path / "small.safetensors")
    (tmp_path / "clip").mkdir()
    for i, image in enumerate(images(4)):
        Image.fromarray(image).save(tmp_path / "clip" / f"{i}.png")
    masks.write_labels(tmp_path / "first.png", given())
    words = [str(tmp_path / "small.safetensors"), "-o", str(tmp_path / "out")]
    check = ["--check", str(tmp_path / "clip"), str(tmp_path / "first.png"), "--frames", "4", "--json", "-"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", *words, *check])
    out, err = capsys.readouterr()
    assert stop.value.code == 0, err
    found = json.loads(out)
    assert len(found["agreement"]) == 3
    assert min(found["agreement"]) >= 0.999
    assert "100.0000% of the pixels of 3 frames have the same label" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "encode.onnx", "network.json", "read.onnx", "remember.onnx", "segment.onnx",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", *words, *check[:3], "--frames", "1"])
    assert stop.value.code == 2
    assert "expected at least 2 frames for the check, got 1: give --frames 20" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["xmem-lite", "hodor-lite"])
def test_bundled_weights_give_the_trackers_labels_on_the_bundled_clip(model: str, tmp_path: Path) -> None:
    made = weights.load(model)
    onnx_export.export(made, tmp_path)
    with open_source(ROOT / "examples" / "cup.mp4") as source:
        labels = masks.read_labels(ROOT / "examples" / "cup.png")
        found = onnx_export.agreement(made, tmp_path, source, labels, frames=40, size=240)
    assert len(found.agreement) == 39
    assert min(found.agreement) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("model", ["stcn", "xmem", "cutie-small", "cutie"])
def test_the_released_networks_have_graphs(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    onnx_export.export(weights.build(model).eval().requires_grad_(False), tmp_path)
    assert len(list(tmp_path.glob("*.onnx"))) == 4


@pytest.mark.slow
def test_the_example_in_python_runs_without_torch(tmp_path: Path) -> None:
    onnx_export.export(weights.load("xmem-lite"), tmp_path / "graphs", check=False)
    example = ROOT / "examples" / "onnx_segment.py"
    words = [
        str(tmp_path / "graphs"),
        str(ROOT / "examples" / "cup.mp4"),
        str(ROOT / "examples" / "cup.png"),
        str(tmp_path / "o"),
    ]
    ran = subprocess.run([sys.executable, str(example), *words], capture_output=True, text=True, check=True)
    assert "30 frames" in ran.stdout
    assert "torch was not imported" in ran.stdout
    tracker = Tracker(weights.load("xmem-lite"), size=256)
    with open_source(ROOT / "examples" / "cup.mp4") as source:
        for frame in source.frames(0, 30):
            labels = masks.read_labels(ROOT / "examples" / "cup.png") if frame.index == 0 else None
            found = np.asarray(Image.open(tmp_path / "o" / f"{frame.index:05d}.png"))
            assert (tracker.track(frame.image, labels) == found).mean() >= 0.999, frame.index


@pytest.mark.slow
def test_the_example_in_javascript_gives_the_same_labels(tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    install = [
        "npm",
        "install",
        "--prefix",
        str(tmp_path),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "onnxruntime-web@1.30",
    ]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("npm cannot install onnxruntime-web@1.30")
    size = (256, 344)
    onnx_export.export(weights.load("xmem-lite"), tmp_path / "graphs", check=False)
    labels = masks.fit_labels(masks.read_labels(ROOT / "examples" / "cup.png"), size).astype(np.uint8)
    folder = tmp_path / "frames"
    folder.mkdir()
    head = f"{size[1]} {size[0]} 255\n".encode()
    (folder / "mask.pgm").write_bytes(b"P5 " + head + labels.tobytes())
    tracker, wanted = Tracker(weights.load("xmem-lite"), size=256), []
    with open_source(ROOT / "examples" / "cup.mp4") as source:
        for frame in source.frames(0, 10):
            image = np.asarray(Image.fromarray(frame.image).resize(size[::-1]))
            (folder / f"{frame.index:05d}.ppm").write_bytes(b"P6 " + head + image.tobytes())
            wanted.append(tracker.track(image, None if wanted else labels))
    shutil.copy(ROOT / "examples" / "onnx_segment.mjs", tmp_path)
    words = [str(tmp_path / name) for name in ("onnx_segment.mjs", "graphs", "frames", "out")]
    ran = subprocess.run(["node", *words], capture_output=True, text=True, check=True)
    assert "10 frames" in ran.stdout
    for i, each in enumerate(wanted):
        data = (tmp_path / "out" / f"{i:05d}.pgm").read_bytes()
        found = np.frombuffer(data[-each.size :], np.uint8).reshape(size)
        assert (found == each).mean() >= 0.999, i
