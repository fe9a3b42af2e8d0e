"""What a tracker accepts as frames, networks and states; everything else is one clear ValueError at the call."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_tracking import SIZE, labels, tracker, video
from torch import Tensor

import hodor
from hodor.models.pictures import to_tensor
from hodor.tracking import Tracker

EXPECTED = "expected a frame as an array [H, W, 3] or a tensor [3, H, W], uint8 or floats in [0, 1], or as a PIL image, got "


def floats(frame: np.ndarray, kind: Any = np.float32) -> np.ndarray:
    return (frame / 255).astype(kind)


ACCEPTED: dict[str, Any] = {
    "an array of floats": floats,
    "an array of float64": lambda frame: floats(frame, np.float64),
    "a tensor of uint8": lambda frame: torch.from_numpy(frame).permute(2, 0, 1),
    "a tensor of floats": lambda frame: torch.from_numpy(floats(frame)).permute(2, 0, 1),
    "a PIL image": Image.fromarray,
    "a PIL image with alpha": lambda frame: Image.fromarray(np.dstack([frame, np.full(SIZE, 7, np.uint8)])),
    "a mirrored array": lambda frame: np.ascontiguousarray(frame[:, ::-1])[:, ::-1],
    "a read-only array": lambda frame: np.frombuffer(frame.tobytes(), np.uint8).reshape(frame.shape),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_a_frame_in_every_form_gives_the_same_labels(kind: str) -> None:
    frames = video(2)
    plain, other = tracker(), tracker()
    plain.track(frames[0], labels(1, 2))
    other.track(ACCEPTED[kind](frames[0]), labels(1, 2))
    np.testing.assert_array_equal(other.track(ACCEPTED[kind](frames[1])), plain.track(frames[1]))


def test_floats_of_half_precision_and_a_little_outside_are_accepted() -> None:
    frame = floats(video(1)[0])
    frame[0, 0], frame[0, 1] = -0.0005, 1.0005  # as after resizing
    assert tracker().track(frame, labels(1, 2)).shape == SIZE
    assert to_tensor(torch.from_numpy(frame).permute(2, 0, 1).half()).dtype == torch.float16
    assert to_tensor(torch.from_numpy(frame).permute(2, 0, 1).bfloat16()).dtype == torch.bfloat16


def test_a_grey_or_palette_image_becomes_rgb() -> None:
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    np.testing.assert_array_equal(to_tensor(grey), torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4).expand(3, 3, 4))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([9, 8, 7, 6, 5, 4])
    np.testing.assert_array_equal(to_tensor(palette)[:, 0], torch.tensor([[9, 6], [8, 5], [7, 4]]))


def nan(frame: np.ndarray) -> np.ndarray:
    frame[3, 4, 1] = np.nan
    return frame


REFUSED: dict[str, tuple[Any, str]] = {
    "grey": (np.zeros(SIZE, np.uint8), "(64, 96): convert it to RGB"),
    "alpha": (np.zeros((*SIZE, 4), np.uint8), "(64, 96, 4): convert it to RGB"),
    "no pixel": (np.zeros((0, 96, 3), np.uint8), "(0, 96, 3): convert it to RGB"),
    "an array with channels first": (np.zeros((3, *SIZE), np.uint8), "(3, 64, 96): give the channels last"),
    "a tensor with channels last": (torch.zeros(*SIZE, 3), "(64, 96, 3): give the channels first"),
    "a batch": (torch.zeros(1, 3, *SIZE), "(1, 3, 64, 96): give one frame at a time"),
    "int64": (np.zeros((*SIZE, 3), np.int64), "int64 (64, 96, 3): convert it to uint8"),
    "uint16": (np.zeros((*SIZE, 3), np.uint16), "uint16 (64, 96, 3): convert it to uint8"),
    "bool": (np.zeros((*SIZE, 3), bool), "bool (64, 96, 3): convert it to uint8"),
    "objects": (np.zeros((*SIZE, 3), object), "object (64, 96, 3): convert it to uint8"),
    "another byte order": (np.zeros((*SIZE, 3), np.dtype(np.float32).newbyteorder()), ">f4 (64, 96, 3): convert it to float32"),
    "a tensor of int32": (torch.zeros(3, *SIZE, dtype=torch.int32), "int32 (3, 64, 96): convert it to uint8"),
    "a list": ([[0, 0, 0]], "list: read the picture first"),
    "a path": (Path("a.png"), "PosixPath: read the picture first"),
    "nothing": (None, "NoneType: read the picture first"),
    "a 16-bit image": (Image.fromarray(np.zeros(SIZE, np.uint16)), "a PIL image of mode I;16: convert it to RGB"),
    "an image of floats": (Image.fromarray(np.zeros(SIZE, np.float32)), "a PIL image of mode F: convert it to RGB"),
    "floats up to 255": (video(1)[0].astype(np.float32), "values from 0 to 255: divide by 255"),
    "a tensor up to 255": (torch.full((3, *SIZE), 255.0), "values from 255 to 255: divide by 255"),
    "normalised floats": (floats(video(1)[0]) - 0.5, "values from -0.5 to 0.5: clamp the values"),
    "floats above 1": (floats(video(1)[0]) * 1.5, "values from 0 to 1.5: clamp the values"),
    "NaN": (nan(floats(video(1)[0])), "NaN: give finite values"),
    "a tensor with NaN": (torch.full((3, *SIZE), torch.nan), "NaN: give finite values"),
    "infinity": (np.full((*SIZE, 3), np.inf, np.float32), "values from inf to inf: give finite values"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_any_other_frame_is_refused_at_the_call_and_changes_nothing(what: str) -> None:
    frame, words = REFUSED[what]
    one = tracker()
    one.track(video(1)[0], labels(1, 2))
    before = one.memory, one.index
    with pytest.raises(ValueError, match=f"^{re.escape(EXPECTED + words)}$"):
        one.track(frame)
    assert (one.memory is before[0], one.index) == (True, before[1])


def test_labels_can_be_a_tensor_or_a_palette_image() -> None:
    frame, given = video(1)[0], labels(1, 2).astype(np.uint8)
    picture = Image.fromarray(given)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    for each in (torch.from_numpy(given), picture):
        np.testing.assert_array_equal(tracker().track(frame, each), given)  # type: ignore[arg-type]


def test_the_check_of_floats_costs_little() -> None:
    """Under 1 % of a frame: a frame of 480x854 takes about 60 ms on two cores, so that 0.6 ms are left. Ten times as many here,
    since other processes run."""
    frame = torch.rand(3, 480, 854)
    to_tensor(frame)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        to_tensor(frame)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.006


# Networks, settings, devices


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("xmem-lite", {}, "expected a network, got 'xmem-lite': load it with hodor.load"),
        (None, {}, "expected a network, got None: load it with hodor.load"),
        (
            torch.nn.Linear(1, 1),
            {},
            "expected a network, got Linear(in_features=1, out_features=1, bias=True): load it with hodor.load",
        ),
        ("tiny", {"history": 0}, "expected history of at least 1 frame, got 0"),
        ("tiny", {"history": 2.5}, "expected history of at least 1 frame, got 2.5"),
        ("tiny", {"size": 0}, "expected a short side of at least 1, got 0"),
        ("tiny", {"size": "480"}, "expected a short side of at least 1, got 480"),
    ],
)
def test_a_tracker_of_something_else_is_refused(network: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Tracker(tiny.network() if network == "tiny" else network, **options)


@pytest.mark.parametrize("device", ["toaster", "cuda:77", ""])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=rf"^device '{device}' cannot be used \(.*\): give auto, cpu, cuda, cuda:1 or mps$"):
        hodor.load("xmem-lite", device=device)


# States


def test_the_state_of_other_weights_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    one, path = tracker(), tmp_path / "state.safetensors"
    one.track(video(1)[0], labels(1, 2))
    one.save(path)
    other = tracker(seed=1)
    before = other.memory
    advice = "load the network that the state was saved with, or start again"
    with pytest.raises(
        ValueError, match=rf"^expected the state of a tracker with HODOR, got .* of HODOR with other weights: {advice}$"
    ):
        other.restore(path)
    assert other.memory is before
    one.network.to(torch.bfloat16)
    half = tracker_of(one.network)
    with pytest.raises(ValueError, match=r"with HODOR in bfloat16, got .* of HODOR in float32: load"):
        half.restore(path)
    half.restore(path, same_precision=False)
    assert half.objects == (1, 2)


def tracker_of(network: Any) -> Tracker:
    return Tracker(network, size=64)


def test_a_state_without_a_hash_of_the_weights_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    one, path = tracker(), tmp_path / "state.safetensors"
    one.track(video(1)[0], labels(1, 2))
    one.save(path, page=3)
    with safe_open(str(path), "pt") as opened:
        tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        about = json.loads(opened.metadata()["tracker"])
    del about["weights"]
    save_file(tensors, path, {"tracker": json.dumps(about)})
    assert tracker(seed=1).restore(path) == {"page": 3}
