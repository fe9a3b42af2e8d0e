"""Results files: read one, write it as CSV or as an HTML page, compare several.

    results = read("scores.json")                                     # from `hodor score ... --json scores.json`
    write_csv(results, "scores.csv")
    write_html(results, "scores.html", predictions="predictions", ground_truth="ground_truth", images="frames")
    comparison = compare([read("a.json"), read("b.json")], ["a", "b"])
    write_comparison(comparison, "compared.html")

A results file is JSON of the format "hodor-scores/1": J and F of every object on every frame, and their means up to the data
set, all in [0, 1]. The functions here accept it as the plain dict that json.load returns. hodor.scoring.intervals describes the
bootstrap of `compare`.
"""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hodor.files import parse_json
from hodor.scoring.results import COLUMNS, Scores, parse

if TYPE_CHECKING:
    from hodor.scoring.intervals import Comparison
    from hodor.scoring.pages.pictures import Images


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a results file and check it.

    Args:
        path: the file.

    Returns:
        Its content as a dict.

    Raises:
        FileNotFoundError: "scores x.json does not exist: `hodor score ... --json x.json` writes one".
        ValueError: "scores x.json cannot be read as JSON: ..."; what `parse` raises.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"scores {path} does not exist: `hodor score ... --json {path}` writes one")
    try:
        results = parse_json(Path(path).read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both one
        raise ValueError(f"scores {path} cannot be read as JSON: {error}") from None
    parse(results, str(path))
    return dict(results)


def write_csv(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write all numbers as one tidy CSV file, UTF-8: one row per frame, object and sequence, and one for the data set.

    Columns: level ("frame", "object", "sequence" or "dataset"), profile, sequence, object, category, seen (true, false),
    frame, J&F, J, F, J_recall, J_decay, F_recall, F_decay, and the profile's own numbers. A cell is empty if its level has no
    such value. Reading a number gives the same float again. Names are not escaped, even if a spreadsheet would read one as a
    formula. The file is written completely or not at all.

    Args:
        results: the content of a results file.
        path: the CSV file.

    Raises:
        ValueError: what `parse` raises.
    """
    from hodor.masks import written_whole

    scores = parse(results)
    rows = list(_rows(scores))
    head = ["level", "profile", "sequence", "object", "category", "seen", "frame"]
    head += dict.fromkeys([*COLUMNS, *(key for row in rows for key in row if key not in head)])
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, head, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    with written_whole(path) as file:
        file.write(text.getvalue().encode(errors="replace"))


def write_html(
    results: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    predictions: Any = None,
    ground_truth: Any = None,
    images: "Images" = None,
    worst: int = 12,
) -> None:
    """Write one HTML file with sortable tables, curves over time, the worst frames, and how the masks were made and scored.

    The page needs no network and no other file. Its size is about 90 kB per worst frame and 15 bytes per scored mask. Above
    300 000 scored masks the curves skip frames, and the page contains a note about it. The file is written completely or not at
    all.

    Args:
        results: the content of a results file.
        path: the HTML file.
        predictions: the masks that were scored, anything that hodor.scoring.stores.open.open_store accepts. With
            `ground_truth`, the worst frames are shown as pictures.
        ground_truth: the ground-truth masks, the same.
        images: the folder of the frames, <images>/<sequence>/<frame>.jpg or .png, or for one sequence <images>/<frame>.jpg; or
            a function (sequence, frame) -> uint8 RGB [H, W, 3] or None. Without it pictures are grey.
        worst: number of worst frames to show, at least 0. Default: 12.

    Raises:
        ValueError: "predictions without ground truth: pictures need both"; "expected worst of at least 0, got -1"; "images
            FOLDER has none of the pictures ..."; what `parse` and the stores raise.
        FileNotFoundError: "images FOLDER is not a folder: give one with <sequence>/<frame>.jpg".
    """
    from hodor.masks import written_whole
    from hodor.scoring.pages import page, pictures

    scores = parse(results)
    if worst < 0:
        raise ValueError(f"expected worst of at least 0, got {worst}")
    if (predictions is None) != (ground_truth is None):
        names = ("ground truth", "predictions") if predictions is None else ("predictions", "ground truth")
        raise ValueError(f"{names[0]} without {names[1]}: pictures need both")
    frames = pictures.worst_frames(scores, worst)
    shown = None
    if predictions is not None:
        whole, proposals = scores.options.get("objects") == "one", scores.options.get("match") == "proposals"
        shown = pictures.draw(frames, predictions, ground_truth, images, whole, proposals)
    text = page.scores_page(scores, frames, shown)
    with written_whole(path) as file:
        file.write(text.encode(errors="replace"))


def compare(
    results: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    draws: int = 10_000,
    seed: int = 0,
    common: bool = False,
) -> "Comparison":
    """Compare several results with the first: differences of J&F, J and F, with intervals.

    There is a difference for the data set and for every sequence.

    All must be scored by the same profile, `compat` and options, on the same objects and frames.

    Args:
        results: contents of results files, at least two.
        names: a name for each, all different.
        draws: number of bootstrap resamples, at least 100. hodor.scoring.intervals describes what is resampled. Default:
            10_000.
        seed: seed of the bootstrap; the same seed gives the same intervals. Default: 0.
        common: whether objects that are not in all results are left out and listed; otherwise they are an error. Default:
            False.

    Raises:
        ValueError: "expected at least 2 results to compare, got 1"; "b was scored by lvos, a by davis2017: score both by one
            profile"; "b was scored with compat True, a with False: ..."; "b was scored with other options than a ..."; "2
            objects are not in all results (bear 2, bike 1): --common compares the others"; "bear, object 1 was scored on other
            frames in b than in a: compare scores of one ground truth"; what `parse` raises.
    """
    from hodor.scoring import intervals

    if len(results) < 2:
        raise ValueError(f"expected at least 2 results to compare, got {len(results)}")
    if len(names) != len(results) or len(set(names)) < len(names):
        raise ValueError(f"expected {len(results)} different names, one per result, got {', '.join(names)}")
    if draws < 100:
        raise ValueError(f"expected at least 100 draws, got {draws}")
    scores = [parse(one, name) for one, name in zip(results, names, strict=True)]
    return intervals.compare(scores, names, draws, seed, common)


def write_comparison(comparison: "Comparison", path: str | os.PathLike[str]) -> None:
    """Write a comparison as one HTML file: forest plots of the differences, and all numbers.

    The file is written completely or not at all.
    """
    from hodor.masks import written_whole
    from hodor.scoring.pages import page

    text = page.comparison_page(comparison)
    with written_whole(path) as file:
        file.write(text.encode(errors="replace"))


def _rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """Yield the rows of the CSV file: frames before their object, objects before their sequence, the data set last."""
    for sequence in scores.sequences:
        place: dict[str, Any] = {"profile": scores.profile, "sequence": sequence.name}
        for one in sequence.objects:
            of = {**place, "object": one.object, "category": one.category, "seen": one.seen}
            for frame, jf, j, f in zip(one.frames, one.jf, one.j, one.f, strict=True):
                yield {"level": "frame", **of, "frame": frame, "J&F": jf, "J": j, "F": f}
            yield {"level": "object", **of, **one.summary}
        yield {"level": "sequence", **place, **sequence.summary}
    yield {"level": "dataset", "profile": scores.profile, **scores.summary}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(float(value)) if isinstance(value, float) else str(value)
