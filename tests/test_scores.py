"""Results files: read, written as CSV and as a page, compared."""

import copy
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hodor.commands import compare as command
from hodor.masks import write_labels
from hodor.scoring import intervals, result_files
from hodor.scoring.pages import charts, pictures
from hodor.scoring.pages.rules import sentences

Results = dict[str, Any]
SUMMARY = ("J&F", "J", "F", "J_recall", "J_decay", "F_recall", "F_decay")


def object_of(i: int, j: Any, f: Any, **more: Any) -> Results:
    j, f = np.asarray(j, float), np.asarray(f, float)
    numbers = (j.mean() + f.mean()) / 2, j.mean(), f.mean(), (j > 0.5).mean(), j[0] - j[-1], (f > 0.5).mean(), f[0] - f[-1]
    frames = [f"{t:05d}" for t in range(1, len(j) + 1)]
    summary = dict(zip(SUMMARY, map(float, numbers), strict=True))
    return {"object": i, "category": None, "seen": None, "summary": summary, "frames": frames, **more} | {
        "J": j.tolist(),
        "F": f.tolist(),
    }


def results_of(sequences: dict[str, list[Results]], **more: Any) -> Results:
    every = [one for objects in sequences.values() for one in objects]

    def mean(objects: list[Results]) -> dict[str, float]:
        return {key: float(np.mean([one["summary"][key] for one in objects])) for key in SUMMARY}

    return {
        "format": "hodor-scores/1",
        "profile": "davis2017",
        "compat": False,
        "options": {},
        "predictions": "ours",
        "ground_truth": "DAVIS",
        "summary": mean(every),
        "sequences": [{"name": n, "summary": mean(o), "objects": o} for n, o in sequences.items()],
        "frame_objects": sum(len(one["frames"]) for one in every),
        "notes": [],
        "run": None,
        **more,
    }


def random_results(rng: np.random.Generator, sequences: int, objects: int, length: int, shift: float = 0) -> Results:
    return results_of(
        {
            f"s{s:02d}": [object_of(o + 1, *(np.clip(rng.random((2, length)) + shift, 0, 1))) for o in range(objects)]
            for s in range(sequences)
        }
    )


@pytest.fixture
def small() -> Results:
    bear = [object_of(1, [0.9, 0.8, 1 / 3], [0.7, 0.6, 0.1]), object_of(7, [0.5, 0.5, 0.5], [0, 1, 0.25])]
    return results_of({"bear": bear, "bike": [object_of(2, [1, 1], [1, 0.5])]})


def without(results: Results, sequence: int) -> Results:
    return results_of({s["name"]: s["objects"] for n, s in enumerate(results["sequences"]) if n != sequence})


