"""Figures of descriptors, background responses and masks from an empty first mask: `hodor analyse retrieval|...`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from hodor.analysis import background, coarse, descriptors, plots, retrieval, views
from hodor.commands import analyse
from hodor.commands import descriptors as commands
from hodor.commands.options import parse
from hodor.data.layouts import Layout, VideoFiles, open_layout
from hodor.masks import write_labels
from hodor.models import weights
from hodor.models.base import Memory
from hodor.models.hodor import HODOR
from hodor.tracking import Tracker

SIZE = (64, 96)
FRAMES = 6


@pytest.fixture(scope="module")
def network() -> HODOR:
    return tiny.network().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of six frames: `pair` with objects 2 and 5, of which 5 leaves for the last two frames; `one` with object 1."""
    root = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("one", "pair")):
        pictures = (tiny.pictures(FRAMES, SIZE, phase=number * 0.7) * 255).byte().permute(0, 2, 3, 1).numpy()
        for index, picture in enumerate(pictures):
            folder = root / "JPEGImages" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / f"{index:05d}.png")
            planes = tiny.planes(SIZE, shift=2 * index).numpy() > 0
            labels = np.zeros(SIZE, np.uint8)
            labels[planes[0]] = 1 if name == "one" else 2
            if name == "pair" and index < FRAMES - 2:
                labels[planes[1]] = 5
            write_labels(root / "Annotations" / name / f"{index:05d}.png", labels)
    return root


@pytest.fixture(scope="module")
def layout(dataset: Path) -> Layout:
    return open_layout(dataset)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.network()
    made.name = "hodor-lite"
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    weights.save(made, path)
    return path


def figure(name: str, *words: str) -> int:
    return parse(getattr(commands, name.title()), f"analyse {name}", list(words))


# retrieval


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_average_precision_is_scikit_learns_also_with_ties(data: st.DataObject) -> None:
    from sklearn.metrics import average_precision_score

    count = data.draw(st.integers(3, 14))
    vectors = data.draw(arrays.arrays(np.float32, (count, 2), elements=st.integers(-2, 2).map(float)))
    instance = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, 2)))
    found = retrieval.rank(vectors, instance)
    for row, average in zip(found.rows, found.average, strict=True):
        others = np.arange(count) != row
        squares = ((vectors[others] - vectors[row]) ** 2).sum(1)
        assert average == pytest.approx(average_precision_score(instance[others] == instance[row], -squares))
    assert found.rows.tolist() == [i for i in range(count) if (instance == instance[i]).sum() > 1]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000))
def test_the_curve_is_the_best_precision_at_that_recall_or_more(seed: int) -> None:
    from sklearn.metrics import precision_recall_curve

    generator = np.random.default_rng(seed)
    vectors, instance = generator.normal(size=(30, 3)), generator.integers(0, 4, 30)
    found = retrieval.rank(vectors, instance)
    for row, curve in zip(found.rows, found.precision, strict=True):
        others = np.arange(30) != row
        right = instance[others] == instance[row]
        precision, recall, _ = precision_recall_curve(right, -np.linalg.norm(vectors[others] - vectors[row], axis=1))
        # at recall 0 the curve has the precision at the first correct one
        expected = [precision[recall >= max(level, 1 / right.sum()) - 1e-9].max() for level in np.linspace(0, 1, 101)]
        np.testing.assert_allclose(curve, expected)


def test_ranking_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    vectors, instance = generator.normal(size=(50, 4)), generator.integers(0, 5, 50)
    whole = retrieval.rank(vectors, instance)
    monkeypatch.setattr(retrieval, "ROWS", 7)
    for one, other in zip(whole, retrieval.rank(vectors, instance), strict=True):
        np.testing.assert_allclose(one, other)


def test_objects_far_apart_are_always_found_and_descriptors_without_order_give_chance() -> None:
    instance = np.arange(400) % 4
    apart = retrieval.rank(instance[:, None] * 100.0 + np.random.default_rng(0).normal(size=(400, 3)), instance)
    assert apart.average.min() == 1
    assert apart.precision.min() == 1
    noise = retrieval.rank(np.random.default_rng(0).normal(size=(400, 3)), instance)
    assert noise.chance == pytest.approx(99 / 399)
    assert noise.average.mean() == pytest.approx(99 / 399, abs=0.02)


