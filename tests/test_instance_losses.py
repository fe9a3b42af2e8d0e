"""The losses of a finder are those of the released code, or repaired; what they train is what clustering finds.

Expected values: tests/golden/stemseg.npz, made by the original at commit e1ab59d (tests/golden/README.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import stemseg
import torch
import torch.nn.functional as F
from golden_rules import RECTANGLES
from torch import Tensor

from hodor.discovery.clustering import Clustering, find
from hodor.models import released
from hodor.models.finder import Maps
from hodor.models.mixing import coordinates
from hodor.training.instance_losses import FinderLosses, Targets, clip_loss, lovasz_hinge, soft_mask, targets_of

YES = torch.ones(1, 3, dtype=torch.bool)


def maps_of(map_BXTHW: Tensor) -> Maps:
    return Maps(map_BXTHW[:, :4], map_BXTHW[:, 4:6], map_BXTHW[:, 6])


def golden_case(name: str) -> tuple[Tensor, Targets]:
    """The stored map and the targets of a case L of the golden numbers."""
    numbers = stemseg.numbers()
    maps = torch.from_numpy(numbers["L_map"])
    masks, ignore = torch.from_numpy(numbers["L_masks"]).bool()[None], torch.from_numpy(numbers["L_ignore"]).bool()[None]
    if name == "two":
        second = torch.stack([masks[0, 0].flip(-1), masks[0, 1].flip(-1), torch.zeros_like(masks[0, 0])])
        both = torch.cat([masks, second[None]])
        known = torch.tensor([[True, True, True], [True, True, False]])
        return maps, Targets(both, known, torch.cat([ignore, torch.zeros_like(ignore)]))
    if name == "dropped":
        return maps[:1], Targets(masks[:, [0, 2]], YES[:, :2], ignore)
    if name in ("gap", "none"):
        masks = masks.clone()
        masks[:, 1 if name == "gap" else slice(None)] = False
    return maps[:1], Targets(masks, YES, ignore)


def losses(maps: Tensor, targets: Targets, released: bool) -> tuple[list[float], Tensor]:
    maps = maps.clone().requires_grad_()
    found = clip_loss(maps_of(maps), targets, released=released)
    found.total.backward()
    found = FinderLosses(*(each.detach() for each in vars(found).values()))
    assert maps.grad is not None
    assert float(found.classes) == float(found.foreground) == 0
    return [float(x) for x in (found.lovasz, found.smoothness, found.seediness, found.total)], maps.grad


@pytest.mark.parametrize("name", ["one", "two", "gap", "dropped", "none"])
def test_released_losses_and_gradients(name: str) -> None:
    values, grad = losses(*golden_case(name), released=True)
    np.testing.assert_allclose(values, stemseg.numbers()[f"L_{name}"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grad, stemseg.numbers()[f"L_{name}_grad"], atol=1e-7)


def test_soft_mask_of_an_object() -> None:
    maps, targets = golden_case("one")
    soft = soft_mask(maps[0, :4].flatten(1), maps[0, 4:6].flatten(1), targets.masks_BNTHW[0, 0].flatten())
    stemseg.close(soft.view(4, 12, 16), "L_prob_first", 1e-6)


@pytest.mark.parametrize("name", ["one", "dropped"])
def test_the_repaired_loss_is_the_released_one_where_nothing_is_wrong(name: str) -> None:
    ours, grad = losses(*golden_case(name), released=False)
    np.testing.assert_allclose(ours, stemseg.numbers()[f"L_{name}"], rtol=1e-5)
    np.testing.assert_allclose(grad, stemseg.numbers()[f"L_{name}_grad"], atol=1e-7)


def test_an_object_without_pixels_changes_nothing() -> None:
    ours, grad = losses(*golden_case("gap"), released=False)
    np.testing.assert_allclose(ours, stemseg.numbers()["L_dropped"], rtol=1e-5)
    np.testing.assert_allclose(grad, stemseg.numbers()["L_dropped_grad"], atol=1e-7)


def test_a_batch_is_the_mean_of_its_clips() -> None:
    maps, targets = golden_case("two")
    batch, grad = losses(maps, targets, released=False)
    alone = [
        losses(
            maps[b : b + 1],
            Targets(targets.masks_BNTHW[b : b + 1], targets.known_BN[b : b + 1], targets.ignore_BTHW[b : b + 1]),
            released=False,
        )
        for b in range(2)
    ]
    np.testing.assert_allclose(batch, np.mean([values for values, _ in alone], 0), rtol=1e-5)
    torch.testing.assert_close(grad, torch.cat([g for _, g in alone]) / 2)


def test_a_clip_without_objects_trains_its_background() -> None:
    maps, targets = golden_case("none")
    values, grad = losses(maps, targets, released=False)
    counted = ~targets.ignore_BTHW
    assert values[:2] == [0, 0]
    assert values[2] == pytest.approx(float((maps[:, 6].square() * counted).mean()), rel=1e-5)
    assert (grad[:, 6][counted].sign() == maps[:, 6][counted].sign()).all()
    assert not grad[:, :6].any()


def test_lovasz_hinge_of_certain_predictions_is_twice_the_jaccard_loss() -> None:
    mask, predicted = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    mask[10:40], predicted[20:60] = True, True
    assert float(lovasz_hinge(2 * predicted.float() - 1, mask)) == pytest.approx(2 * (1 - 20 / 50))
    assert float(lovasz_hinge(2 * mask.float() - 1, mask)) == 0
    assert float(lovasz_hinge(torch.randn(100), torch.zeros(100, dtype=torch.bool))) == 0


# ---- targets


def golden_masks() -> tuple[Tensor, Tensor]:
    """Masks [1, 3, 8, 96, 160] and ignored pixels of the golden training step: 1 over 2 over 3, 3 from frame 3 on."""
    masks = torch.zeros(1, 3, 8, 96, 160, dtype=torch.bool)
    for t in range(8):
        covered = torch.zeros(96, 160, dtype=torch.bool)
        for i, (y0, y1, x0, x1) in RECTANGLES.items():
            if i == 3 and t < 3:
                continue
            plane = torch.zeros(96, 160, dtype=torch.bool)
            plane[y0:y1, x0:x1] = True
            plane = plane.roll((t, 2 * t), (0, 1))
            masks[0, i - 1, t] = plane & ~covered
            covered |= plane
    ignore = torch.zeros(1, 8, 96, 160, dtype=torch.bool)
    ignore[:, :, :11, :50] = True
    ignore[:, 4:, 88:, 30:90] = True
    return masks, ignore


def test_released_targets() -> None:
    targets = targets_of(*golden_masks(), released=True)
    assert (targets.masks_BNTHW[0].numpy() == stemseg.numbers()["train_masks_s4"].astype(bool)).all()
    assert (targets.ignore_BTHW[0].numpy() == stemseg.numbers()["train_ignore_s4"].astype(bool)).all()
    assert targets.known_BN.all()


def test_targets_by_half_are_nearer_to_the_masks_than_truncated_ones() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    places = [(28 + dy, 28 + dx) for dy in range(4) for dx in range(4)]
    discs = torch.stack([(y - cy) ** 2 + (x - cx) ** 2 < 7**2 for cy, cx in places])[None, :, None]
    iou = {}
    for name, flag in (("ours", False), ("released", True)):
        cells = targets_of(discs, torch.zeros(1, 1, 64, 64), released=flag).masks_BNTHW[0]
        large = F.interpolate(cells.float(), scale_factor=4.0, mode="bilinear") > 0.5
        iou[name] = float(((large & discs[0]).sum((1, 2, 3)) / (large | discs[0]).sum((1, 2, 3))).mean())
    assert iou["ours"] == pytest.approx(0.759, abs=1e-3)
    assert iou["released"] == pytest.approx(0.735, abs=1e-3)


def test_ignored_pixels_count_for_no_class() -> None:
    masks, ignore = golden_masks()
    targets = targets_of(masks, ignore, classes_BN=torch.tensor([[1, 2, 1]]))
    torch.manual_seed(0)
    semantics = torch.randn(1, 4, 8, 24, 40, requires_grad=True)
    shape = (1, 8, 24, 40)
    maps = Maps(torch.zeros(1, 4, *shape[1:]), torch.zeros(1, 2, *shape[1:]), torch.zeros(shape), semantics)
    for flag in (False, True):
        found = clip_loss(maps, targets, released=flag)
        (grad,) = torch.autograd.grad(found.classes, semantics)
        inside = grad.abs().sum(1)[targets.ignore_BTHW]
        assert bool(inside.any()) is flag
        (grad,) = torch.autograd.grad(found.foreground, semantics)
        assert not grad.abs().sum(1)[targets.ignore_BTHW].any()
    assert (targets.masks_BNTHW[0] * targets.classes_BN[0, :, None, None, None]).amax(0).max() == 2  # type: ignore[index]


# ---- the training step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix", "classes"), [("davis", "", None), ("ytvis", "Y_", (3, 7, 3)), ("kitti", "M_", (1, 2, 1))]
)
def test_a_training_step_has_the_golden_losses_and_gradient_norms(
    name: str, prefix: str, classes: tuple[int, ...] | None
) -> None:
    numbers, network = stemseg.numbers(), stemseg.network(name)
    network.zero_grad()
    classes_BN = None if classes is None else torch.tensor([classes])
    targets = targets_of(*golden_masks(), classes_BN=classes_BN, released=True)
    found = clip_loss(network.read(network.encode(stemseg.pictures()[:8]).split(8)), targets, released=True)
    found.total.backward()
    embedding = found.lovasz + 10 * found.smoothness + found.seediness
    ours = {
        "embedding_loss": embedding,
        "lovasz_loss": found.lovasz,
        "variance_smoothness_loss": found.smoothness,
        "seediness_loss": found.seediness,
        "semantic_segmentation_loss": found.classes,
        "foreground": found.foreground,
        "total": found.total,
    }
    for key, value in zip(numbers[f"{prefix}train_loss_names"], numbers[f"{prefix}train_losses"], strict=True):
        assert float(ours[str(key)].detach()) == pytest.approx(float(value), rel=1e-5), key
    parameters = dict(network.named_parameters())
    for key, norm in zip(numbers[f"{prefix}train_grad_names"], numbers[f"{prefix}train_grad_norms"], strict=True):
        (own,) = released.rename({str(key): torch.zeros(0)}, released.rules(network.name))
        grad = parameters[own].grad
        assert grad is not None
        assert float(grad.norm()) == pytest.approx(float(norm), rel=1e-3), key
    network.zero_grad()


def trained_maps(masks: Tensor, steps: int = 22) -> tuple[Maps, FinderLosses]:
    """Maps that were trained by themselves, as if a network could compute any, on masks [1, N, T, H, W]."""
    shape = masks.shape[2:]
    torch.manual_seed(0)
    raw = (0.05 * torch.randn(1, 7, *shape)).requires_grad_()
    optimiser = torch.optim.Adam([raw], 0.05)
    targets = Targets(masks, torch.ones(masks.shape[:2], dtype=torch.bool), torch.zeros(1, *shape, dtype=torch.bool))
    offsets = coordinates("xyff", *shape)
    for _ in range(steps):
        maps = Maps((raw[:, :4] / 4).tanh() + offsets, raw[:, 4:6], raw[:, 6].sigmoid())
        found = clip_loss(maps, targets)
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
    return Maps(*(each.detach() for each in (maps.embeddings_BETHW, maps.spreads_BVTHW, maps.seediness_BTHW))), found


def test_what_the_loss_trains_is_found_and_better_by_the_probability_of_training() -> None:
    masks = torch.zeros(1, 3, 2, 16, 24, dtype=torch.bool)
    masks[0, 0, :, 2:9, 2:10] = True
    masks[0, 1, :, 2:9, 10:18] = True  # a twin that touches it
    masks[0, 2, :, 10:15, 4:20] = True
    maps, found = trained_maps(masks)
    assert float(found.lovasz.detach()) < 0.3
    foreground = maps.seediness_BTHW[0] > 0.25
    mean = {}
    for name, options in (("ours", Clustering()), ("released", Clustering(released=True))):
        options = replace(options, min_seediness=0.4)  # after so few steps
        labels = find(maps, foreground, options).labels_THW
        planes = [labels == i for i in labels.unique() if i > 0]
        ious = [max(float((p & m).sum() / (p | m).sum()) for p in planes) for m in masks[0]]
        mean[name] = sum(ious) / 3
    assert mean["ours"] > 0.98
    assert mean["released"] < 0.96


def test_wrong_targets_are_refused() -> None:
    maps, targets = golden_case("one")
    with pytest.raises(ValueError, match=r"expected masks \[1, \.\.\., 4, 12, 16\], got \[1, 3, 4, 12, 15\]"):
        clip_loss(maps_of(maps), Targets(targets.masks_BNTHW[..., :15], YES, targets.ignore_BTHW[..., :15]))
    with pytest.raises(ValueError, match=r"expected known_BN \[1, 3\], got \[1, 2\]"):
        Targets(targets.masks_BNTHW, YES[:, :2], targets.ignore_BTHW)
    with pytest.raises(ValueError, match=r"expected ignore_BTHW \[1, 4, 12, 16\], got \[1, 4, 12, 15\]"):
        Targets(targets.masks_BNTHW, YES, targets.ignore_BTHW[..., :15])
    with pytest.raises(ValueError, match="expected masks of padded frames, sides that divide by 4, got 90x150"):
        targets_of(torch.zeros(1, 1, 1, 90, 150), torch.zeros(1, 1, 90, 150))
    semantic = Maps(maps[:, :4], maps[:, 4:6], maps[:, 6], torch.zeros(1, 4, 4, 12, 16))
    with pytest.raises(ValueError, match="expected classes of the objects, got none: the network has a semantic head"):
        clip_loss(semantic, targets)
