"""Read one picture file as labels. The first rule that applies decides what the value of a pixel means:

    palette picture        the index is the id, unless the colours show that an editor has reordered the palette
    0 and 255              object 1; with 16 bits also 0 and 65535
    38, 75, 113, 15, ...   greys of the DAVIS palette's colours, from a palette converted to grey; ids 1, 2, 3, 4, ...
    255 with small ids     void, which becomes background
    other greys            the value is the id
    colours                DAVIS palette colours are their ids; else 1, 2, ... in the order of red, green, blue
    alpha with a shape     alpha > 127 is object 1; over a few uniform colours, what is not background is an object

Every decision is reported in the notes. Use `hodor.mask_files.doctor` to read masks; this module is a part of it.
"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from hodor.mask_files.lossy import is_lossy
from hodor.mask_files.marks import Mark, Marks
from hodor.mask_files.stray_values import MAX_VALUES, Classes, classify, clutter, is_dust, is_gradient, repair_edges
from hodor.masks import VOID, Labels, label_dtype, open_picture, palette

Plane = npt.NDArray[np.bool_]
Colours = npt.NDArray[np.uint8]
MAX_CLUTTER = 0.25  # a picture with more clutter is a photograph or dithered; half of this for 64 to 256 values
MAX_LOSSY = 4  # coarse colours of a lossy cut-out that could be objects; a photograph has more
UNIFORM = 0.9  # share of a cut-out's pixels in few colours from which the colours are objects


class Found(NamedTuple):
    """The content of one file, before it is resized to the video.

    Attributes:
        labels: ids per pixel [H, W]; there can be no object.
        kind: format of the file in words.
        notes: what was found and repaired, one line each.
        names: id -> name of the object, where the file has one.
        marks: id -> what the file states about the identity of the object.
    """

    labels: Labels
    kind: str
    notes: list[str]
    names: dict[int, str]
    marks: Marks = MappingProxyType({})


def read_picture(path: Path) -> Found:
    """Read one picture file as labels.

    Args:
        path: the file.

    Returns:
        The labels, which can be without an object, with notes and format.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: the file is no picture, or no mask.
    """
    picture, step = open_picture(path)
    where, form = f"mask {path}", f"{picture.format}"
    notes: list[str] = []
    if picture.mode == "1":
        return Found(np.asarray(picture, np.uint8), f"black and white {form}", notes, {})
    lossy = is_lossy(picture, path)
    if lossy and (picture.mode != "RGBA" or picture.getchannel("A").getextrema() == (255, 255)):
        form = form if form in ("JPEG", "MPO") else f"lossy {form}"
        return Found(_threshold_lossy(np.asarray(picture.convert("RGB")), form, where, notes), form, notes, {})
    if picture.mode == "P":
        index = np.asarray(picture)
        if _index_is_id(picture, index, notes):
            labels, marks = _from_values(index, True, where, notes)
            return Found(labels, f"palette {form}", notes, {}, _with_colours(marks, picture))
        picture = picture.convert("RGB")
    if picture.mode[0] in "IF":
        wide = np.asarray(picture)
        if not np.array_equal(wide, np.round(wide)) or wide.min(initial=0) < 0:
            raise ValueError(f"{where}: expected ids from 0, got fractions or negative numbers ({wide.min()} to {wide.max()})")
        labels, marks = _from_values(_narrowed(wide.astype(np.int64), notes), False, where, notes)
        return Found(labels, f"{'16' if 'I;16' in picture.mode else '32'}-bit grey {form}", notes, {}, marks)
    if picture.mode not in ("L", "RGB"):
        with_alpha = picture.convert("RGBA")
        alpha = np.asarray(with_alpha)[..., 3] > 127
        picture = with_alpha.convert("RGB")
        if alpha.any() and not alpha.all():
            return _from_alpha(np.asarray(picture), alpha, lossy, form, where, notes)
    pixels = np.asarray(picture)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3:
        labels, marks = _from_colours(pixels, where, notes)
        return Found(labels, f"colours in {form}", notes, {}, marks)
    if step > 1 and len(np.unique(pixels)) > 2:  # 2 or 4 bits a pixel; two values alone are black and white
        notes.append(
            f"a grey {form} of {8 // (2 if step == 17 else 4)} bits: values divided by {step}, which gives the stored ones"
        )
        pixels = pixels // step
    labels, marks = _from_values(pixels, False, where, notes)
    return Found(labels, f"grey {form}", notes, {}, marks)


def _narrowed(wide: npt.NDArray[np.int64], notes: list[str]) -> npt.NDArray[np.int64]:
    """Scale a 16-bit matte with soft edges to 8 bits: it has 65535, and shades between without an interior. Keep ids."""
    if not wide.size or int(wide.max()) != 65535:
        return wide
    between = np.setdiff1d(wide, (0, 65535))
    if not len(between) or np.mean(between <= 4096) >= 0.5 or not is_dust(classify(wide)):
        return wide
    notes.append(f"a matte of 16 bits: {len(between)} shades between 0 and 65535, scaled to 0..255")
    return (wide + 128) // 257


def _with_colours(marks: Marks, picture: Image.Image) -> Marks:
    """Add the colours of a palette to the marks; not those of a palette of greys or with one colour twice."""
    stored = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = {i: tuple(stored[i].tolist()) for i in marks if i < len(stored) and marks[i]}
    if len(set(colours.values())) < len(marks) or all(len(set(colour)) == 1 for colour in colours.values()):
        return marks
    return {i: (*marks[i], Mark("colour", colour)) for i, colour in colours.items()}


def _index_is_id(picture: Image.Image, index: npt.NDArray[Any], notes: list[str]) -> bool:
    """Return whether the indices of a palette picture are ids; False (with a note) if its colours show that they are not."""
    used = np.unique(index)
    stored = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(stored)] = stored[:256]
    if (colours[used] == palette()[used]).all() or (colours[used] == used[:, None]).all():
        return True
    black = used[(colours[used] == 0).all(1)]
    if len(black) and black[0] != 0 and colours[0].any():
        notes.append(f"the palette has black at index {black[0]}, not 0: read by its colours, not its indices")
        return False
    if len(used) > 3:
        repaired, moved = repair_edges(classify(colours[index]), False)
        if moved and len(used) - len(repaired.values) >= 3:
            notes.append("the palette has shades of smoothed edges: read by its colours, not its indices")
            return False
    return True


def _threshold_lossy(pixels: Colours, form: str, where: str, notes: list[str]) -> Labels:
    """Threshold a black and white JPEG or WebP; others are rejected, since compression noise adds values of its own."""
    bright = pixels.max(2)
    tinted = int(np.count_nonzero(bright - pixels.min(2) > 60))
    low, high = int(np.count_nonzero(bright < 64)), int(np.count_nonzero(bright > 191))
    between = bright.size - low - high
    if not high or between > 0.05 * bright.size or tinted > 0.01 * bright.size:
        raise ValueError(
            f"{where} is a {form} that is not black and white ({low} px dark, {between} px between, {high} px bright, "
            f"{tinted} px coloured), whose noise would become false objects: save the mask as PNG"
        )
    noisy = int(np.count_nonzero((bright > 0) & (bright < 255)))
    notes.append(f"{form} noise in {noisy} px: above 127 is object 1")
    labels: Labels = (bright > 127).astype(np.uint8)
    return labels


def _from_alpha(pixels: Colours, alpha: Plane, lossy: bool, form: str, where: str, notes: list[str]) -> Found:
    """Read a picture with a shape in its alpha. A few uniform colours inside are objects; else the shape is the object."""
    inside = np.where(alpha[..., None], pixels, 0).astype(np.uint8)
    counts = np.sort(classify((inside[alpha] // 64 * 64 if lossy else inside[alpha])[None]).counts())[::-1]
    plain = (len(counts) == 1 and int(np.ptp(inside[alpha])) == 0) or (lossy and counts[0] >= 0.95 * counts.sum())
    if lossy and not plain and counts[:MAX_LOSSY].sum() >= UNIFORM * counts.sum():
        raise ValueError(f"{where} is a lossy {form} of a few colours, whose noise would become false objects: save it as PNG")
    if plain or lossy or counts[:MAX_VALUES].sum() < UNIFORM * counts.sum():
        content = "of one colour" if plain and lossy else "of one grey" if plain else f"a cut-out in {len(counts)} colours"
        notes.append(f"alpha above 127 is object 1: {int(alpha.sum())} px, {content}")
        return Found(alpha.astype(np.uint8), f"alpha of {form}", notes, {})
    notes.append(f"{int(alpha.size - alpha.sum())} transparent px are background")
    if (inside == inside[..., :1]).all():
        labels, marks = _from_values(inside[..., 0], False, where, notes)
        return Found(labels, f"grey with alpha in {form}", notes, {}, marks)
    labels, marks = _from_colours(inside, where, notes)
    return Found(labels, f"colours with alpha in {form}", notes, {}, marks)


def _clean(classes: Classes, trusted: bool, where: str, notes: list[str]) -> Classes:
    """Remove the stray values of smoothed edges. Raises ValueError where the values are no list of objects."""
    before = classes
    classes, moved = repair_edges(classes, trusted)
    if moved:
        removed = ~(before.values[:, None] == classes.values[None]).all(2).any(1)
        commonest = int(np.where(removed, before.counts(), 0).argmax())
        number = len(before.values) - len(classes.values)
        shades = f"smoothed edges: {moved} px in {number} shades assigned to what is next to them"
        notes.append(f"{shades}; the commonest shade: {before.counts()[commonest]} px of {_value(before.values[commonest])}")
    counts, number = classes.counts(), len(classes.values)
    is_smooth = number > MAX_VALUES and not trusted and (is_gradient(classes) or is_dust(classes))
    limit = MAX_CLUTTER / 2 if 64 <= number <= 256 else MAX_CLUTTER
    if is_smooth or (number > 3 and clutter(classes) > limit):
        largest = np.argsort(-counts, kind="stable")[:4]
        shown = ", ".join(f"{_value(classes.values[k])}: {counts[k]} px" for k in largest)
        content = f"holds {number} values without clear objects ({shown}, ...), like a photograph or a smoothed mask"
        raise ValueError(f"{where} {content}: save the mask as a palette PNG without smoothing")
    return classes


def _from_values(values: npt.NDArray[Any], indexed: bool, where: str, notes: list[str]) -> tuple[Labels, Marks]:
    """Convert grey values or palette indices [H, W] to labels and marks; a black and white picture states no identity."""
    classes = classify(values)
    ids = classes.values[:, 0]
    small = ids[(ids > 0) & ((ids != VOID) | (ids[-1] > VOID))]  # with ids above 255, 255 is an id too
    top = int(small.max(initial=0))
    # numbers 1..n are ids, unless more than a third have no interior: then they are shades of something smooth
    trusted = indexed or top <= MAX_VALUES or (top == len(small) and not is_dust(classes))
    classes = _clean(classes, trusted, where, notes)
    ids, counts = classes.values[:, 0].copy(), classes.counts()
    shown = ids[ids > 0]
    stored: Marks = {}
    black_and_white = shown.tolist() in ([VOID], [65535])
    if black_and_white:
        notes.append(f"0 and {shown[0]}: {counts[-1]} px of {shown[0]} are object 1")
        ids[-1] = 1
    elif not indexed and (greys := _ids_of_greys(shown)):
        listed = ", ".join(f"{grey} is id {i}" for grey, i in greys.items())
        notes.append(f"a palette that was converted to grey: {listed}")
        ids = np.array([greys.get(int(grey), 0) for grey in ids])
        stored = {i: (Mark("value", i), Mark("grey", grey)) for grey, i in greys.items() if i}
    elif VOID in shown and (indexed or int(shown[shown != VOID].max()) <= 100):
        notes.append(f"255 is void: {counts[ids == VOID][0]} px set to background")
        ids[ids == VOID] = 0
    labels: Labels = ids.astype(label_dtype(int(ids.max(initial=0))))[classes.at]
    return labels, stored or {int(i): () if black_and_white else (Mark("value", int(i)),) for i in ids if i}


def ids_by_grey() -> dict[int, int]:
    """Return the greys of the DAVIS palette's first 15 colours and of void: grey -> id, 0 for void."""
    grey_of = np.asarray(Image.fromarray(palette()[None]).convert("L"))[0].tolist()
    return {grey_of[i]: i for i in range(1, 16)} | {grey_of[VOID]: 0}


