"""The values that networks pass around: features, predictions, entries, memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hodor.data.clip import Clip
from hodor.models import base
from hodor.models.base import Entry, Memory, pad_to_multiple
from hodor.models.prediction import UNKNOWN, Features, Prediction, dense_labels, sparse_labels


def entry(seed: int, count: int, valid: str = "", given: str = "") -> Entry:
    """Descriptors of `count` objects; valid and given name planes, as "02" for planes 0 and 2 ("" is all, "-" is none)."""
    generator = torch.Generator().manual_seed(seed)

    def flags(which: str) -> Tensor:
        return torch.tensor([[which == "" or str(i) in which for i in range(count)]], dtype=torch.bool).view(1, count)

    rows = torch.randn(1, count, 4, generator=generator)
    background = torch.randn(1, 9, 4, generator=generator)
    return Entry(rows, {"background": background}, flags(valid), flags(given), torch.ones(1, dtype=torch.bool))


def test_only_selects_frames_in_that_order() -> None:
    memory = Memory((1,)).add(0, entry(0, 1)).add(1, entry(1, 1)).add(2, entry(2, 1))
    assert list(memory.only([2, 0]).frames) == [2, 0]
    assert memory.only([2, 0]).frames[2] is memory.frames[2]
    assert list(memory.frames) == [0, 1, 2]


def test_adding_leaves_the_old_memory_as_it_was() -> None:
    old = Memory((1,)).add(0, entry(0, 1))
    new = old.add(1, entry(1, 1)).add(0, entry(5, 1))
    assert list(old.frames) == [0]
    assert list(new.frames) == [0, 1]
    assert not torch.equal(old.frames[0].per_object, new.frames[0].per_object)
    with pytest.raises(AttributeError):
        old.objects = (2,)  # type: ignore[misc]


def test_new_objects_are_not_valid_missing_ones_forgotten_and_order_is_free() -> None:
    old = Memory((7, 300, 4)).add(0, entry(0, 3, given="01")).add(1, entry(1, 3, valid="12", given="-"))
    before = {i: (e.per_object.clone(), e.valid_BN.clone()) for i, e in old.frames.items()}
    new = old.with_objects([4, 9, 7])
    assert new.objects == (4, 9, 7)
    for index, e in new.frames.items():
        assert torch.equal(e.per_object[:, [0, 2]], old.frames[index].per_object[:, [2, 0]])
        assert e.shared is old.frames[index].shared
    assert new.frames[0].valid_BN.tolist() == [[True, False, True]]
    assert new.frames[0].given_BN.tolist() == [[False, False, True]]
    assert new.frames[1].valid_BN.tolist() == [[True, False, False]]
    for index, (rows, known) in before.items():
        assert torch.equal(old.frames[index].per_object, rows)
        assert torch.equal(old.frames[index].valid_BN, known)


def test_objects_can_all_go_and_others_come() -> None:
    empty = Memory((1, 2)).add(0, entry(0, 2)).with_objects([])
    assert empty.frames[0].per_object.shape == (1, 0, 4)
    again = empty.with_objects([5, 6])
    assert again.frames[0].per_object.shape == (1, 2, 4)
    assert not again.frames[0].valid_BN.any()
    assert again.frames[0].valid_BN.dtype == torch.bool


@settings(max_examples=40, deadline=None)
@given(st.permutations([7, 300, 4, 12]), st.integers(0, 4))
def test_shuffling_and_shuffling_back_is_identity(order: list[int], count: int) -> None:
    objects = (7, 300, 4, 12)[:count]
    memory = Memory(objects).add(3, entry(0, count, valid="13", given="1"))
    shuffled = memory.with_objects([i for i in order if i in objects])
    back = shuffled.with_objects(objects).frames[3]
    for name in ("per_object", "valid_BN", "given_BN"):
        assert torch.equal(getattr(back, name), getattr(memory.frames[3], name))


def test_detaching_cuts_what_carries_gradient() -> None:
    e = entry(0, 2)
    shared = {name: each.requires_grad_() for name, each in e.shared.items()}
    live = Entry(e.per_object.requires_grad_(), shared, e.valid_BN, e.given_BN, e.complete_B)
    assert not any(each.requires_grad for each in live.detach().tensors().values())


def test_a_network_changes_no_memory_in_place() -> None:
    network = tiny.network().eval()
    features = network.encode(tiny.pictures(2)).split(2)
    known = torch.ones(1, 2, dtype=torch.bool)
    first = network.remember(Memory((1, 2)), 0, features[0], tiny.planes()[None], known, known)
    copies = {name: t.clone() for name, t in first.frames[0].tensors().items()}
    prediction, after = network.segment(first, features[1])
    second = network.remember(after, 1, features[1], prediction.soft(), known, ~known)
    network.keep(second, 1, False)
    assert list(first.frames) == [0]
    for name, copy in copies.items():
        assert torch.equal(first.frames[0].tensors()[name], copy), name


def features(size: tuple[int, int], padded: tuple[int, int]) -> Features:
    return Features({"map": torch.zeros(1, 1, 1, 1)}, size, padded)


def test_masks_that_belong_to_another_frame_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected masks of 480x854 pixels, the size of the frame, got 60x80$"):
        features((480, 854), (480, 864)).fit(torch.zeros(1, 1, 60, 80), (60, 108))


def test_fitting_to_stride_8_is_the_mean_of_the_four_central_pixels() -> None:
    masks = torch.rand(1, 2, 64, 96)
    blocks = masks.unflatten(2, (8, 8)).unflatten(4, (12, 8))
    expected = blocks[:, :, :, 3:5, :, 3:5].mean((3, 5))
    torch.testing.assert_close(features((64, 96), (64, 96)).fit(masks, (8, 12)), expected)


def test_fitting_pads_a_frame_with_zeros_and_takes_the_networks_own_size_as_it_is() -> None:
    frame = features((50, 70), (64, 96))
    padded = frame.fit(torch.ones(1, 1, 50, 70), (64, 96))
    assert padded.sum() == 50 * 70
    assert padded[..., :50, :70].all()
    own = torch.rand(1, 1, 16, 24)
    assert frame.fit(own, (16, 24)) is own
    torch.testing.assert_close(frame.fit(own, (8, 12)), F.avg_pool2d(own, 2))


def test_split_features_are_those_of_each_frame() -> None:
    network = tiny.network().eval()
    pictures = tiny.pictures(4)
    both = network.encode(pictures).split(2)
    for part, images in zip(both, (pictures[:2], pictures[2:]), strict=True):
        for name, alone in network.encode(images).maps.items():
            torch.testing.assert_close(part.maps[name], alone, rtol=1e-4, atol=1e-4)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 7, 32]))
def test_pad_then_crop_is_identity(height: int, width: int, multiple: int) -> None:
    x = torch.rand(1, 1, height, width)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    assert max(padded.shape[2] - height, padded.shape[3] - width) < multiple
    assert torch.equal(padded[..., :height, :width], x)
    assert padded.sum() == pytest.approx(float(x.sum()), rel=1e-5)


def enlarged(prediction: Prediction, size: tuple[int, int]) -> Tensor:
    """Every channel sampled bilinearly at the centres of the pixels of `size`, laid over the frame without its padding."""
    y, x = (
        2 * (torch.arange(size[axis], dtype=torch.float64) + 0.5) / size[axis] * prediction.size[axis] / prediction.padded[axis]
        - 1
        for axis in (0, 1)
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
    logits = prediction.logits_BKHW.double()
    return F.grid_sample(logits, grid.expand(len(logits), -1, -1, -1), padding_mode="border", align_corners=False)


def test_the_reference_is_pytorchs_enlargement_by_four() -> None:
    prediction = smooth(0, 4, (64, 96), (50, 70), 2)
    four = F.interpolate(prediction.logits_BKHW.double(), scale_factor=4, mode="bilinear")[..., :50, :70]
    torch.testing.assert_close(enlarged(prediction, (50, 70)), four)


def smooth(seed: int, channels: int, padded: tuple[int, int], size: tuple[int, int], backgrounds: int) -> Prediction:
    """Random logits; objects that are strong in one place and weak elsewhere, some of them weak everywhere."""
    generator = torch.Generator().manual_seed(seed)
    h, w = padded[0] // 4, padded[1] // 4
    logits = torch.randn(2, channels, h, w, generator=generator)
    for clip in range(2):
        for channel in range(backgrounds, channels):
            y, x = (int(torch.randint(n, (), generator=generator)) for n in (h, w))
            logits[clip, channel] -= 3
            logits[clip, channel, y : y + 4, x : x + 6] += 6 * float(torch.rand((), generator=generator))
    return Prediction(logits, backgrounds, size, padded)


def check_labels(prediction: Prediction, size: tuple[int, int]) -> None:
    full = enlarged(prediction, size)
    assert full.shape[-2:] == size
    expected = (full.argmax(1) - prediction.backgrounds + 1).clamp(min=0)
    merged = torch.cat([full[:, : prediction.backgrounds].amax(1, keepdim=True), full[:, prediction.backgrounds :]], 1)
    two = merged.topk(min(2, merged.shape[1]), 1)[0]
    clear = (two[:, 0] - two[:, -1] > 1e-4) if merged.shape[1] > 1 else torch.ones_like(expected, dtype=torch.bool)
    assert float(clear.float().mean()) > 0.98
    for mine in (prediction.labels(size), dense_labels(prediction, size)):
        assert mine.shape == (2, *size)
        assert mine.dtype == torch.int32
        assert torch.equal(mine[clear].long(), expected[clear])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(0, 31), st.integers(0, 31),
    st.integers(1, 150), st.integers(1, 150), st.integers(1, 11), st.integers(0, 5), st.integers(0, 2**16),
)  # fmt: skip
def test_labels_are_the_argmax_of_exactly_enlarged_logits(
    rows: int, columns: int, less_y: int, less_x: int, height: int, width: int, backgrounds: int, objects: int, seed: int
) -> None:
    padded = rows * 32, columns * 32
    own = padded[0] - less_y, padded[1] - less_x
    check_labels(smooth(seed, backgrounds + objects, padded, own, backgrounds), (height, width))


@pytest.mark.parametrize("offset", [(0, 0), (7, 13)])
@pytest.mark.parametrize("size", [(50, 70), (100, 141), (13, 17)])
def test_sparse_labels_are_dense_labels_except_for_ties(size: tuple[int, int], offset: tuple[int, int]) -> None:
    prediction = replace(smooth(7, 9, (64, 96), (50, 70), 3), offset=offset)
    assert (dense_labels(prediction, size) > 0).float().mean() > 0.01
    assert float((sparse_labels(prediction, size) != dense_labels(prediction, size)).float().mean()) < 1e-4


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (50, 71), (480, 854), (33, 41), (9, 13)])
@pytest.mark.parametrize("own", [(64, 96), (50, 70)])
def test_labels_at_the_frames_own_and_at_other_sizes(size: tuple[int, int], own: tuple[int, int]) -> None:
    check_labels(smooth(5, 14, (64, 96), own, 10), size)


def test_labels_at_the_frames_own_size_are_those_of_the_losses_logits() -> None:
    prediction = smooth(1, 5, (64, 96), (50, 70), 1)
    assert torch.equal(prediction.labels((50, 70)).long(), prediction.logits().argmax(1))


def test_labels_in_inference_leave_nothing_that_a_training_step_trips_over() -> None:
    prediction = smooth(1, 4, (32, 32), (32, 32), 2)
    with torch.inference_mode():
        prediction.labels((40, 40))
    live = Prediction(prediction.logits_BKHW.requires_grad_(), 2, (32, 32), (32, 32))
    assert torch.equal(live.labels((40, 40)), prediction.labels((40, 40)))


def test_an_object_made_silent_wins_nowhere_and_the_others_take_its_place() -> None:
    prediction = smooth(3, 8, (64, 64), (64, 64), 2)
    silenced = prediction.without(torch.tensor([[True, False, False, False, False, False]] * 2))
    assert (prediction.labels((64, 64)) == 1).any()
    assert not (silenced.labels((64, 64)) == 1).any()
    assert float(silenced.soft()[:, 0].max()) == 0
    kept = prediction.labels((64, 64)) != 1
    assert torch.equal(silenced.labels((64, 64))[kept], prediction.labels((64, 64))[kept])


def test_soft_masks_are_the_softmax_over_every_channel() -> None:
    prediction = smooth(3, 8, (64, 64), (50, 60), 2)
    assert torch.equal(prediction.soft(), prediction.logits_BKHW.softmax(1)[:, 2:])
    probabilities = prediction.probabilities((100, 120))
    assert probabilities.shape == (2, 8, 100, 120)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 100, 120))
    assert prediction.probabilities().shape[-2:] == (50, 60)


def test_unknown_logits_survive_enlargement_as_nothing() -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1] = UNKNOWN
    prediction = Prediction(logits, 1, (32, 32), (32, 32))
    assert float(prediction.logits()[:, 1].max()) == UNKNOWN
    assert not prediction.labels((32, 32)).any()
    assert not prediction.soft().any()


def test_only_pixels_along_outlines_are_interpolated_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of labels follows the outlines, neither the frame's area nor the number of objects."""
    worked = []
    bag = F.embedding_bag
    monkeypatch.setattr(base.F, "embedding_bag", lambda rows, *a, **k: (worked.append(len(rows)), bag(rows, *a, **k))[1])
    logits = torch.full((1, 2, 40, 40), -5.0)
    logits[:, 0] = 0
    logits[0, 1, 10:30, 10:30] = 3
    prediction = Prediction(logits, 1, (160, 160), (160, 160))
    assert 70 * 70 < int(prediction.labels((160, 160)).sum()) < 90 * 90
    outline = 4 * 21 * 4 * 4  # squares around 20 x 20 cells, sixteen pixels each
    assert worked == [pytest.approx(outline, rel=0.1)]
    Prediction(logits - torch.tensor([0.0, 9.0]).view(1, 2, 1, 1), 1, (160, 160), (160, 160)).labels((160, 160))
    assert len(worked) == 1