# Reading -----------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(small: Results, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(small))
    assert result_files.read(tmp_path / "a.json") == small


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"scores .*a\.json cannot be read as JSON: Expecting"),
        (
            '{"sequences": {}}',
            r"scores .*a\.json: expected the format hodor-scores/1, which .*, got None",
        ),
        ("[1]", "expected the format hodor-scores/1, which `hodor score --json` writes, got None"),
        ('{"format": "hodor-scores/1", "profile": "x", "summary": {}}', "are damaged: 'sequences' is missing"),
        ('{"format": "hodor-scores/1", "profile": "x", "summary": 3, "sequences": []}', "are damaged: "),
    ],
)
def test_what_is_not_a_results_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        result_files.read(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_a_missing_file_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist: `hodor score"):
        result_files.read(tmp_path / "none.json")


def test_rows_of_other_length_than_the_frames_are_refused(small: Results) -> None:
    small["sequences"][0]["objects"][0]["J"].pop()
    with pytest.raises(ValueError, match="scores x: bear, object 1: expected J of 3 frames, got 2"):
        result_files.parse(small, "x")


# CSV ---------------------------------------------------------------------------------------------------------------------


def test_the_csv_gives_every_float_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results = random_results(rng, 3, 2, 5)
    result_files.write_csv(results, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [sum(row["level"] == level for row in rows) for level in ("frame", "object", "sequence", "dataset")] == [30, 6, 3, 1]
    for sequence in results["sequences"]:
        for one in sequence["objects"]:
            mine = [r for r in rows if (r["sequence"], r["object"]) == (sequence["name"], str(one["object"]))]
            frames = [row for row in mine if row["level"] == "frame"]
            assert [float(row["J"]) for row in frames] == one["J"]
            assert [float(row["F"]) for row in frames] == one["F"]
            assert [row["frame"] for row in frames] == one["frames"]
            assert [float(row["J&F"]) for row in frames] == [(j + f) / 2 for j, f in zip(one["J"], one["F"], strict=True)]
            (whole,) = (row for row in mine if row["level"] == "object")
            assert {key: float(whole[key]) for key in SUMMARY} == one["summary"]
    assert {key: float(rows[-1][key]) for key in SUMMARY} == results["summary"]
    assert {row["profile"] for row in rows} == {"davis2017"}


def test_csv_cells_are_empty_where_nothing_is_known(small: Results, tmp_path: Path) -> None:
    one = small["sequences"][0]["objects"][0]
    one["J"][1] = None
    one["summary"]["J_decay"] = None
    one["seen"] = False
    small["summary"]["G"] = 0.5
    result_files.write_csv(small, tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["J"], rows[1]["J&F"], rows[1]["F"], rows[1]["G"]) == ("", "", "0.6", "")
    assert (rows[3]["level"], rows[3]["J_decay"], rows[3]["seen"]) == ("object", "", "false")
    assert rows[-1]["G"] == "0.5"


@pytest.mark.parametrize("write", [result_files.write_csv, result_files.write_html])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(
    write: Any, small: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(small, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write(small | {"predictions": "others"}, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# The page ----------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, text outside of style and script; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def of(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def page_of(results: Results, path: Path, **more: Any) -> Page:
    result_files.write_html(results, path, **more)
    return Page(path.read_text(encoding="utf-8"))


def decoded(path: str) -> dict[int, float]:
    """The reading of page.js, again: frame -> value."""
    found, x, y, absolute, second = {}, 0, 0, False, False
    for word in re.findall(r"[Ml]|-?\d+", path):
        if word in "Ml":
            absolute = word == "M"
        elif not second:
            x, second = int(word) + (0 if absolute else x), True
        else:
            y, second = int(word) + (0 if absolute else y), False
            found[x] = 1 - y / 1000
    return found


def test_a_path_holds_every_value_to_a_thousandth() -> None:
    row = np.random.default_rng(0).random(200)
    row[[0, 17, 18, 60]] = np.nan
    row[[5, 6]] = 0, 1
    found = decoded(charts.line(row))
    assert sorted(found) == [t for t in range(200) if not np.isnan(row[t])]
    assert max(abs(found[t] - row[t]) for t in found) <= 0.0005 + 1e-12
    assert charts.line(row).count("M") == 3
    assert sorted(decoded(charts.line(np.ones(9), every=4))) == [0, 4, 8]


def test_the_page_shows_each_object_in_two_charts(small: Results, tmp_path: Path) -> None:
    page = page_of(small, tmp_path / "a.html")
    paths = [a for a in page.of("path") if "data-o" in a]
    assert [a["data-o"] for a in paths] == ["1", "7", "1", "7", "2", "2"]
    assert len({a["class"] for a in paths[:2]}) == 2
    assert decoded(paths[0]["d"]) == pytest.approx({0: 0.9, 1: 0.8, 2: 1 / 3}, abs=0.0005)
    assert [json.loads(a["data-names"]) for a in page.of("details")] == [["00001", "00002", "00003"], ["00001", "00002"]]


def test_an_object_that_comes_late_starts_late_in_its_chart(small: Results, tmp_path: Path) -> None:
    one = small["sequences"][0]["objects"][1]
    for key in ("frames", "J", "F"):
        one[key] = one[key][1:]
    path = page_of(small, tmp_path / "a.html").of("path")
    assert sorted(decoded(next(a["d"] for a in path if a.get("data-o") == "7"))) == [1, 2]


def test_the_page_fetches_nothing_and_escapes_all_text(small: Results, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    small["sequences"][0]["name"] = evil
    small["sequences"][0]["objects"][0]["category"] = evil
    small["sequences"][0]["objects"][0]["frames"][0] = evil
    small |= {"predictions": evil, "ground_truth": evil, "notes": [evil], "options": {evil: evil}, "run": {"command": evil}}
    small["summary"][evil] = 0.5
    page = page_of(small, tmp_path / "a.html")
    assert len(page.of("script")) == 1
    assert sum(evil in word for word in page.words) >= 8
    text = (tmp_path / "a.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:|//)|url\(|@import|<link""", text)
    assert page.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].startswith("default-src 'none'")


def test_table_cells_hold_what_is_sorted_by(small: Results, tmp_path: Path) -> None:
    page = page_of(small, tmp_path / "a.html")
    values = [float(a["data-v"]) for a in page.of("td") if a.get("data-v")]
    assert values.count(float(f"{small['sequences'][1]['summary']['J&F']:.6g}")) == 2  # the sequence and its only object
    assert {"sequence", "object", "J&F", "J recall", "F decay"} <= set(page.words)


def test_the_page_contains_how_it_was_made(small: Results, tmp_path: Path) -> None:
    run = {"command": "hodor segment --dataset davis", "weights_sha256": "abc123", "fps": 11.25}
    page = page_of(small | {"run": run, "options": {"bound": 0.01}, "notes": ["bike: odd"]}, tmp_path / "a.html")
    for text in ("hodor segment --dataset davis", "abc123", "11.25", "bound", "0.01", "bike: odd", "davis2017", "DAVIS"):
        assert any(text in word for word in page.words), text
    assert any("The objects are those of the first ground-truth frame." in word for word in page.words)


def test_options_of_a_profile_change_its_sentences() -> None:
    assert "The first of these frames is given, and not scored." in sentences("davis2017", {})
    assert "The first of these frames is scored." in sentences("davis2017", {"first": True})
    assert sentences("my own", {}) == []


def test_thirty_sequences_of_61_objects_stay_under_five_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results = random_results(rng, 30, 61, 100)  # noise: every step takes as many digits as it can
    result_files.write_html(results, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert len(text.encode()) < 5_000_000
    assert text.count("<path class=") == (2 + 1) * 30 * 61  # two curves and a legend


def test_long_curves_skip_frames_and_a_note_says_so(small: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hodor.scoring.pages import page as pages

    monkeypatch.setattr(pages, "POINTS", 10)  # of 16
    page = page_of(small, tmp_path / "a.html")
    assert any("Curves are drawn in steps of 2 frames" in word for word in page.words)
    assert sorted(decoded(next(a["d"] for a in page.of("path") if a.get("data-o") == "1"))) == [0, 2]


# The worst frames --------------------------------------------------------------------------------------------------------


def test_the_worst_frames_come_first_and_are_apart() -> None:
    j = np.ones(40)
    j[10:20] = 0  # lost: ten frames, one failure
    j[30] = 0.2
    other = np.full(40, 0.9)
    other[10], other[25] = 0.1, 0.3
    results = result_files.parse(results_of({"a": [object_of(1, j, j), object_of(2, other, other)]}))
    worst = pictures.worst_frames(results, 5)
    assert [(w.frame, w.object) for w in worst[:4]] == [("00011", 1), ("00016", 1), ("00031", 1), ("00026", 2)]
    assert len(worst) == 5
    assert len({w.frame for w in worst}) == 5
    assert pictures.worst_frames(results, 0) == []


@pytest.fixture
def folders(tmp_path: Path, small: Results) -> dict[str, Path]:
    """Masks and images of `small`: the prediction is 4 columns right of the ground truth."""
    for sequence in small["sequences"]:
        for frame in ("00000", *sequence["objects"][0]["frames"], "00009"):
            ground_truth = np.zeros((60, 80), np.uint8)
            for n, one in enumerate(sequence["objects"]):
                ground_truth[10:30, 10 + 30 * n : 30 + 30 * n] = one["object"]
            place = Path(sequence["name"]) / f"{frame}.png"
            write_labels(tmp_path / "ground_truth" / place, ground_truth)
            write_labels(tmp_path / "ours" / place, np.roll(ground_truth, 4, 1))
            image = tmp_path / "frames" / place.with_suffix(".jpg")
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 60), (200, 30, 30)).save(image)
    return {"predictions": tmp_path / "ours", "ground_truth": tmp_path / "ground_truth", "images": tmp_path / "frames"}


def shown(uri: str) -> np.ndarray[Any, Any]:
    import base64
    import io

    head, data = uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)


def near(picture: np.ndarray[Any, Any], colour: tuple[int, int, int], within: int = 40) -> float:
    """The share of pixels of about this colour."""
    return float((np.abs(picture - colour).max(2) < within).mean())


def test_pictures_show_missed_pixels_blue_and_false_ones_orange(
    small: Results, folders: dict[str, Path], tmp_path: Path
) -> None:
    page = page_of(small, tmp_path / "a.html", **folders, worst=2)
    images = page.of("img")
    assert [a["alt"] for a in images] == [
        *("ground truth", "prediction", "errors of object 1"),
        *("ground truth", "prediction", "errors of object 7"),
    ]
    ground_truth, _, errors = (shown(a["src"]) for a in images[:3])
    assert errors.shape[1:] == (360, 3)
    # The window: 1.3 x 20/60 of each side, 26 x 35 pixels; missed and false are 4 x 20 of it, the outline in white.
    missed, false = (near(errors, tuple(int(0.75 * v + 8) for v in colour)) for colour in (pictures.MISSED, pictures.FALSE))
    assert 0.04 < missed < 0.09
    assert 0.06 < false < 0.1
    columns = [
        np.flatnonzero((np.abs(errors - np.array(c) * 0.75 - 8).max(2) < 40).any(0)).mean()
        for c in (pictures.MISSED, pictures.FALSE)
    ]
    assert columns[0] < columns[1]  # the prediction is to the right
    assert near(ground_truth, (200, 30, 30)) > 0.7  # the image itself
    assert any("20 % missed, 20 % false" in word for word in page.words)


def test_pictures_without_images_are_grey(small: Results, folders: dict[str, Path], tmp_path: Path) -> None:
    page = page_of(small, tmp_path / "a.html", **{**folders, "images": None}, worst=1)
    assert near(shown(page.of("img")[0]["src"]), (128, 128, 128), 12) > 0.7


def test_255_is_the_object_of_davis_2016_and_void_elsewhere() -> None:
    class One:
        single, name = False, "one"

        def names(self) -> list[str]:
            return ["s"]

        def read(self, sequence: str, frame: str) -> Any:
            return np.array([[0, 255]], np.uint8) if frame == "a" else np.array([[1, 255]], np.uint8)

        def planes(self, sequence: str, frame: str) -> dict[int, Any]:
            return {}

    labels, mask = pictures._read(One(), pictures.Worst("s", "a", 1, 0, 0), False)
    assert labels.tolist() == [[0, 1]]
    assert mask.tolist() == [[False, True]]
    labels, mask = pictures._read(One(), pictures.Worst("s", "b", 1, 0, 0), False)
    assert labels.tolist() == [[1, 0]]
    labels, mask = pictures._read(One(), pictures.Worst("s", "b", 1, 0, 0), True)
    assert mask.tolist() == [[True, True]]


def test_one_sequence_given_alone_may_have_any_name(small: Results, folders: dict[str, Path], tmp_path: Path) -> None:
    only = without(small, 1)
    alone = {"predictions": folders["predictions"] / "bear", "ground_truth": folders["ground_truth"] / "bear"}
    only["sequences"][0]["name"] = "sequence"
    page = page_of(only, tmp_path / "a.html", **alone, images=folders["images"] / "bear", worst=1)
    assert near(shown(page.of("img")[0]["src"]), (200, 30, 30)) > 0.6


def test_a_proposal_is_shown_by_what_it_covers(small: Results, folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["predictions"].rglob("*.png"):
        labels = np.asarray(Image.open(file))
        write_labels(file, np.where(labels == 1, 7, np.where(labels == 7, 1, labels)).astype(np.uint8))
    text = "20 % missed, 20 % false"
    assert not any(text in word for word in page_of(small, tmp_path / "a.html", **folders, worst=1).words)
    small["options"]["match"] = "proposals"
    assert any(text in word for word in page_of(small, tmp_path / "a.html", **folders, worst=1).words)


def test_pictures_need_both_masks_and_the_right_folders(small: Results, folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    with pytest.raises(ValueError, match="predictions without ground truth: pictures need both"):
        result_files.write_html(small, out, predictions=folders["predictions"])
    with pytest.raises(ValueError, match="ground truth without predictions"):
        result_files.write_html(small, out, ground_truth=folders["ground_truth"])
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        result_files.write_html(small, out, **{**folders, "images": "nowhere"})
    (tmp_path / "movies").mkdir()
    with pytest.raises(ValueError, match=r"movies has none of the pictures, such as \w+/\d+.jpg: give the folder of the"):
        result_files.write_html(small, out, **{**folders, "images": tmp_path / "movies"})
    with pytest.raises(ValueError, match="expected worst of at least 0, got -1"):
        result_files.write_html(small, out, worst=-1)
    small["sequences"][0]["name"] = "cow"
    with pytest.raises(ValueError, match="has no sequence cow: give the masks that were scored"):
        result_files.write_html(small, out, **folders)
    assert not out.exists()


# Comparing ---------------------------------------------------------------------------------------------------------------


def test_a_result_against_itself_differs_by_nothing(small: Results) -> None:
    found = result_files.compare([small, small], ["a", "b"], draws=500)
    assert found.sequences == ("bear", "bike")
    for one in found.differences:
        assert one.difference == 0
        assert (one.wins, one.losses) == (0, 0)
        if one.sequence is None:
            assert (one.low, one.high, one.better, one.ties) == (0, 0, 0.5, 2)


def test_the_dataset_is_the_mean_over_objects(small: Results) -> None:
    better = copy.deepcopy(small)
    better["sequences"][1]["objects"][0] = object_of(2, [1, 1], [1, 0.8])  # F 0.75 -> 0.9
    found = result_files.compare([small, better], ["a", "b"], draws=500)
    (f,) = found.dataset("F")
    assert f.difference == pytest.approx(0.15 / 3)
    assert f.first == pytest.approx(small["summary"]["F"])
    assert (f.wins, f.losses, f.ties) == (1, 0, 1)
    assert found.dataset("J")[0].difference == 0
    assert found.of("bike", "F")[0].difference == pytest.approx(0.15)
    assert found.notes[1] == ("b: the profile's average is 0.6352; the mean over objects is 0.6602")


def test_seen_and_unseen_weigh_the_same_under_a_g() -> None:
    def with_g(unseen: float) -> Results:
        seen = [object_of(i, [0.5] * 6, [0.5] * 6, seen=True) for i in (1, 2, 3)]
        results = results_of({"a": seen, "b": [object_of(1, [unseen] * 6, [unseen] * 6, seen=False)]})
        results["summary"]["G"] = (0.5 + unseen) / 2
        return results

    found = result_files.compare([with_g(0.5), with_g(0.7)], ["a", "b"], draws=200)
    assert found.dataset()[0].difference == pytest.approx(0.1)
    assert not any("the profile's average" in note for note in found.notes)


def test_swapping_the_files_flips_the_signs() -> None:
    rng = np.random.default_rng(3)
    a, b = random_results(rng, 8, 2, 30), random_results(rng, 8, 2, 30, 0.05)
    there, back = result_files.compare([a, b], ["a", "b"], draws=2000), result_files.compare([b, a], ["b", "a"], draws=2000)
    for one, other in zip(there.differences, back.differences, strict=True):
        assert one.low is not None
        assert other.high is not None
        assert one.high is not None
        assert one.better is not None
        assert other.better is not None
        assert one.low <= one.difference <= one.high
        assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -(other.low or 0)))
        assert one.better == pytest.approx(1 - other.better)
        assert (one.wins, one.losses) == (other.losses, other.wins)


def test_the_order_of_sequences_changes_no_interval() -> None:
    rng = np.random.default_rng(3)
    a, b = random_results(rng, 6, 2, 30), random_results(rng, 6, 2, 30)
    turned = {**b, "sequences": b["sequences"][::-1]}
    assert (
        result_files.compare([a, b], ["a", "b"], draws=500).differences
        == result_files.compare([a, turned], ["a", "b"], draws=500).differences
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    pair = [random_results(rng, 6, 2, 30), random_results(rng, 6, 2, 30)]
    first, again, other = (result_files.compare(pair, ["a", "b"], draws=500, seed=s).dataset()[0] for s in (1, 1, 2))
    assert first == again
    assert first.low != other.low


def test_a_third_file_changes_nothing_of_the_second() -> None:
    rng = np.random.default_rng(3)
    a, b, c = (random_results(rng, 6, 2, 30) for _ in range(3))
    three = result_files.compare([a, b, c], ["a", "b", "c"], draws=500)
    assert [d for d in three.differences if d.name == "b"] == list(
        result_files.compare([a, b], ["a", "b"], draws=500).differences
    )
    assert [d.name for d in three.dataset()] == ["b", "c"]


@pytest.mark.parametrize(("count", "low", "high"), [(3, 0.68, 0.84), (5, 0.87, 0.96), (10, 0.9, 0.98), (30, 0.91, 0.98)])
def test_intervals_hold_the_true_difference_as_often_as_documented(count: int, low: float, high: float) -> None:
    """A sequence's difference is 0.03 plus noise that its objects share, as objects of one video do."""
    rng = np.random.default_rng(count)
    runs, held = 300, 0
    for _ in range(runs):
        where = np.repeat(np.arange(count), rng.integers(1, 5, count))
        change = 0.03 + rng.normal(0, 0.05, count)[where] + rng.normal(0, 0.01, len(where))
        base = rng.uniform(0.5, 0.8, len(where))
        means = np.array([[base] * 3, [base + change] * 3])
        one = next(iter(intervals._of_dataset(means, where, [np.ones(len(where), bool)], ("a", "b"), 500, rng)))
        assert one.low is not None
        assert one.high is not None
        held += one.low <= 0.03 <= one.high
    assert low <= held / runs <= high


def test_an_interval_of_frames_holds_the_true_difference_though_they_hang_together() -> None:
    """A slow random walk back to the mean: neighbours are correlated (0.8), single frames would give too short bars."""
    rng = np.random.default_rng(1)
    runs, length, held = 200, 200, 0
    for _ in range(runs):
        noise = rng.normal(0, 0.05, length)
        walk = np.empty(length)
        walk[0] = noise[0] / 0.6
        for t in range(1, length):
            walk[t] = 0.8 * walk[t - 1] + noise[t]
        frames = np.zeros((2, 3, 1, length))
        frames[1] = 0.03 + walk
        rows = intervals._of_sequence("s", frames.mean(3), frames, ("a", "b"), 500, rng)
        one = next(iter(rows))
        assert one.low is not None
        assert one.high is not None
        held += one.low <= 0.03 <= one.high
    assert 0.85 <= held / runs <= 0.95


@pytest.mark.parametrize(("units", "t"), [(3, 4.303), (5, 2.776), (10, 2.262), (30, 2.045), (1000, 1.962)])
def test_intervals_of_few_units_are_as_wide_as_students_t(units: int, t: float) -> None:
    from statistics import NormalDist

    wide = -NormalDist().inv_cdf(intervals.widened(units))
    assert wide == pytest.approx(t * (units / (units - 1)) ** 0.5, rel=0.03 if units == 3 else 0.002)


def test_one_sequence_has_no_interval_of_the_dataset(small: Results) -> None:
    one = without(small, 1)
    found = result_files.compare([one, one], ["a", "b"])
    assert (found.dataset()[0].low, found.dataset()[0].better) == (None, None)


def test_few_sequences_are_noted(small: Results) -> None:
    found = result_files.compare([small, small], ["a", "b"], draws=200)
    assert found.notes == ("2 sequences: the dataset's interval is too short for so few",)
    rng = np.random.default_rng(0)
    many = random_results(rng, 5, 1, 6)
    assert result_files.compare([many, many], ["a", "b"], draws=200).notes == ()


def test_objects_that_are_not_in_all_are_refused_or_listed(small: Results) -> None:
    less = without(small, 1)
    with pytest.raises(ValueError, match=r"^1 object is not in all results \(bike 2\): --common compares the others$"):
        result_files.compare([small, less], ["a", "b"])
    found = result_files.compare([small, less], ["a", "b"], common=True, draws=200)
    assert found.left_out == ("bike 2",)
    assert (found.sequences, found.objects) == (("bear",), 2)
    with pytest.raises(ValueError, match="have no object in common"):
        result_files.compare([less, without(small, 0)], ["a", "b"], common=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "lvos"}, "^b was scored by lvos, a by davis2017: score both by one profile$"),
        ({"compat": True}, "^b was scored with compat True, a with False: use one of them$"),
        (
            {"options": {"bound": 1}},
            r"^b was scored with other options than a \(bound 1 instead of None\): score both with",
        ),
    ],
)
def test_scores_of_other_rules_are_refused(small: Results, change: Results, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result_files.compare([small, small | change], ["a", "b"])


def test_scores_of_other_frames_are_refused(small: Results) -> None:
    other = copy.deepcopy(small)
    other["sequences"][0]["objects"][0]["frames"][0] = "00004"
    with pytest.raises(
        ValueError, match="bear, object 1 was scored on other frames in b than in a: compare scores of one ground truth"
    ):
        result_files.compare([small, other], ["a", "b"])


def test_wrong_numbers_of_files_names_and_draws_are_refused(small: Results) -> None:
    with pytest.raises(ValueError, match="expected at least 2 results to compare, got 1"):
        result_files.compare([small], ["a"])
    with pytest.raises(ValueError, match="expected 2 different names, one per result, got a, a"):
        result_files.compare([small, small], ["a", "a"])
    with pytest.raises(ValueError, match="expected at least 100 draws, got 5"):
        result_files.compare([small, small], ["a", "b"], draws=5)


def test_the_forest_puts_each_difference_at_its_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    found = result_files.compare([random_results(rng, 4, 1, 30), random_results(rng, 4, 1, 30, 0.2)], ["<a>", "b&"], draws=500)
    result_files.write_comparison(found, tmp_path / "c.html")
    page = Page((tmp_path / "c.html").read_text())
    bars = [a for a in page.of("line") if a["class"].startswith("bar")]
    dots = [a for a in page.of("path") if a["class"].startswith("dot")]
    zero = next(float(a["x1"]) for a in page.of("line", **{"class": "zero"}))
    assert len(bars) == len(dots) == 3 * 5
    first = found.dataset()[0]
    ends = [float(dots[0]["d"][1:].split()[0]), float(bars[0]["x1"]), float(bars[0]["x2"])]
    assert first.low is not None
    assert first.high is not None
    scale = (ends[0] - zero) / first.difference
    assert scale > 0
    assert ends[1:] == pytest.approx([zero + scale * first.low, zero + scale * first.high], abs=0.5)
    assert "b& against <a>" in page.words
    ticks = re.findall(r'<span style="left:([0-9.]+)%">0</span>', (tmp_path / "c.html").read_text())
    assert float(ticks[0]) == pytest.approx(zero / 10, abs=0.05)


def test_the_command_prints_a_table_and_writes_both_files(
    small: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    better = copy.deepcopy(small)
    better["sequences"][1]["objects"][0] = object_of(2, [1, 1], [1, 0.8])
    for name, results in (("a", small), ("b", better)):
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    files = [str(tmp_path / f"{name}.json") for name in "ab"]
    assert command.main([*files, "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]) == 0
    out = capsys.readouterr().out
    assert "J&F of b minus a, by davis2017" in out
    assert re.search(r"dataset +63\.5 +66\.0 +\+2\.5", out)
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["format"] == "hodor-comparison/1"
    assert written["differences"][0]["difference"] == pytest.approx(0.025)
    assert (tmp_path / "c.html").stat().st_size > 5000
    assert command.main([*files, "--metric", "F", "--names", "old", "new", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["old", "new"]
    with pytest.raises(ValueError, match="expected --metric J&F, J or F, got K"):
        command.main([*files, "--metric", "K"])


@pytest.mark.parametrize("count", [2, 3])
def test_no_figure_of_the_comparison_is_cut_at_eighty_columns(count: int) -> None:
    name = "a-sequence-whose-name-is-longer-than-the-space-for-it"
    low, high = [0.0] * 16, [1.0] * 16
    results = [results_of({f"{name}-{n}": [object_of(1, row, row)] for n in range(12)}) for row in (high, low, high)[:count]]
    names = [f"{name}.{n}" for n in range(count)]
    found = result_files.compare(results, names, draws=200)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(command.table(found))
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("-100.0 to -100.0 ") == 13
    assert text.count("-100.0 ") == 3 * 13
    assert re.search(r"100\.0 +0\.0 +-100\.0 +-100\.0 to -100\.0 +0\.0 % +0 +12 ", text)


@pytest.mark.parametrize(("value", "expected"), [(float("inf"), "infinite"), (-0.5, "from 0 to 1"), (2.0, "from 0 to 1")])
def test_scores_outside_their_range_are_refused(value: float, expected: str) -> None:
    given = results_of({"bear": [object_of(1, [0.5, value], [0.5, 0.5])]})
    with pytest.raises(ValueError, match=expected):
        result_files.write_csv(given, "unused.csv")


def test_an_infinite_mean_is_refused(tmp_path: Path) -> None:
    given = results_of({"bear": [object_of(1, [0.5, 0.5], [0.5, 0.5])]})
    given["summary"]["J"] = float("inf")
    with pytest.raises(ValueError, match="are damaged: J is infinite"):
        result_files.write_csv(given, tmp_path / "unused.csv")
