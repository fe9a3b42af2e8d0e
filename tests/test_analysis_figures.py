"""Figures of tracking results: `hodor analyse history|failures|sheet`, and their common functions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from training import write_videos

import benchmarks
from hodor import cli
from hodor.analysis import failures, history, plots, runs, sheets
from hodor.commands import analyse
from hodor.data.layouts import Layout, open_layout
from hodor.evaluate import evaluate
from hodor.evaluation import datasets
from hodor.metrics import frame_scores
from hodor.models import weights
from hodor.models.base import Network
from hodor.models.hodor import HODOR


@pytest.fixture(scope="module")
def network() -> HODOR:
    made = tiny.network().eval().requires_grad_(False)
    made.name = "tiny"
    return made


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two sequences with all masks: cows with objects 1 and 2, swans with 1."""
    root = tmp_path_factory.mktemp("farm")
    names = benchmarks.numbered(8)
    for video, ids in (("cows", (1, 2)), ("swans", (1,))):
        benchmarks.frames(root / "JPEGImages" / video, names, ids)
        benchmarks.masks(root / "Annotations" / video, dict.fromkeys(names, ids), names)
    return open_layout(root)


# Common functions -----------------------------------------------------------------------------------------------------


def test_a_page_is_written_as_png_and_svg_with_its_data_beside(tmp_path: Path) -> None:
    data = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (1, Path("x"))}
    for name in ("one.png", "one.svg"):
        with plots.page(tmp_path / name, data, (2, 1.5)) as figure:
            figure.subplots().plot([0, 1], [0, 1], label="words")
    assert Image.open(tmp_path / "one.png").size == (2 * plots.DPI, 1.5 * plots.DPI)
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    assert json.loads((tmp_path / "one.json").read_text()) == {"a": 0.5, "b": [0, 1], "c": None, "d": [1, "x"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.json", "one.png", "one.svg"]


def test_the_same_figure_is_the_same_svg(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        with plots.page(tmp_path / name, None, (2, 2)) as figure:
            figure.subplots().plot([0, 1], [1, 0])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_page_that_fails_leaves_the_old_figure_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"half way"), plots.page(tmp_path / "a.png", {}, (2, 2)):
        raise RuntimeError("half way")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_figures_leave_matplotlibs_own_settings_as_they_were(tmp_path: Path) -> None:
    import matplotlib

    before = matplotlib.rcParams["font.size"], matplotlib.get_backend()
    with plots.page(tmp_path / "a.png", None, (2, 2)) as figure:
        figure.subplots()
        assert matplotlib.rcParams["font.size"] == plots.STYLE["font.size"] != before[0]
    assert (matplotlib.rcParams["font.size"], matplotlib.get_backend()) == before


def test_a_suffix_or_an_extra_that_is_missing_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^expected a figure that ends in .png or .svg, got x.gif$"):
        plots.check(Path("x.gif"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^a figure needs matplotlib: pip install 'hodor-vos\[viz\]'$"):
        plots.check(Path("x.png"))


def test_an_outline_runs_along_the_mask_and_leaves_the_view(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:10, 20:] = True
    with plots.page(tmp_path / "a.png", None, (2, 2)) as figure:
        axis = figure.subplots()
        plots.picture(axis, np.zeros((20, 30, 3), np.uint8))
        limits = axis.axis()
        plots.outline(axis, mask, "red")
        (drawn,) = axis.collections
        x, y = drawn.get_paths()[0].vertices.T
        plots.outline(axis, np.zeros((20, 30), bool), "red")
        assert len(axis.collections) == 1
        assert axis.axis() == limits
    assert (x.min(), x.max(), y.min(), y.max()) == (19.5, 29.5, 4.5, 9.5)


def test_long_titles_of_strips_are_wrapped_and_make_room(tmp_path: Path) -> None:
    sizes = []
    for words in ("short", "a long name " * 20):
        with plots.strips(tmp_path / "a.png", {}, [words], [0.5], 2, width=4) as rows:
            assert len(rows[0]) == 2
        sizes.append(Image.open(tmp_path / "a.png").size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > sizes[0][1] + 60


def test_scores_of_a_followed_video_are_those_of_evaluate_on_its_masks(network: HODOR, layout: Layout, tmp_path: Path) -> None:
    video = layout.video("cows")
    scored = runs.scored(network, video)
    labels = {f.frame: f.labels for f in datasets.follow(network, video)}
    report = evaluate({"cows": labels}, {"cows": {frame: video.labels(frame) for frame in video.frames}})
    scores = scored.to_json()
    assert set(scored.objects) == {1, 2}
    assert scores["J&F"] == pytest.approx(report.jf)
    assert scores["frames"] == 8
    assert scored.fps > 0


def test_means_count_every_object_once() -> None:
    rows = [{"objects": {"1": {"J": 0.2, "F": 0.4}, "2": {"J": 0.4, "F": 0.4}}}, {"objects": {"1": {"J": 0.9, "F": 1.0}}}]
    assert runs.means(rows) == pytest.approx({"J&F": 0.55, "J": 0.5, "F": 0.6})


def test_a_frame_result_names_only_the_predicted_objects(network: HODOR, tmp_path: Path) -> None:
    video = open_layout(benchmarks.youtube(tmp_path), split="valid").videos[0]
    predicted = {result.followed.frame: result.predicted for result in runs.follow(network, video)}
    assert predicted == {"00000": (), "00005": (2,), "00010": (2,), "00015": (2, 5)}


def test_figures_name_their_weights_by_the_first_16_digits_of_the_hash() -> None:
    hashes = [weights.weights_hash(tiny.network(seed)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert runs.about(tiny.network(0), None)["weights"] == hashes[0][:16]


# History --------------------------------------------------------------------------------------------------------------


def test_history_is_measured_once_and_resumed(
    network: HODOR, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "history.json"
    asked: list[tuple[str, int]] = []
    real = runs.scored

    def counted(network: Any, video: Any, **options: Any) -> runs.Scored:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append((video.name, options["history"]))
        return real(network, video, **options)

    monkeypatch.setattr(runs, "scored", counted)
    with pytest.raises(KeyboardInterrupt):
        history.measure(network, layout, out, lengths=(2, 1))
    assert asked == [("cows", 1), ("cows", 2), ("swans", 1)]
    asked.clear()
    data = history.measure(network, layout, out, lengths=(1, 2))
    assert asked == [("swans", 2)]
    assert [row["length"] for row in data["curve"]] == [1, 2]
    monkeypatch.undo()
    alone = [real(network, video, history=2).to_json() for video in layout.videos]
    assert data["curve"][1]["J&F"] == pytest.approx(runs.means(alone)["J&F"])
    assert json.loads(out.read_text()) == data
    history.draw(data, tmp_path / "history.svg", mark=2, paper=True)
    drawn = (tmp_path / "history.svg").read_text()
    for words in ("past frames in memory", "each sequence", "DAVIS 2017 val", f"{100 * data['curve'][0]['J&F']:.1f}"):
        assert words in drawn


def test_a_curve_of_fewer_sequences_or_lengths_uses_what_was_measured(network: HODOR, layout: Layout, tmp_path: Path) -> None:
    out = tmp_path / "history.json"
    history.measure(network, layout, out, lengths=(1, 2))
    cows = open_layout(layout.root, only=["cows"])
    data = history.measure(network, cows, out, lengths=(2,))
    assert data["sequences"] == ["cows"]
    assert len(data["runs"]) == 4
    (row,) = data["curve"]
    assert row["J&F"] == pytest.approx(next(r["J&F"] for r in data["runs"] if (r["sequence"], r["length"]) == ("cows", 2)))


def test_history_refuses_a_file_of_other_weights_or_other_kind(network: HODOR, layout: Layout, tmp_path: Path) -> None:
    out = tmp_path / "history.json"
    history.measure(network, open_layout(layout.root, only=["swans"]), out, lengths=(1,))
    other = tiny.network(1).eval()
    with pytest.raises(ValueError, match=r"contains another run \(model .* weights .* in the file, .* now\): give another --"):
        history.measure(other, layout, out)
    with pytest.raises(ValueError, match=r"^expected history of at least 1 frame, got 0$"):
        history.measure(network, layout, out, lengths=(0, 1))
    out.write_text('{"format": "something"}')
    with pytest.raises(ValueError, match=r"is not a file of this figure: give another --out, or remove it"):
        history.measure(network, layout, out)


# Failures -------------------------------------------------------------------------------------------------------------


def test_records_have_the_scores_labels_and_confidence_of_the_tracker(network: HODOR, layout: Layout) -> None:
    video = layout.video("cows")
    records = failures.follow(network, video)
    followed = {f.frame: f for f in datasets.follow(network, video)}
    assert [record.frame for record in records] == list(video.frames[1:])
    for record in records:
        tracked = followed[record.frame].tracked
        j, f = frame_scores(tracked.labels, video.labels(record.frame), (1, 2))
        assert list(record.j.values()) == j.tolist()
        assert list(record.f.values()) == f.tolist()
        assert record.confidence == tracked.confidence
        assert np.array_equal(record.labels(), tracked.labels)
        soft = tracked.soft()
        planes = np.concatenate([1 - soft.sum(0, keepdims=True), soft])
        assert np.abs(record.label_confidence() / 255 - planes.max(0).clip(0, 1)).max() < 0.003
        assert record.score == pytest.approx((j.mean() + f.mean()) / 2)


def fake(index: int, score: float) -> failures.FrameRecord:
    return failures.FrameRecord(str(index), index, {1: score}, {1: score}, {1: 0.5}, frozenset(), (1, 1), b"", False, b"")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 12))
def test_the_worst_frames_keep_their_distance_and_leave_no_worse_one_out(scores: list[float], count: int, gap: int) -> None:
    records = [fake(i, s) for i, s in enumerate(scores)]
    chosen = failures.worst(records, count, gap)
    assert chosen[0].score == min(scores)
    assert [c.score for c in chosen] == sorted(c.score for c in chosen)
    assert all(abs(a.index - b.index) >= gap for a in chosen for b in chosen if a is not b)
    free = [s for s in records if all(abs(s.index - c.index) >= gap for c in chosen)]
    assert len(chosen) == count or not free


def test_failures_come_worst_sequence_first(network: HODOR, layout: Layout, tmp_path: Path) -> None:
    chosen, data = failures.find(network, layout, sequences=1, frames=2, spacing=3)
    means = {s["sequence"]: np.mean([f["J&F"] for f in s["frames"]]) for s in data["sequences"]}
    assert [s["sequence"] for s in data["sequences"]] == sorted(means, key=lambda name: means[name])
    assert {video.name for video, _ in chosen} == {data["sequences"][0]["sequence"]}
    assert len(chosen) == 2
    failures.draw(chosen, data, tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    for words in ("prediction", "ground truth", "confidence", chosen[0][0].name, f"J {100 * chosen[0][1].j[1]:.0f}"):
        assert words in drawn
    failures.draw_confidence(data, tmp_path / "c.svg")
    assert "rank correlation" in (tmp_path / "c.svg").read_text()
    assert json.loads((tmp_path / "c.json").read_text())["count"] + data["confidence"]["lost"]["count"] == 7 * 3


def test_sequences_without_further_masks_cannot_be_scored(network: HODOR, tmp_path: Path) -> None:
    hidden = open_layout(benchmarks.davis2017(tmp_path), split="test-dev")
    with pytest.raises(ValueError, match=r"^expected sequences with ground-truth masks on frames other than the given"):
        failures.find(network, hidden)


def objects(pairs: list[tuple[float, float]], lost: bool = False) -> list[dict[str, Any]]:
    return [{"confidence": c, "J": j, "lost": lost} for c, j in pairs]


def test_statistics_of_confidence_in_the_order_of_j_and_in_the_reverse_order() -> None:
    rising = [(i / 20, (i / 20) ** 2) for i in range(21)]
    statistics = failures.confidence_statistics(objects(rising))
    assert statistics["rank"] == pytest.approx(1)
    assert statistics["spots"] == 1
    falling = failures.confidence_statistics(objects([(c, 1 - j) for c, j in rising]))
    assert falling["rank"] == pytest.approx(-1)
    assert falling["spots"] == 0
    assert sum(row["count"] for row in statistics["bins"]) == 21
    assert [row["J"] for row in statistics["bins"]] == sorted(row["J"] for row in statistics["bins"])


def test_lost_objects_are_counted_separately() -> None:
    statistics = failures.confidence_statistics(
        objects([(0.9, 0.8), (0.8, 0.7)]) + objects([(0, 1), (0, 1), (0, 0)], lost=True)
    )
    assert statistics["count"] == 2
    assert statistics["lost"] == {"count": 3, "gone": pytest.approx(2 / 3)}
    assert math.isnan(statistics["spots"])
    empty = failures.confidence_statistics([])
    assert empty["bins"] == []
    assert math.isnan(empty["rank"])


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=30), st.data())
@settings(deadline=None, max_examples=40)
def test_rank_correlation_and_auc_are_scipys_and_sklearns(confidence: list[float], data: st.DataObject) -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    j = data.draw(st.lists(st.sampled_from([0.0, 0.4, 0.6, 1.0]), min_size=len(confidence), max_size=len(confidence)))
    statistics = failures.confidence_statistics(objects(list(zip(confidence, j, strict=True))))
    if len(set(confidence)) > 1 and len(set(j)) > 1:
        assert statistics["rank"] == pytest.approx(spearmanr(confidence, j).statistic)
    found = [x >= failures.MIN_FOUND_J for x in j]
    if len(set(found)) == 2:
        assert statistics["spots"] == pytest.approx(roc_auc_score(found, confidence))


def test_calibration_is_sklearns_logistic_regression_and_reduces_the_error() -> None:
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    confidence = random.uniform(0.6, 0.999, 200)
    j = (confidence**4 + random.normal(0, 0.05, 200)).clip(0, 1)
    before = failures.confidence_statistics(objects(list(zip(confidence, j, strict=True))))
    x = np.log(confidence / (1 - confidence))[:, None]
    reference = LogisticRegression(C=1e9, tol=1e-9).fit(
        np.tile(x, (2, 1)), [1] * 200 + [0] * 200, np.concatenate([j, 1 - j])
    )  # fmt: skip
    assert before["calibration"] == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), rel=1e-4)
    network = Network()
    network.calibration = before["calibration"]
    calibrated = objects(list(zip(network.expected(torch.from_numpy(confidence)).tolist(), j, strict=True)))
    after = failures.confidence_statistics(calibrated)
    assert before["error"] > 0.15
    assert after["error"] < 0.03
    assert after["calibration"] == pytest.approx((1, 0), abs=1e-3)
    again = failures.confidence_statistics(calibrated, calibration=network.calibration)
    assert again["calibration"] == pytest.approx(network.calibration, rel=1e-3)
    assert failures.confidence_statistics(objects([(0.9, 0.8), (0.9, 0.7)]))["calibration"] == (1, 0)


@given(st.tuples(st.integers(8, 60), st.integers(8, 60)), st.data())
def test_the_part_shown_contains_the_mask_and_is_inside_the_frame(size: tuple[int, int], data: st.DataObject) -> None:
    mask = np.zeros(size, bool)
    y, x = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    mask[y : y + data.draw(st.integers(1, 60)), x : x + data.draw(st.integers(1, 60))] = True
    rows, columns = failures._part(mask)
    assert mask[rows, columns].sum() == mask.sum()
    assert 0 <= rows.start < rows.stop <= size[0]
    assert 0 <= columns.start < columns.stop <= size[1]
    assert (rows.stop - rows.start) / size[0] == pytest.approx((columns.stop - columns.start) / size[1], abs=1 / 8)


# Sheets ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12))
def test_chosen_frames_are_evenly_spaced_and_end_at_the_last_frame(count: int, columns: int) -> None:
    places = sheets.even(count, columns)
    assert places[-1] == count - 1
    assert len(places) == min(count, columns)
    steps = np.diff([-1, *places])
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def test_a_row_shows_the_predicted_labels_of_evenly_spaced_frames(network: HODOR, layout: Layout) -> None:
    video = layout.video("cows")
    followed = {f.frame: f.labels for f in datasets.follow(network, video)}
    cells = sheets.row(network, video, 3)
    assert [c.frame for c in cells] == ["00002", "00005", "00007"]
    for cell in cells:
        assert np.array_equal(cell.labels, followed[cell.frame])
        assert np.array_equal(cell.image, video.pictures([int(cell.frame)])[0])
        assert cell.score is not None
    first, *_ = sheets.row(network, video, 3, given=True)
    assert (first.frame, first.score) == ("00000", None)
    assert np.array_equal(first.labels, video.labels("00000"))


def test_a_video_of_one_frame_has_no_sheet_without_its_given_frame(tmp_path: Path) -> None:
    write_videos(tmp_path, ("a",), frames=1)
    (video,) = open_layout(tmp_path).videos
    words = "expected at least one frame of video a after the given masks of 00000, got none: give a longer video"
    with pytest.raises(ValueError, match=f"^{words}"):
        sheets.row(tiny.network(), video, 3)
    (cell,) = sheets.row(tiny.network(), video, 3, given=True)
    assert cell.frame == "00000"


def test_many_sequences_go_to_several_sheets(
    network: HODOR, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "ROWS", 1)
    made = sheets.draw(network, layout, tmp_path / "sheet.png", columns=2)
    assert [p.name for p in made] == ["sheet.png", "sheet-2.png"]
    rows = json.loads((tmp_path / "sheet-2.json").read_text())["rows"]
    assert [row["sequence"] for row in rows] == ["swans"]
    assert [cell["frame"] for cell in rows[0]["frames"]] == ["00004", "00007"]
    assert Image.open(made[1]).size[0] == 10 * plots.DPI
    with pytest.raises(ValueError, match=r"^expected at least 1 predicted frame in a row, got 0$"):
        sheets.draw(network, layout, tmp_path / "x.png", columns=1, given=True)


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def boxed(network: HODOR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the command load the small network."""
    monkeypatch.setattr(weights, "ready", lambda *_, **__: network)


@pytest.mark.usefixtures("boxed")
def test_the_command_draws_each_figure_and_prints_its_path(layout: Layout, tmp_path: Path, capsys: Any) -> None:
    to = ["--sequences", "swans", "--device", "cpu"]
    for words in (
        ["history", str(layout.root), "-o", str(tmp_path / "h.png"), "--lengths", "1", "2", *to],
        ["failures", str(layout.root), "-o", str(tmp_path / "f.png"), *to],
        ["sheet", str(layout.root), "-o", str(tmp_path / "s.png"), "--frames", "3", *to],
        ["drift", str(layout.root), "-o", str(tmp_path / "d.png"), *to],
    ):
        assert analyse.main(words) == 0
        assert str(tmp_path) in capsys.readouterr().err
    made = {p.name for p in tmp_path.iterdir()}
    figures = {"h", "f", "f-confidence", "s", "d"}
    assert made == {f"{name}{suffix}" for name in figures for suffix in (".png", ".json")}
    assert all(Image.open(tmp_path / f"{name}.png").size[0] > 400 for name in figures)


@pytest.mark.usefixtures("boxed")
def test_the_command_refuses_in_one_line(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^expected a figure \(history, failures, drift, sheet, .*\), got 'sheets'$"):
        analyse.main(["sheets"])
    with pytest.raises(ValueError, match=r"ends in .png or .svg"):
        analyse.main(["sheet", str(layout.root), "-o", "x.pdf"])
    with pytest.raises(ValueError, match=r"^expected --worst, --frames and --spacing of at least 1, got 0, 2, 10$"):
        analyse.main(["failures", str(layout.root), "--worst", "0", "-o", str(tmp_path / "f.png")])


def test_help_names_every_figure_and_every_figure_has_its_command(capsys: Any) -> None:
    assert analyse.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in analyse.FIGURES:
        assert name in text
        with pytest.raises(SystemExit) as stop:
            analyse.main([name, "--help"])
        assert stop.value.code == 0
    assert callable(cli.main)
