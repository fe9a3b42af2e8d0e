"""Training of the network of clicks: views, simulated clicks, the loss, a run, and the benchmark's clicks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_benchmark_scripts import script

from hodor.data.sampling import generator
from hodor.data.stills import Still
from hodor.masks import write_labels
from hodor.models import weights
from hodor.models.clicks import ClickNetwork, Prompts, load_clicks, load_trunk, save_clicks
from hodor.train_clicks import main, rate
from hodor.training import clicks
from hodor.training.checkpoints import alone
from hodor.training.clicks import (
    Sample,
    boxes_of,
    copies_of,
    depth,
    draw_view,
    fingerprint,
    first_prompts,
    hard_iou,
    hold_out,
    mask_loss,
    next_clicks,
    next_prompts,
    open_roots,
    pick_window,
    roughened,
    touching,
)

SMALL = ["--widths", "8", "16", "24", "32", "--layers", "1", "--heads", "2"]


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    """Eight pictures of 96x128 with a red disc and a green square on grey noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :128]
    for n in range(8):
        picture = rng.integers(90, 130, (96, 128, 3), np.uint8)
        labels = np.zeros((96, 128), np.uint8)
        labels[(x - 30 - 3 * n) ** 2 + (y - 40 - n) ** 2 < 20**2] = 1
        labels[20 + 4 * n : 50 + 4 * n, 90:120] = 2
        picture[labels == 1], picture[labels == 2] = (200, 30, 20), (30, 180, 40)
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "set" / "images" / f"{n}.png")
        write_labels(tmp_path / "set" / "masks" / f"{n}.png", labels)
    return tmp_path / "set"


def square(size: int = 64, low: int = 16, high: int = 48) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., low:high, low:high] = 1
    return mask


def test_depth_counts_cells_to_the_nearest_zero_and_to_the_border() -> None:
    plane = torch.ones(1, 5, 7)
    assert depth(plane)[0, 2].tolist() == [1, 2, 3, 3, 3, 2, 1]
    plane[0, 2, 3] = 0
    assert depth(plane)[0, 2].tolist() == [1, 2, 1, 0, 1, 2, 1]


def test_the_first_click_is_deep_inside_the_object() -> None:
    for seed in range(20):
        points, labels = next_clicks(square(), None, generator(seed))
        assert labels.tolist() == [1]
        assert (points > 16 + 4).all()
        assert (points < 48 - 4).all()


def test_the_next_click_is_in_the_deepest_error_with_its_label() -> None:
    masks = square()
    too_large = torch.zeros(1, 1, 32, 32)
    too_large[..., 8:24, 8:32] = 1  # the right half of what was found is wrong; it lies at columns 48 to 64
    points, labels = next_clicks(masks, too_large, generator(0))
    assert labels.tolist() == [0]
    assert 48 < float(points[0, 0]) < 64
    too_small = torch.zeros(1, 1, 32, 32)
    too_small[..., 8:24, 8:12] = 1
    points, labels = next_clicks(masks, too_small, generator(0))
    assert labels.tolist() == [1]
    assert 24 < float(points[0, 0]) < 48
    assert next_clicks(masks, masks, generator(0))[1].tolist() == [-1], "nothing is wrong"


def test_windows_show_the_object_at_many_scales() -> None:
    labels = np.zeros((300, 400), np.uint8)
    labels[100:140, 200:260] = 5
    sides = []
    for seed in range(60):
        left, top, right, bottom = pick_window(labels, 5, 1.25, generator(seed))
        assert 0 <= left <= 200
        assert 260 <= right <= 400
        assert 0 <= top <= 100
        assert 140 <= bottom <= 300
        assert (right - left) / (bottom - top) == pytest.approx(1.25, abs=0.05)
        sides.append(bottom - top)
    assert min(sides) < 80
    assert max(sides) == 300


def test_objects_that_touch_are_found_and_joined(stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 10:20], labels[10:30, 22:32], labels[10:30, 40:50], labels[0:5, 30:40] = 1, 2, 3, 255
    assert touching(labels, 1) == [2]
    assert touching(labels, 2) == [1]
    assert touching(labels, 3) == []
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    still = Still("a", tmp_path / "a.png", tmp_path / "a.png", lambda: labels)

    def widest(share: float) -> float:
        monkeypatch.setattr(clicks, "JOINED", share)
        views = [draw_view(still, (64, 96), 1, generator(seed)) for seed in range(30)]
        sides = [masks[0].any(0).sum() / masks[0].any(1).sum() for _, masks, _ in filter(None, views)]
        return float(max(sides))

    assert widest(1.0) > 1.5 * widest(0.0)