def _ids_of_greys(shown: npt.NDArray[Any]) -> dict[int, int]:
    """Return {grey: id} if all values are greys of the DAVIS palette's first 15 colours, which all differ; else {}.

    A single value could be an id itself, so only 38, the grey of id 1, is then read as a grey. 220 is the grey of void.
    """
    greys = ids_by_grey()
    found = {int(v): greys[int(v)] for v in shown if int(v) in greys}
    objects = [i for i in found.values() if i]
    return found if len(found) == len(shown) and (len(objects) > 1 or objects == [1]) else {}


def _from_colours(pixels: Colours, where: str, notes: list[str]) -> tuple[Labels, Marks]:
    """Convert colours [H, W, 3] to labels and marks. Black, else the commonest colour along the border, is the background."""
    classes = _clean(classify(pixels), False, where, notes)
    colours, counts = [tuple(v) for v in classes.values.tolist()], classes.counts()
    palette_ids = {tuple(colour): i for i, colour in enumerate(palette().tolist())}
    marks: dict[int, tuple[Mark, ...]] = {}
    if (0, 0, 0) in colours:
        ground = colours.index((0, 0, 0))
    else:
        at = classes.at
        border = np.concatenate([at[0], at[-1], at[:, 0], at[:, -1]])
        ground = int(np.bincount(border).argmax())
        notes.append(f"no black: {_value(colours[ground])} along the border is background, {counts[ground]} px")
        marks[0] = (Mark("colour", colours[ground]),)
    objects = [k for k in range(len(colours)) if k != ground]
    if all(colours[k] in palette_ids for k in objects):
        ids = {k: palette_ids[colours[k]] % VOID for k in objects}
        marks |= {i: (Mark("value", i), Mark("colour", colours[k])) for k, i in ids.items() if i}
        notes.append("colours of the DAVIS palette: " + _listed(objects, colours, ids))
    else:
        ids = {k: i for i, k in enumerate(objects, 1)}
        marks |= {i: (Mark("colour", colours[k]),) for k, i in ids.items()}
        notes.append("colours numbered by red, green, blue: " + _listed(objects, colours, ids))
    table = np.array([ids.get(k, 0) for k in range(len(colours))])
    labels: Labels = table.astype(label_dtype(int(table.max(initial=0))))[classes.at]
    return labels, marks