def test_keep_holds_the_window_and_for_each_object_its_first_and_latest_given_mask() -> None:
    network = tiny.network()
    memory = Memory((1, 2))
    givens = {0: "0", 2: "1", 3: "0", 5: "01", 6: "0"}
    for index in range(12):
        memory = memory.add(index, entry(index, 2, given=givens.get(index, "-")))
    assert list(network.keep(memory, 3, False).frames) == [9, 10, 11]
    assert list(network.keep(memory, 3, True).frames) == [0, 2, 5, 6, 9, 10, 11]
    assert list(network.keep(memory, 100, True).frames) == list(range(12))
    assert list(network.keep(memory, 1, True).frames) == [0, 2, 5, 6, 11]


# Shapes and repr --------------------------------------------------------------------------------------------------------

YES = torch.ones(1, 2, dtype=torch.bool)
ENTRY: dict[str, Any] = {
    "per_object": torch.zeros(1, 2, 4),
    "shared": {"background": torch.zeros(1, 9, 4)},
    "valid_BN": YES,
    "given_BN": YES,
    "complete_B": YES[:, 0],
}
CLIP: dict[str, Any] = vars(tiny.clip(2, 3, (64, 96)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_object": torch.zeros(1, 3, 4)}, r"per_object \[1, 2, \.\.\.\], got \[1, 3, 4\]"),
        ({"per_object": torch.zeros(2)}, r"per_object \[1, 2, \.\.\.\], got \[2\]"),
        ({"shared": {"key": torch.zeros(2, 9, 4)}}, r"shared key \[1, \.\.\.\], got \[2, 9, 4\]"),
        ({"valid_BN": YES[0]}, r"valid_BN \[B, N\], got \[2\]"),
        ({"given_BN": YES[:, :1]}, r"given_BN \[1, 2\], got \[1, 1\]"),
        ({"complete_B": YES}, r"complete_B \[1\], got \[1, 2\]"),
    ],
)
def test_an_entry_of_other_shapes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {message}$"):
        Entry(**{**ENTRY, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_BTCHW": torch.zeros(2, 3, 64, 96)}, r"frames_BTCHW \[B, T, C, H, W\], got \[2, 3, 64, 96\]"),
        ({"masks_BTNHW": torch.zeros(2, 3, 2, 64, 95)}, r"masks_BTNHW \[2, 3, 2, 64, 96\], got \[2, 3, 2, 64, 95\]"),
        ({"masks_BTNHW": torch.zeros(2, 3, 64, 96)}, r"masks_BTNHW \[2, 3, N, 64, 96\], got \[2, 3, 64, 96\]"),
        ({"labelled_BT": torch.ones(2, 4)}, r"labelled_BT \[2, 3\], got \[2, 4\]"),
        ({"objects_BN": torch.ones(2, 3)}, r"objects_BN \[2, 2\], got \[2, 3\]"),
        ({"valid_BTHW": torch.ones(2, 3, 64)}, r"valid_BTHW \[2, 3, 64, 96\], got \[2, 3, 64\]"),
    ],
)
def test_a_clip_of_other_shapes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^expected {message}$"):
        Clip(**{**CLIP, **changes})