def test_a_view_shows_picture_and_masks_of_one_window(stills: Path) -> None:
    [[still, *_]] = open_roots([stills])
    for seed in range(6):
        found = draw_view(still, (64, 96), 2, generator(seed))
        assert found is not None
        picture, masks, known = found
        assert picture.shape == (3, 64, 96)
        assert known.min() == 1
        for mask in masks:
            coloured = (picture[0] - picture[1]).abs() > 0.15
            assert coloured[mask > 0].float().mean() > 0.9, "the mask is where the colours are"


def test_boxes_are_those_of_the_masks() -> None:
    assert boxes_of(square(), generator(0), jitter=0).tolist() == [[16, 16, 48, 48]]
    moved = boxes_of(square(), generator(0))
    assert 0 < (moved - torch.tensor([[16.0, 16, 48, 48]])).abs().max() <= 0.08 * 32


def test_prompts_of_all_kinds_occur_and_the_next_round_adds_a_click() -> None:
    sample = Sample(
        torch.rand(1, 3, 64, 64), torch.zeros(40, dtype=torch.long), square().repeat(40, 1, 1, 1), torch.ones(40, 1, 64, 64)
    )
    prompts = first_prompts(sample, generator(0))
    boxed = prompts.boxes_B4.any(1)
    clicked = (prompts.labels_BK >= 0).sum(1)
    rough = prompts.previous_B1HW.flatten(1).any(1)
    assert (boxed & (clicked == 0)).any()
    assert (boxed & (clicked == 1)).any()
    assert (rough & ~boxed).any()
    assert (clicked == 2).any()
    assert (boxed | rough | (clicked > 0)).all(), "every object has a prompt"
    network = ClickNetwork(load_trunk(), widths=[8, 16, 24, 32], layers=1, heads=2)
    view = network.view(sample.pictures_BCHW).rows(sample.rows_N)
    again = next_prompts(sample, prompts, network(view, prompts), generator(1))
    assert again.points_BK2.shape == (40, 3, 2)
    assert 20 < int((again.labels_BK[:, 2] >= 0).sum()) < 40


def test_a_rough_mask_has_errors_but_is_of_the_object() -> None:
    mask = square()[0, 0]
    for seed in range(10):
        rough = roughened(mask, generator(seed))
        assert set(rough.unique().tolist()) <= {0.0, 1.0}
        assert (rough != mask).any()
        assert (rough * mask).sum() > 0.2 * mask.sum()


def test_the_loss_is_small_for_the_mask_and_ignores_void_pixels() -> None:
    mask = square()
    known = torch.ones_like(mask)
    assert float(mask_loss(20 * (2 * mask - 1), mask, known)) < 1e-3
    wrong = 20 * (2 * mask - 1)
    wrong[..., :8, :] = 20
    assert float(mask_loss(wrong, mask, known)) > 0.5
    known[..., :8, :] = 0
    assert float(mask_loss(wrong, mask, known)) < 1e-3
    assert hard_iou(wrong, mask, known).tolist() == [1.0]


def test_held_out_objects_are_the_same_each_time_and_their_images_are_not_trained_on(stills: Path, tmp_path: Path) -> None:
    [found] = open_roots([stills])
    held = hold_out(found, 3, min_area=100)
    assert held == hold_out(found, 3, min_area=100)
    assert len({each.image for each in held}) == 3
    assert hold_out(found, 3, min_area=10**6) == []
    Image.open(found[0].image).resize((256, 192)).save(tmp_path / "copy.png")
    prints = [fingerprint(still.image) for still in found]
    assert copies_of([fingerprint(tmp_path / "copy.png")], [prints[0], prints[0] ^ 0b11111 << 20]) == [True, False]