def _listed(objects: list[int], colours: Sequence[Any], ids: dict[int, int]) -> str:
    """List which colour is which id."""
    return ", ".join(f"{_value(colours[k])} is {f'id {ids[k]}' if ids[k] else 'void, so background'}" for k in objects)


def _value(value: Sequence[int]) -> str:
    """Format a grey or index as a number, a colour as (red, green, blue)."""
    return str(int(value[0])) if len(value) == 1 else "(" + ", ".join(str(int(c)) for c in value) + ")"


def describe_picture(path: Path) -> list[str]:
    """Describe format, size and values of one picture file; of a JSON file only its name and length.

    Args:
        path: the file.

    Returns:
        Lines of text.

    Raises:
        FileNotFoundError: "mask x.png does not exist".
        ValueError: "mask x.png cannot be read as a picture: ...".
    """
    if path.suffix.lower() == ".json":
        return [f"file    {path}: JSON, {path.stat().st_size} bytes"]
    picture, _ = open_picture(path)
    lines = [f"file    {path}: {picture.format}, mode {picture.mode}, {picture.width}x{picture.height}"]
    pixels = np.asarray(picture if picture.mode in ("P", "L", "1") or picture.mode[0] == "I" else picture.convert("RGB"))
    classes = classify(pixels)
    counts = classes.counts()
    largest = np.argsort(-counts, kind="stable")[:12]
    shown = ", ".join(f"{_value(classes.values[k])}: {counts[k]} px" for k in sorted(largest))
    more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
    lines.append(f"values  {shown}{more}")
    if "A" in picture.mode:
        alpha = np.asarray(picture.getchannel("A"))
        lines.append(f"alpha   {alpha.min()} to {alpha.max()}, above 127: {np.count_nonzero(alpha > 127)} px")
    return lines