def test_within_a_video_only_its_own_objects_are_ranked_and_a_single_object_is_no_query() -> None:
    # video 1: objects 0 and 1, well apart; video 0: object 2 alone, right on top of object 0
    vectors = np.array([[0.5], [0.6], [0.0], [1.0], [50.0], [51.0]])
    instance, video = np.array([2, 2, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    inside = retrieval.rank(vectors, instance, video)
    assert inside.rows.tolist() == [2, 3, 4, 5]
    assert inside.average.tolist() == [1, 1, 1, 1]
    assert inside.chance == pytest.approx(1 / 3)
    everywhere = retrieval.rank(vectors, instance)
    assert everywhere.average[2:4].max() < 1


@pytest.mark.parametrize(
    ("vectors", "instance", "message"),
    [
        (np.zeros((4, 2)), np.zeros(3, int), "expected one instance for each of 4 vectors, got 3"),
        (np.array([[np.nan], [0]]), np.zeros(2, int), "expected finite vectors, got nan or infinity"),
    ],
)
def test_what_cannot_be_ranked_is_refused(vectors: Any, instance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retrieval.rank(vectors, instance)


def test_measure_lists_every_object(network: HODOR, layout: Layout) -> None:
    described = descriptors.describe(network, layout.videos, frames=FRAMES)
    data = retrieval.measure(described)
    assert {o["name"]: o["descriptors"] for o in data["objects"]} == {"one 1": 6, "pair 2": 6, "pair 5": 4}
    assert data["all_videos"]["queries"] == 16
    assert data["same_video"]["queries"] == 10
    assert data["objects"][0]["same_video"] is None
    by_object = sum(o["all_videos"] * o["descriptors"] for o in data["objects"]) / 16
    assert data["all_videos"]["average_precision"] == pytest.approx(by_object)


def test_one_object_alone_is_refused(network: HODOR, layout: Layout) -> None:
    described = descriptors.describe(network, [layout.video("one")], frames=3)
    with pytest.raises(ValueError, match="expected at least two objects, got one, one 1"):
        retrieval.measure(described)


# descriptors


def test_a_descriptor_is_the_memory_entry_of_the_ground_truth_mask(network: HODOR, layout: Layout) -> None:
    video = layout.video("pair")
    described = descriptors.describe(network, [layout.video("one"), video], frames=2)
    assert described.instances == ("one 1", "pair 2", "pair 5")
    # of six frames, the first and the last; object 5 has left by the last
    assert described.instance.tolist() == [0, 0, 1, 2, 1]
    assert described.frame.tolist() == [0, 5, 0, 0, 5]
    assert described.video.tolist() == [0, 0, 1, 1, 1]
    labels = video.labels("00000")
    picture = torch.from_numpy(video.pictures([0])[0]).permute(2, 0, 1)[None] / 255
    planes = torch.from_numpy(np.stack([labels == 2, labels == 5]))[None].float()
    valid = torch.ones(1, 2, dtype=torch.bool)
    expected = network.remember(Memory((2, 5)), 0, network.encode(picture), planes, valid, valid).frames[0].per_object[0]
    np.testing.assert_allclose(described.vectors[2:4], expected, atol=1e-5)


def test_a_network_without_descriptors_is_refused(layout: Layout) -> None:
    from hodor.models.base import Network

    with pytest.raises(ValueError, match="expected a HODOR network, which has descriptors, got Network"):
        descriptors.describe(Network(), layout.videos)


def test_a_cut_out_is_the_object_alone_in_its_box() -> None:
    picture = np.full((40, 60, 3), 9, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:20, 20:50], mask[10, 20] = True, False
    picture[mask] = (200, 100, 50)
    cut = descriptors.cut_out(picture, mask, 64)
    assert cut.shape == (10, 30, 4)
    assert cut[0, 0, 3] == 0
    assert (cut[..., 3] == 255).sum() == 299
    assert (cut[cut[..., 3] == 255][:, :3] == (200, 100, 50)).all()
    assert descriptors.cut_out(picture, mask, 15).shape == (5, 15, 4)


def test_equal_seeds_give_equal_maps_and_the_perplexity_fits_the_count() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    points, about = descriptors.project(vectors, "tsne", seed=3)
    again, _ = descriptors.project(vectors, "tsne", seed=3)
    assert np.array_equal(points, again)
    assert not np.array_equal(points, descriptors.project(vectors, "tsne", seed=4)[0])
    assert points.shape == (12, 2)
    assert about == {"perplexity": pytest.approx(11 / 3), "seed": 3}


def test_pca_is_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(0).normal(size=(20, 6)) * np.arange(1, 7) + 3
    points, about = descriptors.project(vectors, "pca")
    made = PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(points), np.abs(made.transform(vectors)), atol=1e-9)
    np.testing.assert_allclose(about["variance"], made.explained_variance_ratio_)


@pytest.mark.parametrize(
    ("count", "perplexity", "message"),
    [
        (3, None, "expected at least 4 descriptors for a map, got 3"),
        (20, 50, "expected a perplexity above 0 and below 20, the number of descriptors, got 50"),
        (20, 0, "expected a perplexity above 0 and below 20, the number of descriptors, got 0"),
    ],
)
def test_maps_that_cannot_be_made_are_refused(count: int, perplexity: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        descriptors.project(np.zeros((count, 2)), "tsne", perplexity=perplexity)


def test_drift_separates_the_next_frame_from_other_frames() -> None:
    def described(vectors: list[float], instance: list[int]) -> descriptors.Described:
        rows = np.array(instance)
        return descriptors.Described(
            np.array(vectors)[:, None], rows, rows * 0, rows, tuple("ab"[: rows.max() + 1]), ("v",), (None,) * len(rows)
        )

    # object a moves by 1 a frame: 0, 1, 2; object b stands at 10, 10
    assert descriptors.drift(described([0, 10, 1, 10, 2], [0, 1, 0, 1, 0])) == {
        "next_frame": pytest.approx(2 / 3),
        "same_object": pytest.approx((1 + 1 + 2 + 0) / 4),
        "other_object": pytest.approx((10 + 9 + 8) / 3),
    }
    alone = descriptors.drift(described([0.0, 1.0], [0, 0]))
    assert alone["other_object"] is None


# views


@given(st.integers(1, 40), st.integers(1, 12))
def test_spread_keeps_order_the_first_and_the_last(length: int, count: int) -> None:
    chosen = views.spread(range(length), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, count)
    if count > 1:
        assert {chosen[0], chosen[-1]} == {0, length - 1}


@given(st.integers(1, 12))
def test_frames_after_the_reference_end_with_the_last_masked_one(count: int) -> None:
    class Video:
        name, frames = "v", tuple("abcdefgh")
        masks = dict.fromkeys("bdfg")
        given = dict.fromkeys("b")

        def labels(self, frame: str) -> Any:
            return np.ones((2, 2), np.uint8)

    chosen = views.after_reference(Video(), count)  # type: ignore[arg-type]
    assert len(chosen) == min(count, 3)
    assert set(chosen) <= {3, 5, 6}
    assert chosen[-1] == 6


def test_follow_gives_the_masks_of_the_tracker(network: HODOR, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BLOCK", 4)
    video = layout.video("pair")
    tracker = Tracker(network, history=2)
    expected = [tracker.track(video.pictures([0])[0], video.labels("00000"))]
    expected += [tracker.track(video.pictures([i])[0]) for i in range(1, FRAMES)]
    frames = list(views.follow(Tracker(network, history=2), video, [2, 5], "tracked"))
    assert [frame.index for frame in frames] == [2, 5]
    for frame in frames:
        assert np.array_equal(frame.tracked.labels, expected[frame.index])
        assert np.array_equal(frame.ground_truth, video.labels(video.frames[frame.index]))
    assert len(np.unique(expected[5])) > 1


def test_with_first_only_the_first_frame_is_in_memory(network: HODOR, layout: Layout) -> None:
    video = layout.video("pair")
    for frame in views.follow(Tracker(network), video, [2, 5], "first"):
        assert list(frame.memory.frames) == [0]
    one = next(views.follow(Tracker(network), video, [5], "first")).tracked.labels
    both = list(views.follow(Tracker(network), video, [2, 5], "first"))
    assert np.array_equal(both[1].tracked.labels, one)


def test_a_strong_response_shows_the_colour_and_a_weak_one_the_picture() -> None:
    picture = np.full((8, 8, 3), 100, np.uint8)
    response = np.zeros((8, 8), np.float32)
    response[:, 4:] = 1
    made = views.heat(picture, response, np.zeros((8, 8), np.uint8), lambda x: np.stack([x, x * 0, x * 0, x], -1))
    assert made[4, 7].tolist() == [255, 0, 0]
    assert made[4, 0].tolist() == [34, 34, 34]
    ground_truth = np.zeros((8, 8), np.uint8)
    ground_truth[2:6, 2:6] = 3
    outlined = views.heat(picture, response, ground_truth, lambda x: np.stack([x, x, x, x], -1))
    assert (outlined == 255).all(2).sum() >= 12
    assert (outlined[2, 2:6] == 255).all()


# background


def test_shares_of_all_channels_sum_to_one(network: HODOR, layout: Layout) -> None:
    (seen,) = background.respond(network, layout.video("pair"), frames=1)
    assert seen.frame == "00005"
    assert seen.names == ("catch-all", *(f"cell {r}, {c}" for r in (1, 2, 3) for c in (1, 2, 3)))
    assert seen.objects == (2, 5)
    np.testing.assert_allclose(seen.maps.sum(0), 1, atol=1e-5)
    shares = [channel["mean"] for channel in seen.numbers()["channels"]]
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_the_first_map_is_the_catch_all(layout: Layout) -> None:
    silent = tiny.network().eval().requires_grad_(False)
    assert silent.decoder.catch_all is not None
    torch.nn.init.zeros_(silent.decoder.catch_all[3].weight)
    (seen,) = background.respond(silent, layout.video("one"), frames=1, response="sigmoid")
    assert seen.names[0] == "catch-all"
    assert (seen.maps[0] == 0.5).all()
    assert all((response != 0.5).any() for response in seen.maps[1:])


@pytest.mark.parametrize(
    ("count", "grid", "names", "cut"),
    [
        (9, 3, "cell 1, 1", 3),
        (10, 3, "catch-all", 3),
        (5, 2, "catch-all", 2),
        (1, 3, "background", 0),
        (1, 0, "background", 0),
        (2, 0, "background 1", 0),
    ],
)
def test_channels_are_named_after_the_grid(count: int, grid: int, names: str, cut: int) -> None:
    found, used = background.channel_names(count, grid)
    assert (found[0], used, len(found)) == (names, cut, count)


def test_numbers_state_where_a_channel_responds() -> None:
    ground_truth = np.zeros((60, 90), np.uint8)
    ground_truth[20:40, 30:60] = 4
    maps = np.zeros((11, 60, 90), np.float32)
    maps[1] = 0.2
    maps[1, :20, :30] = 1  # cell 1, 1 responds in its own ninth, and with a fifth elsewhere
    maps[9, 45:, 65:] = 0.9  # cell 3, 3 only inside its ninth
    maps[3, :15, 65:] = 0.9  # and cell 1, 3
    maps[10, 20:40, 30:60] = 0.95
    maps[0][views.outline(ground_truth)] = 0.8  # the catch-all on the outline
    picture = np.zeros((60, 90, 3), np.uint8)
    seen = background.Responses(
        "v", "f", picture, ground_truth, ground_truth, maps, background.channel_names(10, 3)[0], (4,), 3
    )
    channels = {c["channel"]: c for c in seen.numbers()["channels"]}
    assert channels["cell 3, 3"]["in_own_cell"] == channels["cell 1, 3"]["in_own_cell"] == 1
    assert channels["cell 1, 1"]["in_own_cell"] == pytest.approx(600 / (600 + 0.2 * 4800))
    assert channels["cell 1, 1"]["cell_share"] == pytest.approx(1 / 9)
    assert channels["object 4"]["on_objects"] == pytest.approx(0.95)
    assert channels["object 4"]["wins"] == pytest.approx(600 / 5400)
    assert channels["catch-all"]["near_outlines"] > 0.1
    assert channels["catch-all"]["on_objects"] == channels["catch-all"]["on_background"] == 0
    assert "in_own_cell" not in channels["catch-all"]


# coarse


def test_the_ground_truth_does_not_reach_a_network_that_is_given_an_empty_mask(network: HODOR, layout: Layout) -> None:
    video = layout.video("pair")

    class Elsewhere(VideoFiles):
        def labels(self, frame: str) -> Any:
            return np.ascontiguousarray(super().labels(frame)[::-1, ::-1])

    other = Elsewhere(**{name: getattr(video, name) for name in VideoFiles.__dataclass_fields__})
    for remembers in ("tracked", "first"):
        found, turned = (coarse.find(network, v, frames=3, remembers=remembers) for v in (video, other))  # type: ignore[arg-type]
        for one, two in zip(found.frames, turned.frames, strict=True):
            assert np.array_equal(one.soft, two.soft)
        assert any(one.best_j != two.best_j for one, two in zip(found.frames, turned.frames, strict=True))


def test_an_empty_mask_is_one_valid_object_without_pixels(network: HODOR, layout: Layout) -> None:
    video = layout.video("one")
    frame = next(views.follow(Tracker(network, hold_lost=False), video, [1], "first", empty=True))
    entry = frame.memory.frames[0]
    assert frame.memory.objects == (1,)
    assert bool(entry.valid_BN.all())
    picture = torch.from_numpy(video.pictures([0])[0]).permute(2, 0, 1)[None] / 255
    valid = torch.ones(1, 1, dtype=torch.bool)
    expected = network.remember(Memory((1,)), 0, network.encode(picture), torch.zeros(1, 1, *SIZE), valid, valid)
    torch.testing.assert_close(entry.per_object, expected.frames[0].per_object)


@settings(deadline=None)
@given(st.data())
def test_the_best_threshold_is_the_best_of_all(data: st.DataObject) -> None:
    soft = data.draw(arrays.arrays(np.float32, (3, 4), elements=st.integers(0, 4).map(lambda i: i / 4)))
    true = data.draw(arrays.arrays(bool, (3, 4)))
    best, threshold = coarse.best_jaccard(soft, true)
    scores = [coarse.jaccard(soft >= value, true) for value in np.unique(soft)]
    assert best == pytest.approx(max(scores))
    assert coarse.jaccard(soft >= threshold, true) == pytest.approx(best)


def test_jaccard_of_nothing_with_nothing_is_one() -> None:
    nothing, left = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:, :2] = True
    assert coarse.jaccard(nothing, nothing) == 1
    assert coarse.jaccard(nothing, left) == 0
    assert coarse.jaccard(np.ones((4, 4), bool), left) == 0.5


def test_a_spot_in_the_middle_scores_high_for_an_object_in_the_middle() -> None:
    true = np.zeros((30, 40), bool)
    true[13:17, 18:22] = True
    assert coarse.best_jaccard(coarse.middle(30, 40), true)[0] > 0.7
    assert coarse.best_jaccard(coarse.middle(30, 40), np.roll(true, 15, 1))[0] < 0.1


# the commands


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("retrieval", ["--frames", "4"]),
        ("descriptors", ["--frames", "4", "--crop", "16"]),
        ("background", ["--sequences", "pair", "--frames", "1"]),
        ("coarse", ["--frames", "2", "--remembers", "first"]),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_figure_is_drawn_with_its_numbers_beside(
    name: str, words: list[str], suffix: str, dataset: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.add_backbone(monkeypatch)
    out = tmp_path / f"{name}{suffix}"
    assert figure(name, str(dataset), "-o", str(out), "--checkpoint", str(checkpoint), "--device", "cpu", *words) == 0
    if suffix == ".png":
        with Image.open(out) as drawn:
            pixels = np.asarray(drawn.convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    else:
        assert ElementTree.parse(out).getroot().tag.endswith("svg")
    data = json.loads(out.with_suffix(".json").read_text())
    assert data["figure"] == name
    assert data["weights"] == str(checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", out.name]


def test_the_numbers_of_a_map_belong_to_its_points(
    dataset: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.add_backbone(monkeypatch)
    out = tmp_path / "map.png"
    words = ["--checkpoint", str(checkpoint), "--device", "cpu", "--frames", "3", "--maps", "pca", "--crops", "0"]
    assert figure("descriptors", str(dataset), "-o", str(out), *words) == 0
    data = json.loads(out.with_suffix(".json").read_text())
    assert list(data["maps"]) == ["pca"]
    assert len(data["maps"]["pca"]["points"]) == len(data["rows"]) == 8
    assert data["rows"][-1] == {"object": "pair 2", "frame": 5}


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("retrieval", ["-o", "x.gif"], "expected a figure that ends in .png or .svg, got x.gif"),
        ("retrieval", ["--frames", "1"], "expected frames of at least 2, got 1"),
        ("descriptors", ["--crop", "3"], "expected crop of at least 8, got 3"),
        ("descriptors", ["--crops", "-1"], "expected crops of at least 0, got -1"),
        (
            "background",
            ["--frames", "20"],
            "expected at most 12 rows in a figure, got 20: use fewer --sequences or --frames",
        ),
        ("coarse", ["--sequences", "three"], r"expected a sequence of .* \(one, pair\), got 'three'"),
    ],
)
def test_wrong_options_of_a_figure_are_refused_in_one_line(
    name: str, words: list[str], message: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        figure(name, str(dataset), *words)
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("missing", "name", "message"),
    [("matplotlib", "coarse", "a figure needs matplotlib"), ("sklearn", "descriptors", "t-SNE needs scikit-learn")],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    missing: str, name: str, message: str, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda module: None if module == missing else real(module))
    with pytest.raises(ValueError, match=rf"{message}: pip install 'hodor-vos\[viz\]'"):
        figure(name, str(dataset))


def test_the_figures_are_commands_of_hodor(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("retrieval", "descriptors", "background", "coarse"):
        with pytest.raises(SystemExit) as stop:
            analyse.main([name, "--help"])
        assert stop.value.code == 0
        assert "--sequences" in capsys.readouterr().out
