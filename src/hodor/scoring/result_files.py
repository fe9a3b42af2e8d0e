"""What a results file says: read it, write it as CSV or as a page, compare several.

    results = read("scores.json")                                     # `hodor evaluate ... --json scores.json`
    write_csv(results, "scores.csv")
    write_html(results, "scores.html", predictions="predictions", ground truth="ground truth", images="frames")
    comparison = compare([read("a.json"), read("b.json")], ["a", "b"])
    write_comparison(comparison, "compared.html")

A results file is JSON of the format "hodor-scores/1": per-frame J and F of every object, and their means up to the
dataset, all in [0, 1]. Every function here takes it as the plain dict that json.load gives. The bootstrap of `compare` is
told in hodor.scoring.intervals.
"""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hodor.scoring.results import COLUMNS, Scores, parse

if TYPE_CHECKING:
    from hodor.scoring.intervals import Comparison
    from hodor.scoring.pages.pictures import Images


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a results file -> its dict, checked as `parse` checks it.

    Raises FileNotFoundError "scores x.json does not exist: `hodor evaluate ... --json x.json` writes one" and ValueError
    "scores x.json cannot be read as JSON: ...", or what `parse` raises.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"scores {path} does not exist: `hodor evaluate ... --json {path}` writes one")
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both one
        raise ValueError(f"scores {path} cannot be read as JSON: {error}") from None
    parse(results, str(path))
    return dict(results)


def write_csv(results: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write everything as one tidy CSV, UTF-8: a row a frame, object, sequence, and one for the dataset.

    Columns: level ("frame", "object", "sequence" or "dataset"), profile, sequence, object, category, seen (true, false),
    frame, J&F, J, F, J_recall, J_decay, F_recall, F_decay, and the profile's own numbers. A cell is empty where a level
    has no such thing. Numbers are written so that reading them gives the same float again. A name that a spreadsheet
    would take for a formula stays as it is. Whole or not at all. Raises ValueError as `parse`.
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
        file.write(text.getvalue().encode())


def write_html(
    results: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    predictions: Any = None,
    ground_truth: Any = None,
    images: "Images" = None,
    worst: int = 12,
) -> None:
    """Write one HTML file that holds everything: tables that sort, curves over time, the worst frames, how it was run.

    It needs no network and no other file. `predictions` and `ground_truth`: the masks that were scored, anything that
    hodor.scoring.stores.open.open_store takes; with both, the `worst` frames are shown as pictures. `images`: the folder of the
    frames, <images>/<sequence>/<frame>.jpg or .png, or for one sequence <images>/<frame>.jpg, or a function (sequence,
    frame) -> uint8 RGB [H, W, 3] or None; without it pictures are grey. About 90 kB a worst frame and 15 bytes a evaluated
    mask; above 300 000 of these the curves leave frames out, and the page says so. Whole or not at all.

    Raises ValueError as `parse`; "predictions without ground truth: pictures need both"; "worst -1: wanted 0 or more"; "images
    FOLDER is no folder: wanted one with <sequence>/<frame>.jpg", "images FOLDER holds none of the pictures ..."; what
    the stores raise.
    """
    from hodor.masks import written_whole
    from hodor.scoring.pages import page, pictures

    scores = parse(results)
    if worst < 0:
        raise ValueError(f"worst {worst}: wanted 0 or more")
    if (predictions is None) != (ground_truth is None):
        names = ("ground_truth", "predictions") if predictions is None else ("predictions", "ground_truth")
        raise ValueError(f"{names[0]} without {names[1]}: pictures need both")
    frames = pictures.worst_frames(scores, worst)
    shown = None
    if predictions is not None:
        whole, proposals = scores.options.get("objects") == "one", scores.options.get("match") == "proposals"
        shown = pictures.draw(frames, predictions, ground_truth, images, whole, proposals)
    text = page.scores_page(scores, frames, shown)
    with written_whole(path) as file:
        file.write(text.encode())


def compare(
    results: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    *,
    draws: int = 10_000,
    seed: int = 0,
    common: bool = False,
) -> "Comparison":
    """Differences of J&F, J and F to the first of several results, of the dataset and of every sequence, with intervals.

    All must be scored by one profile, with one `compat` and one set of options, on the same objects and frames. With
    `common`, objects that are not in all of them are left out and listed. `draws` and `seed` are the bootstrap's: see
    hodor.scoring.intervals for what is drawn. The same seed gives the same intervals.

    Raises ValueError as `parse`; "1 results to compare: wanted two or more"; "b was scored by lvos, a by davis2017: score
    both by one profile"; "b was scored with compat True, a with False: ..."; "b was scored with the options ...";
    "2 objects are not in all results (bear 2, bike 1): --common compares the others"; "bear, object 1 was evaluated on other
    frames in b than in a: compare scores of one ground truth".
    """
    from hodor.scoring import intervals

    if len(results) < 2:
        raise ValueError(f"{len(results)} results to compare: wanted two or more")
    if len(names) != len(results) or len(set(names)) < len(names):
        raise ValueError(f"names {', '.join(names)} for {len(results)} results: wanted as many, all different")
    if draws < 100:
        raise ValueError(f"{draws} draws: wanted 100 or more")
    scores = [parse(one, name) for one, name in zip(results, names, strict=True)]
    return intervals.compare(scores, names, draws, seed, common)


def write_comparison(comparison: "Comparison", path: str | os.PathLike[str]) -> None:
    """Write a comparison as one HTML file: forest plots of the differences, and all numbers. Whole or not at all."""
    from hodor.masks import written_whole
    from hodor.scoring.pages import page

    text = page.comparison_page(comparison)
    with written_whole(path) as file:
        file.write(text.encode())


def _rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """The CSV's rows, frames before their object, objects before their sequence, the dataset last."""
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