def test_features_and_predictions_of_other_shapes_are_refused() -> None:
    maps = {"fine": torch.zeros(1, 4, 16, 24), "coarse": torch.zeros(2, 4, 8, 12)}
    with pytest.raises(ValueError, match=r"^expected maps of the same number of frames, got fine 1, coarse 2$"):
        Features(maps, (64, 96), (64, 96))
    with pytest.raises(ValueError, match=r"^expected a frame inside the padded one, got 64x96 at \(0, 1\) in 64x96$"):
        Features({}, (64, 96), (64, 96), (0, 1))
    logits = r"^expected logits \[B, K, H, W\] of a division of 64x96 pixels, got "
    with pytest.raises(ValueError, match=logits + r"\[1, 3, 16, 20\]$"):
        Prediction(torch.zeros(1, 3, 16, 20), 1, (64, 96), (64, 96))
    with pytest.raises(ValueError, match=logits + r"\[3, 16, 24\]$"):
        Prediction(torch.zeros(3, 16, 24), 1, (64, 96), (64, 96))
    for backgrounds in (0, 4):
        with pytest.raises(ValueError, match=rf"^expected 1 to 3 background channels, got {backgrounds}$"):
            Prediction(torch.zeros(1, 3, 16, 24), backgrounds, (64, 96), (64, 96))