def test_a_run_lowers_the_loss_resumes_and_writes_weights(
    stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clicks, "SHAPES", ((64, 96),) * 4)
    run = [str(stills), "--pictures", "2", "--held-out", "2", "--lr", "2e-3", "--warmup", "2", *SMALL]
    assert main([*run, "--out", str(tmp_path / "run"), "--steps", "40", "--save-every", "20"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert len(split["held_out"]) == 2
    network = load_clicks(tmp_path / "run" / "clicks.safetensors")
    assert network.settings == {"widths": [8, 16, 24, 32], "layers": 1, "heads": 2}
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert last["step"] == 40
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 50, "loss": 1}\n')  # of a run that was killed after its last checkpoint
    assert main([*run, "--out", str(tmp_path / "run"), "--steps", "41"]) == 0
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 41
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [10, 20, 30, 40, 41], "the second command continues"
    recipe = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["recipe"]
    assert (recipe["roots"], recipe["lr"], recipe["out"]) == (["set"], 0.002, "run"), "plain values, names instead of paths"


def test_a_folder_with_another_run_or_a_damaged_one_is_refused(
    stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clicks, "SHAPES", ((64, 96),) * 4)
    run = [str(stills), "--pictures", "1", "--held-out", "1", "--steps", "1", *SMALL, "--out", str(tmp_path / "run")]
    assert main(run) == 0
    with alone(tmp_path / "run"):
        assert main(run) == 2
    assert "another run is writing to" in capsys.readouterr().err
    assert main([*run, "--lr", "1e-3"]) == 2
    assert "holds a run with other options: lr was 0.0008, now 0.001: choose another --out" in capsys.readouterr().err
    (tmp_path / "run" / "last.pt").write_bytes(b"damaged")
    assert main(run) == 2
    error = capsys.readouterr().err
    assert "last.pt cannot be read as a checkpoint" in error
    assert error.endswith("remove it to start again, or replace it\n")


def test_a_gradient_that_is_not_finite_stops_the_run(
    stills: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clicks, "SHAPES", ((64, 96),) * 4)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    assert main([str(stills), "--held-out", "1", "--steps", "1", *SMALL, "--out", str(tmp_path / "run")]) == 2
    assert "expected a finite loss and gradient, got" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_command_refuses_wrong_shares(stills: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(stills), "--out", str(tmp_path), "--share", "1", "2"]) == 2
    assert "expected a --share for each of 1 folders, got 2" in capsys.readouterr().err


def test_the_rate_rises_and_falls() -> None:
    assert rate(0, 100, 1.0, 10) == pytest.approx(0.1)
    assert rate(10, 100, 1.0, 10) == pytest.approx(1.0)
    assert rate(99, 100, 1.0, 10) < 0.02


def test_files_of_clicks_are_read_back_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    network = ClickNetwork(load_trunk(), widths=[8, 16, 24, 32], layers=1, heads=2).eval()
    save_clicks(network, tmp_path / "a.safetensors")
    read = load_clicks(tmp_path / "a.safetensors")
    prompts = Prompts(torch.tensor([[[20.0, 20.0]]]), torch.tensor([[1]]), torch.zeros(1, 4), torch.zeros(1, 1, 16, 16))
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, second = (each(each.view(picture), prompts).logits_B1HW for each in (network, read))
    assert float((first - second).abs().max()) < 0.02, "half precision"
    with pytest.raises(ValueError, match=r"expected weights of clicks, got .*, which has those of hodor-lite"):
        load_clicks(Path(clicks.__file__).parents[1] / "weights" / "hodor-lite.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_clicks(tmp_path / "none.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_clicks(tmp_path / "b.safetensors")
    network.settings["layers"] = 2
    save_clicks(network, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the network: missing layers\.1"):
        load_clicks(tmp_path / "c.safetensors")
    network.settings["layers"] = 10**6
    save_clicks(network, tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="contains a network that this version cannot build"):
        load_clicks(tmp_path / "c.safetensors")
    network.settings["layers"] = 1
    torch.nn.init.constant_(network.head4.weight, float("nan"))
    save_clicks(network, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="expected finite weights"):
        load_clicks(tmp_path / "d.safetensors")


def test_a_trunk_must_be_an_efficientnet_up_to_stride_32(tmp_path: Path) -> None:
    weights.save(weights.build("stcn-lite"), tmp_path / "stcn.safetensors", half=True)
    with pytest.raises(ValueError, match="expected weights with an EfficientNet-Lite up to stride 32, got"):
        load_trunk(tmp_path / "stcn.safetensors")


def test_the_benchmark_clicks_the_middle_of_the_largest_error() -> None:
    benchmark = script("clicks")
    mask = np.zeros((60, 80), bool)
    mask[10:41, 20:61] = True
    point, label = benchmark.next_click(mask, np.zeros_like(mask))
    assert label == 1
    assert point[1] == 25
    assert 35 <= point[0] <= 45
    found = mask.copy()
    found[10:41, 20:24] = False  # 124 pixels are missing
    found[45:60, 60:80] = True  # 300 are too many, at the border of the frame
    point, label = benchmark.next_click(mask, found)
    assert label == 0
    assert point[1] == 52
    assert benchmark.next_click(mask, mask) is None
    assert benchmark.box_of(mask) == (20, 10, 61, 41)