def test_values_print_shapes_and_types_and_no_data() -> None:
    made = Entry(**ENTRY)
    text = (
        "Entry(per_object=float32 [1, 2, 4], shared={background: float32 [1, 9, 4]}, valid_BN=bool [1, 2], "
        "given_BN=bool [1, 2], complete_B=bool [1])"
    )
    assert repr(made) == text
    assert repr(Memory((1, 2), {3: made})) == f"Memory(objects=(1, 2), frames={{3: {text}}}, state={{}}, tally={{}})"
    assert repr(Features({"fine": torch.zeros(1, 4, 16, 24)}, (60, 96), (64, 96))) == (
        "Features(maps={fine: float32 [1, 4, 16, 24]}, size=(60, 96), padded=(64, 96), offset=(0, 0))"
    )
    assert repr(Prediction(torch.zeros(1, 3, 16, 24).bfloat16(), 1, (60, 96), (64, 96), aux={"x": torch.zeros(1)})) == (
        "Prediction(logits_BKHW=bfloat16 [1, 3, 16, 24], backgrounds=1, size=(60, 96), padded=(64, 96), offset=(0, 0), "
        "aux={x: float32 [1]})"
    )
    assert repr(Clip(**CLIP)) == (
        "Clip(frames_BTCHW=float32 [2, 3, 3, 64, 96], masks_BTNHW=float32 [2, 3, 2, 64, 96], labelled_BT=bool [2, 3], "
        "objects_BN=bool [2, 2], valid_BTHW=bool [2, 3, 64, 96])"
    )


def test_shapes_are_not_checked_while_pytorch_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "is_traced", lambda: True)
    Entry(**{**ENTRY, "complete_B": YES})
