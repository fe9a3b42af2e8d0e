"""The mask doctor on masks in many forms: every file here is written by Pillow, none by the package."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from test_masks import DATA, davis, one_line, write_grey_bits

from hodor.mask_files import doctor
from hodor.masks import palette, read_labels

H, W = 96, 128


def scene(*ids: int) -> np.ndarray:
    """A disc, a box and a triangle, the box touching the disc; ids in that order."""
    y, x = np.mgrid[:H, :W]
    shapes = [
        (y - 40) ** 2 + (x - 40) ** 2 < 28**2,
        (abs(y - 60) < 20) & (abs(x - 80) < 18),
        (x > 100) & (x < 126) & (y > x - 90) & (y < 40),
    ]
    labels = np.zeros((H, W), np.uint16 if max(ids) > 255 else np.uint8)
    for i, shape in zip(ids, shapes, strict=False):
        labels[shape] = i
    return labels


def coloured(labels: np.ndarray, colours: np.ndarray | None = None) -> Image.Image:
    return Image.fromarray((palette() if colours is None else colours)[labels].astype(np.uint8))


def indexed(labels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(palette().tobytes())
    return picture


def agrees(labels: np.ndarray, expected: np.ndarray, share: float = 1.0) -> None:
    """Same ids, and at least this share of each object's pixels (and of nothing) in its place."""
    assert sorted(set(labels.flat)) == sorted(set(expected.flat))
    for i in set(expected.flat):
        overlap, union = np.sum((labels == i) & (expected == i)), np.sum((labels == i) | (expected == i))
        assert overlap >= share * union, (i, overlap, union)


def noted(reading: doctor.Reading, *words: str) -> None:
    for word in words:
        assert any(word in note for note in reading.notes), (word, reading.notes)
    assert all(note and "\n" not in note for note in reading.notes)


# --- clean masks are not changed ---


def test_a_palette_png_keeps_its_ids_and_has_no_note(tmp_path: Path) -> None:
    labels = scene(1, 7, 200)
    indexed(labels).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, labels)
    assert (reading.objects, reading.notes, reading.kind) == ((1, 7, 200), (), "palette PNG")
    assert reading.labels.dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_few_bits_keeps_its_ids(tmp_path: Path, bits: int) -> None:
    labels = scene(*[min(i, 2**bits - 1) for i in (1, 2, 3)])
    picture = Image.fromarray(labels)
    picture.putpalette(palette()[: 2**bits].tobytes())
    picture.save(tmp_path / "m.png", bits=bits)
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


@pytest.mark.parametrize("ids", [(1, 2, 3), (5, 10, 40), (3, 90, 254), (60,), (75,)])
def test_grey_ids_with_gaps_are_kept(tmp_path: Path, ids: tuple[int, ...]) -> None:
    Image.fromarray(scene(*ids)).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(*ids))
    assert (reading.objects, reading.notes) == (ids, ())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 254), min_size=1, max_size=9, unique=True), st.sampled_from("PL"), st.integers(0, 99))
def test_blocks_of_any_ids_come_back_exactly(tmp_path: Path, ids: list[int], mode: str, seed: int) -> None:
    cells = np.random.default_rng(seed).choice([0, *ids], (6, 8)).astype(np.uint8)
    cells.flat[: len(ids)] = ids
    if mode == "L" and ({*ids} <= {38, 75, 113, 15, 53, 90, 128, 19, 57, 94, 132, 34, 72, 109, 147, 220}):
        return  # greys of the palette: read as a palette converted to grey, with a note
    labels = cells.repeat(12, 0).repeat(12, 1)
    (indexed(labels) if mode == "P" else Image.fromarray(labels)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


def test_more_than_254_objects_come_as_16_bit(tmp_path: Path) -> None:
    labels = np.pad(np.arange(1, 301, dtype=np.uint16).reshape(15, 20), 1).repeat(5, 0).repeat(5, 1)
    Image.fromarray(labels).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, labels)
    assert reading.objects == tuple(range(1, 301))
    assert (reading.kind, reading.labels.dtype) == ("16-bit grey PNG", np.uint16)


@pytest.mark.parametrize("save", [indexed, Image.fromarray, coloured], ids=["palette", "grey", "colours"])
def test_a_real_object_of_12_pixels_is_kept(tmp_path: Path, save: Callable[[np.ndarray], Image.Image]) -> None:
    labels = scene(4, 6, 5)
    labels[39:41, 66:72] = 2  # at the edge of the disc and the box, its id between theirs and the background
    labels[88:90, 2:8] = 1  # alone, and nowhere 3 pixels thick
    save(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


@pytest.mark.parametrize("save", [indexed, Image.fromarray], ids=["palette", "grey"])
def test_one_real_thin_object_along_an_edge_is_kept(tmp_path: Path, save: Callable[[np.ndarray], Image.Image]) -> None:
    labels = scene(0, 9)
    labels[41, 63:98] = 2
    save(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


def test_thin_objects_beside_a_void_region_are_kept(tmp_path: Path) -> None:
    labels = scene(0, 255)
    labels[40, 63:98], labels[81, 63:98], labels[10:20, 10:20] = 5, 6, 1
    indexed(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, np.where(labels == 255, 0, labels))


def test_300_small_objects_at_the_edges_of_big_ones_are_kept(tmp_path: Path) -> None:
    small = np.setdiff1d(np.arange(1, 303), [100, 200]).reshape(15, 20)
    labels = np.zeros((300, 126), np.uint16)
    for row in range(15):
        labels[20 * row + 5 : 20 * row + 15, 3:-3] = 200 if row % 2 else 100
        labels[20 * row + 1 : 20 * row + 5, 3:-3] = small[row].repeat(6)
    Image.fromarray(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


# --- what is repaired, with a note ---


def test_0_and_255_is_object_1(tmp_path: Path) -> None:
    Image.fromarray(scene(255, 255)).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(1, 1))
    noted(reading, f"0 and 255: {np.count_nonzero(scene(1, 1))} px of 255 are object 1")


def test_0_and_1_and_a_bitmap_are_object_1(tmp_path: Path) -> None:
    Image.fromarray(scene(1)).save(tmp_path / "m.png")
    Image.fromarray(scene(1) > 0).save(tmp_path / "bits.png")
    for name in ("m.png", "bits.png"):
        np.testing.assert_array_equal(doctor.read(tmp_path / name).labels, scene(1))


def test_colours_of_the_davis_palette_are_their_ids(tmp_path: Path) -> None:
    coloured(scene(2, 9, 30)).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(2, 9, 30))
    noted(reading, "(0, 128, 0) is id 2", "(192, 0, 0) is id 9", "(64, 192, 128) is id 30")


def test_other_colours_are_numbered_by_red_green_blue(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [10, 200, 30], [10, 20, 250]])
    coloured(scene(1, 2, 3), colours).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(3, 2, 1))
    noted(reading, "(10, 20, 250) is id 1, (10, 200, 30) is id 2, (255, 0, 0) is id 3")


def test_without_black_the_colour_of_the_border_is_background(tmp_path: Path) -> None:
    coloured(scene(1, 2), np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255]])).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(2, 1))
    noted(reading, f"no black: (255, 255, 255) along the border is background, {np.sum(scene(1, 2) == 0)} px")


def test_31_and_more_clean_colours_are_objects(tmp_path: Path) -> None:
    labels = np.pad(np.arange(1, 41, dtype=np.uint8).reshape(5, 8), 1).repeat(12, 0).repeat(12, 1)
    coloured(labels).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


@pytest.mark.parametrize("ids", [(1, 2, 3), (1,), (2, 3), (4, 6, 9)])
def test_a_palette_converted_to_grey_has_its_ids_restored(tmp_path: Path, ids: tuple[int, ...]) -> None:
    indexed(scene(*ids)).convert("L").save(tmp_path / "m.png")
    if ids == (1, 2, 3):
        assert set(read_labels(tmp_path / "m.png").flat) == {0, 38, 75, 113}
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(*ids))
    noted(reading, "converted to grey", f"is id {ids[-1]}")


def test_a_palette_with_void_converted_to_grey_has_it_as_background(tmp_path: Path) -> None:
    labels = scene(1, 2, 255)
    coloured(labels).convert("L").save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, scene(1, 2))


@pytest.mark.parametrize("save", [indexed, Image.fromarray, coloured], ids=["palette", "grey", "colours"])
def test_255_beside_small_ids_is_void(tmp_path: Path, save: Callable[[np.ndarray], Image.Image]) -> None:
    save(scene(1, 2, 255)).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(1, 2))
    noted(reading, "void")


def test_a_void_rim_as_pascals_is_not_smoothed_away_into_objects(tmp_path: Path) -> None:
    labels = scene(1, 2, 3)
    grown = np.asarray(Image.fromarray((labels > 0).astype(np.uint8)).filter(ImageFilter.MaxFilter(5)))
    indexed(np.where((labels == 0) & (grown > 0), 255, labels)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


def test_an_alpha_over_white_or_a_photograph_is_object_1(tmp_path: Path) -> None:
    alpha = np.where(scene(1) > 0, 255, 0).astype(np.uint8)
    alpha[0, :5] = [0, 100, 127, 128, 129]
    expected = scene(1)
    expected[0, 3:5] = 1
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    for name, inside in {"white": np.full((H, W, 3), 255), "black": np.zeros((H, W, 3)), "photo": noise}.items():
        Image.fromarray(np.dstack([inside, alpha]).astype(np.uint8)).save(tmp_path / f"{name}.png")
        reading = doctor.read(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(reading.labels, expected)
        noted(reading, f"alpha above 127 is object 1: {expected.sum()} px")


def test_colours_on_a_transparent_ground_are_objects(tmp_path: Path) -> None:
    labels = scene(1, 2, 3)
    rgba = np.dstack([np.where(labels[..., None] > 0, palette()[labels], 77), np.where(labels > 0, 255, 0)])
    Image.fromarray(rgba.astype(np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, labels)


def test_grey_with_an_opaque_alpha_is_read_by_its_grey(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([scene(255), np.full((H, W), 255, np.uint8)])).save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == "LA"
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, scene(1))


def test_a_reordered_palette_is_read_by_its_colours(tmp_path: Path) -> None:
    picture = coloured(scene(1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.asarray(picture)[0, 0] != 0  # the background is the last of the colours
    picture.save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, scene(1, 2, 3))
    noted(reading, "the palette has black at index 3, not 0")


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_divided_back(tmp_path: Path, bits: int) -> None:
    reading = doctor.read(write_grey_bits(tmp_path / "m.png", bits))
    assert reading.labels.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]
    noted(reading, f"of {bits} bits")


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_black_and_white_jpeg_is_decided_at_127(tmp_path: Path, quality: int) -> None:
    Image.fromarray(scene(255, 255)).save(tmp_path / "m.jpg", quality=quality)
    reading = doctor.read(tmp_path / "m.jpg")
    agrees(reading.labels, scene(1, 1), 0.98)
    noted(reading, "JPEG noise in")


FILTERS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]


@pytest.mark.parametrize("how", FILTERS, ids=lambda f: f.name)
@pytest.mark.parametrize("times", [0.7, 1.5, 3])
def test_a_smoothed_black_and_white_mask_is_one_object(tmp_path: Path, how: Image.Resampling, times: float) -> None:
    size = round(W * times), round(H * times)
    Image.fromarray(scene(255, 255)).resize(size, how).save(tmp_path / "m.png")
    expected = np.asarray(Image.fromarray(scene(1, 1)).resize(size, Image.Resampling.NEAREST))
    agrees(doctor.read(tmp_path / "m.png").labels, expected, 0.93)


@pytest.mark.parametrize("how", FILTERS, ids=lambda f: f.name)
@pytest.mark.parametrize("times", [1.5, 2])
def test_smoothed_colours_are_the_objects_they_were(tmp_path: Path, how: Image.Resampling, times: float) -> None:
    size = round(W * times), round(H * times)
    smooth = coloured(scene(1, 2, 3)).resize(size, how)
    smooth.save(tmp_path / "m.png")
    assert len(np.unique(np.asarray(smooth).reshape(-1, 3), axis=0)) > 8  # read literally: as many objects
    expected = np.asarray(Image.fromarray(scene(1, 2, 3)).resize(size, Image.Resampling.NEAREST))
    reading = doctor.read(tmp_path / "m.png")
    agrees(reading.labels, expected, 0.9)
    noted(reading, "smoothed edges:")


@pytest.mark.parametrize("save", [indexed, Image.fromarray], ids=["palette", "grey"])
@pytest.mark.parametrize(("top", "times"), [(5, 2), (25, 2), (25, 0.6), (100, 1.3), (200, 0.6)])
def test_ids_interpolated_by_a_resize_do_not_become_objects(
    tmp_path: Path, save: Callable[[np.ndarray], Image.Image], top: int, times: float
) -> None:
    size = round(W * times), round(H * times)
    smooth = np.asarray(Image.fromarray(scene(top)).resize(size, Image.Resampling.BILINEAR))
    assert len(np.unique(smooth)) > 3
    save(smooth).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    expected = np.asarray(Image.fromarray(scene(top)).resize(size, Image.Resampling.NEAREST))
    agrees(reading.labels, expected, 0.93)
    noted(reading, "smoothed edges:")


@pytest.mark.parametrize(("save", "radius"), [(indexed, 1.2), (Image.fromarray, 2)], ids=["palette", "grey"])
def test_all_ids_up_to_a_blurred_one_are_its_edge(
    tmp_path: Path, save: Callable[[np.ndarray], Image.Image], radius: float
) -> None:
    smooth = np.asarray(Image.fromarray(scene(40)).filter(ImageFilter.GaussianBlur(radius)))
    assert len(np.unique(smooth)) > 30
    save(smooth).save(tmp_path / "m.png")
    agrees(doctor.read(tmp_path / "m.png").labels, scene(40), 0.93)


def test_a_palette_of_smoothed_colours_is_read_by_its_colours(tmp_path: Path) -> None:
    pixels = np.asarray(coloured(scene(1, 2, 3)).resize((W * 2, H * 2), Image.Resampling.BILINEAR))
    colours, at = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    assert colours[0].tolist() == [0, 0, 0]
    picture = Image.fromarray(at.reshape(H * 2, W * 2).astype(np.uint8))
    picture.putpalette(colours.astype(np.uint8).tobytes())
    picture.save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    agrees(reading.labels, scene(1, 2, 3).repeat(2, 0).repeat(2, 1), 0.95)
    noted(reading, "the palette has shades of smoothed edges")


def test_a_shade_is_assigned_to_its_neighbour_not_to_a_similar_colour_far_away(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255], [131, 0, 0]])
    coloured(scene(1, 2, 3), colours).resize((W * 2, H * 2), Image.Resampling.BICUBIC).save(tmp_path / "m.png")
    expected = scene(2, 3, 1).repeat(2, 0).repeat(2, 1)  # numbered by red, green, blue
    agrees(doctor.read(tmp_path / "m.png").labels, expected, 0.95)


def test_a_small_object_of_a_palette_colour_survives_smoothing(tmp_path: Path) -> None:
    labels = scene(1, 2, 3)
    labels[80:86, 10:16] = 4
    coloured(labels).resize((W * 2, H * 2), Image.Resampling.BICUBIC).save(tmp_path / "m.png")
    assert doctor.read(tmp_path / "m.png").objects == (1, 2, 3, 4)


def test_the_thin_end_of_a_smoothed_mask_is_not_an_object(tmp_path: Path) -> None:
    labels = scene(1, 2)
    labels[80, 5:60] = 1  # one pixel thick: after smoothing it has no original value
    coloured(labels).resize((W * 2, H * 2), Image.Resampling.BICUBIC).save(tmp_path / "m.png")
    assert doctor.read(tmp_path / "m.png").objects == (1, 2)


def test_a_soft_matte_is_decided_at_half(tmp_path: Path) -> None:
    soft = Image.fromarray(scene(255)).filter(ImageFilter.GaussianBlur(5))
    soft.save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    np.testing.assert_array_equal(reading.labels, np.asarray(soft) > 127)


def test_a_16_bit_matte_is_object_1(tmp_path: Path) -> None:
    matte = (scene(1) > 0).astype(np.uint16) * 65535
    Image.fromarray(matte).save(tmp_path / "m.png")
    Image.fromarray(matte.astype(np.int32)).save(tmp_path / "m.tiff")
    for name in ("m.png", "m.tiff"):
        reading = doctor.read(tmp_path / name)
        np.testing.assert_array_equal(reading.labels, scene(1))
        noted(reading, f"0 and 65535: {np.count_nonzero(scene(1))} px of 65535 are object 1")


@pytest.mark.parametrize("width", [1, 12])
def test_a_soft_16_bit_matte_is_decided_at_half(tmp_path: Path, width: int) -> None:
    """Edges of a few pixels, and edges of a quarter of the disc."""
    small = Image.fromarray(scene(1).astype(np.float32) * 65535).resize((W // width, H // width), Image.Resampling.BOX)
    soft = np.asarray(small.resize((2 * W, 2 * H), Image.Resampling.BICUBIC))
    matte = np.clip(np.round(soft), 0, 65535).astype(np.uint16)
    Image.fromarray(matte).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png")
    agrees(reading.labels, (matte > 32767).astype(np.uint8), 0.99)
    noted(reading, "a matte of 16 bits: ")


@pytest.mark.parametrize("ids", [(1, 2, 65535), (40000, 65535), (65533, 65534, 65535), (300, 40000, 65535)])
def test_65535_beside_other_ids_is_an_id(tmp_path: Path, ids: tuple[int, ...]) -> None:
    Image.fromarray(scene(*ids)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(doctor.read(tmp_path / "m.png").labels, scene(*ids))


LOSSY: dict[str, dict[str, object]] = {
    "m.webp": {"quality": 80},
    "m.avif": {"quality": 60},
    "m.tiff": {"compression": "jpeg", "quality": 80},
    "m.jp2": {"irreversible": True, "quality_mode": "dB", "quality_layers": [38]},
}


@pytest.mark.parametrize("name", LOSSY)
def test_pictures_compressed_with_loss_are_thresholded_or_refused_as_jpeg_is(tmp_path: Path, name: str) -> None:
    Image.fromarray(scene(255, 255)).convert("RGB").save(tmp_path / name, **LOSSY[name])
    reading = doctor.read(tmp_path / name)
    agrees(reading.labels, scene(1, 1), 0.97)
    noted(reading, "noise in")
    coloured(scene(1, 2), np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)])).save(tmp_path / name, **LOSSY[name])
    assert "that is not black and white" in refused(tmp_path / name)
    Image.fromarray(scene(1, 2)).convert("RGB").save(tmp_path / name, **LOSSY[name])
    assert "that is not black and white" in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "options"), [("m.webp", {"lossless": True}), ("m.jp2", {}), ("m.tiff", {"compression": "tiff_lzw"})]
)
def test_lossless_files_of_these_formats_keep_their_colours(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    coloured(scene(1, 2, 3)).save(tmp_path / name, **options)
    np.testing.assert_array_equal(doctor.read(tmp_path / name).labels, scene(1, 2, 3))


def test_the_alpha_of_a_lossy_webp_is_used_and_its_colours_are_not(tmp_path: Path) -> None:
    alpha = Image.fromarray(np.where(scene(1, 1) > 0, 255, 0).astype(np.uint8))
    for name, inside in {"photo": photograph("RGB"), "white": Image.new("RGB", (W, H), (255, 255, 255))}.items():
        inside.putalpha(alpha)
        inside.save(tmp_path / f"{name}.webp", quality=80)
        np.testing.assert_array_equal(doctor.read(tmp_path / f"{name}.webp").labels, scene(1, 1))
    colours = coloured(scene(1, 2), np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)]))
    colours.putalpha(alpha)
    colours.save(tmp_path / "colours.webp", quality=80)
    assert "lossy WEBP of a few colours" in refused(tmp_path / "colours.webp")


# --- what is read, with a remark ---


def test_an_object_that_covers_nearly_the_whole_picture_has_a_remark(tmp_path: Path) -> None:
    labels = np.ones((H, W), np.uint8)
    indexed(labels).save(tmp_path / "m.png")
    noted(doctor.read(tmp_path / "m.png"), "object 1 covers 100.0% of the picture: check that it is the object")
    labels[:9] = 0
    indexed(labels).save(tmp_path / "m.png")
    noted(doctor.read(tmp_path / "m.png"), "object 1 covers 90.6% of the picture")
    labels[:11] = 0
    indexed(labels).save(tmp_path / "m.png")
    assert doctor.read(tmp_path / "m.png").notes == ()


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_mask_that_seems_inverted_has_a_remark(tmp_path: Path, ending: str) -> None:
    labels = np.roll(scene(255, 255), -20, 1)  # its disc touches the border
    Image.fromarray(255 - labels).save(tmp_path / f"m.{ending}")
    noted(doctor.read(tmp_path / f"m.{ending}"), "the mask seems inverted: object 1 covers 69", "invert the mask if")
    Image.fromarray(labels).save(tmp_path / f"n.{ending}")
    assert not any("inverted" in note for note in doctor.read(tmp_path / f"n.{ending}").notes)


def test_an_inverted_file_of_a_folder_is_named(tmp_path: Path) -> None:
    write_parts(tmp_path / "m", obj_1=scene(1) == 0, obj_2=scene(0, 2) > 0)
    notes = doctor.read(tmp_path / "m").notes
    assert [note.split(":")[0] for note in notes if "inverted" in note] == ["obj_1.png"]


# --- other sizes ---


def test_another_size_is_resized_with_a_note(tmp_path: Path) -> None:
    indexed(scene(1, 2)).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png", size=(2 * H, 2 * W))
    np.testing.assert_array_equal(reading.labels, scene(1, 2).repeat(2, 0).repeat(2, 1))
    assert reading.notes == (f"resized from {W}x{H} to the video's {2 * W}x{2 * H} (nearest neighbour)",)


@pytest.mark.parametrize(("size", "fits"), [((96, 130), True), ((96, 131), False), ((128, 96), False), ((480, 640), True)])
def test_an_aspect_ratio_off_by_more_than_2_percent_is_refused(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    indexed(scene(1, 2)).save(tmp_path / "m.png")
    write_parts(tmp_path / "parts", obj_1=scene(1) > 0, obj_2=scene(0, 2) > 0)
    if fits:
        assert doctor.read(tmp_path / "m.png", size).labels.shape == doctor.read(tmp_path / "parts", size).labels.shape == size
        return
    turned = ", which is rotated by 90 degrees" if size == (128, 96) else ""
    for name, file in (("m.png", "m.png"), ("parts", "parts/obj_1.png")):
        line = (
            f"expected mask {tmp_path / file} in the aspect ratio of the upright frames, {size[1]}x{size[0]}, got {W}x{H}"
            f"{turned}: draw on the picture that `hodor frame SOURCE -o frame.png` writes"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            doctor.read(tmp_path / name, size)


def test_the_rounded_sides_of_a_small_mask_fit(tmp_path: Path) -> None:
    indexed(np.ones((9, 16), np.uint8)).save(tmp_path / "m.png")  # 1.778 : 1, a picture of 480x854 has 1.779 : 1
    indexed(np.ones((8, 15), np.uint8)).save(tmp_path / "n.png")  # 1.875 : 1, 5 % off, rounded from 14.2
    indexed(np.ones((8, 17), np.uint8)).save(tmp_path / "o.png")
    for name in "mn":
        assert doctor.read(tmp_path / f"{name}.png", (480, 854)).labels.shape == (480, 854)
    with pytest.raises(ValueError, match=r"got 17x8: draw on"):
        doctor.read(tmp_path / "o.png", (480, 854))


def test_an_object_too_small_after_resizing_is_named_and_losing_all_is_an_error(tmp_path: Path) -> None:
    labels = scene(3)
    labels[90, 3] = 8
    indexed(labels).save(tmp_path / "m.png")
    reading = doctor.read(tmp_path / "m.png", size=(H // 4, W // 4))
    assert reading.objects == (3,)
    noted(reading, "object 8 is too small for the new size")
    indexed(np.where(labels == 8, 8, 0)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="empty after resizing") as error:
        doctor.read(tmp_path / "m.png", size=(H // 4, W // 4))
    one_line(error)


# --- a file per object ---


def write_parts(folder: Path, **parts: np.ndarray) -> None:
    folder.mkdir()
    for name, plane in parts.items():
        Image.fromarray(np.where(plane, 255, 0).astype(np.uint8)).save(folder / f"{name}.png")


def test_the_ids_of_a_folder_of_binary_masks_are_in_the_names(tmp_path: Path) -> None:
    labels = scene(12, 3, 300)
    write_parts(tmp_path / "m", obj_12=labels == 12, obj_03=labels == 3, mask300=labels == 300)
    (tmp_path / "m" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "m" / "._obj_12.png").write_bytes(b"a Mac's shadow of the file")
    (tmp_path / "m" / "notes.txt").write_text("x")
    reading = doctor.read(tmp_path / "m")
    np.testing.assert_array_equal(reading.labels, labels)
    assert reading.names == {12: "obj_12", 3: "obj_03", 300: "mask300"}
    assert reading.kind == "one file per object"


@pytest.mark.parametrize("names", [("cat", "dog", "eel"), ("a1", "b1", "c2"), ("a1", "b2", "c99999")])
def test_names_without_usable_numbers_are_numbered_in_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    labels = scene(1, 2, 3)
    write_parts(tmp_path / "m", **{name: labels == i for i, name in enumerate(names, 1)})
    reading = doctor.read(tmp_path / "m")
    np.testing.assert_array_equal(reading.labels, labels)
    noted(reading, "ids follow the sorted file names")


def test_numbers_from_0_at_the_end_of_names_are_ids_from_1(tmp_path: Path) -> None:
    labels = scene(1, 2, 8)
    write_parts(tmp_path / "m", m0=labels == 1, m1=labels == 2, m7=labels == 8)
    reading = doctor.read(tmp_path / "m")
    np.testing.assert_array_equal(reading.labels, labels)
    noted(reading, "ids are the numbers at the end of the file names, plus 1 since they count from 0")


@pytest.mark.parametrize("stored", [1, 255])
def test_the_id_of_the_only_file_of_a_folder_is_in_its_name(tmp_path: Path, stored: int) -> None:
    (tmp_path / "m").mkdir()
    Image.fromarray(scene(stored)).save(tmp_path / "m" / "obj_2.png")
    reading = doctor.read(tmp_path / "m")
    np.testing.assert_array_equal(reading.labels, scene(2))
    assert reading.names == {2: "obj_2"}
    noted(reading, "the id is the number at the end of the file name")


def test_where_files_overlap_the_later_object_is_used_with_a_note(tmp_path: Path) -> None:
    first, second = np.zeros((2, 20, 20), bool)
    first[2:12, 2:12] = second[8:18, 8:18] = True
    write_parts(tmp_path / "m", o2=first, o1=second)
    reading = doctor.read([tmp_path / "m" / "o2.png", tmp_path / "m" / "o1.png"])
    assert (reading.labels[first] == 2).all()
    assert (reading.labels[second & ~first] == 1).all()
    noted(reading, "16 px are in several objects")


def test_objects_that_overlap_somewhat_are_no_video(tmp_path: Path) -> None:
    parts = np.zeros((3, 20, 40), bool)
    for k in range(3):
        parts[k, 2:18, 8 * k : 8 * k + 20] = True  # each two share 12 of 28 columns
    write_parts(tmp_path / "m", a=parts[0], b=parts[1], c=parts[2])
    assert doctor.read(tmp_path / "m").objects == (1, 2, 3)


def test_the_masks_of_a_video_are_not_read_as_objects(tmp_path: Path) -> None:
    write_parts(tmp_path / "m", **{f"{k:05d}": np.roll(scene(1), k, 1) > 0 for k in range(4)})
    with pytest.raises(ValueError, match="overlap like successive frames of a video: give only the first") as error:
        doctor.read(tmp_path / "m")
    one_line(error)
    (tmp_path / "p").mkdir()
    for k in range(3):
        indexed(scene(1, 2)).save(tmp_path / "p" / f"{k}.png")
    with pytest.raises(ValueError, match="holds 2 objects, but of several files each must be one object") as error:
        doctor.read(tmp_path / "p")
    one_line(error)


def test_files_of_different_sizes_need_the_videos_size(tmp_path: Path) -> None:
    write_parts(tmp_path / "m", a=scene(1) > 0, b=(scene(0, 1) > 0).repeat(2, 0).repeat(2, 1))
    with pytest.raises(ValueError, match=f"b.png: expected {W}x{H} pixels, the size of a.png, got {2 * W}x{2 * H}") as error:
        doctor.read(tmp_path / "m")
    one_line(error)
    np.testing.assert_array_equal(doctor.read(tmp_path / "m", size=(H, W)).labels, scene(1, 2))


def test_an_empty_file_among_others_is_skipped_with_a_note(tmp_path: Path) -> None:
    write_parts(tmp_path / "m", a=scene(1) > 0, b=np.zeros((H, W)))
    reading = doctor.read(tmp_path / "m")
    assert reading.objects == (1,)
    noted(reading, "b.png is empty: no object 2")


# --- what is rejected, in one line ---


def photograph(mode: str) -> Image.Image:
    y, x = np.mgrid[:H, :W]
    waves = [127 + 60 * np.sin(x / 9 + c) * np.cos(y / 7 - c) for c in range(3)]
    noise = np.random.default_rng(1).normal(0, 12, (H, W, 3))
    return Image.fromarray(np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)).convert(mode)


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=path.name) as error:
        doctor.read(path)
    return one_line(error)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_photograph_is_refused_with_counts(tmp_path: Path, mode: str) -> None:
    photograph(mode).save(tmp_path / "m.png")
    message = refused(tmp_path / "m.png")
    assert "values without clear objects" in message
    assert " px" in message


def test_a_mask_painted_over_the_video_is_refused(tmp_path: Path) -> None:
    Image.blend(photograph("RGB"), coloured(scene(1, 2, 3)), 0.5).save(tmp_path / "m.png")
    assert "values without clear objects" in refused(tmp_path / "m.png")


def test_a_dithered_palette_is_refused(tmp_path: Path) -> None:
    coloured(scene(1, 2, 3)).convert("P").save(tmp_path / "m.png")  # Pillow's default: a web palette, dithered
    assert "values without clear objects" in refused(tmp_path / "m.png")


def test_a_heat_map_is_refused(tmp_path: Path) -> None:
    y, x = np.mgrid[:H, :W]
    Image.fromarray((220 * np.exp(-((y - 48) ** 2 + (x - 64) ** 2) / 900)).astype(np.uint8)).save(tmp_path / "m.png")
    assert "values without clear objects" in refused(tmp_path / "m.png")


def test_a_coarse_heat_map_is_refused(tmp_path: Path) -> None:
    y, x = np.mgrid[:480, :480]
    steps = np.clip(40 - np.hypot(y - 240, x - 240) // 6, 0, None) * 3
    Image.fromarray((steps // 3 * 2 + 30 * (steps > 0)).astype(np.uint8)).save(tmp_path / "m.png")
    assert "holds 41 values without clear objects" in refused(tmp_path / "m.png")


def test_specks_of_many_greys_are_refused(tmp_path: Path) -> None:
    specks = np.zeros((H, W), np.uint8)
    specks[5:90:10, 5:120:10] = np.arange(0, 9 * 12 * 2, 2).reshape(9, 12) + 10
    Image.fromarray(specks).save(tmp_path / "m.png")
    assert "holds 109 values without clear objects" in refused(tmp_path / "m.png")


def test_a_jpeg_of_bright_colours_is_refused(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]])
    coloured(scene(1, 2), colours).save(tmp_path / "m.jpg", quality=98, subsampling=0)
    assert " px coloured" in refused(tmp_path / "m.jpg")


@pytest.mark.parametrize("ids", [(1, 2, 3), (38, 75, 113)])
def test_a_jpeg_of_ids_or_colours_is_refused_with_counts(tmp_path: Path, ids: tuple[int, ...]) -> None:
    Image.fromarray(scene(*ids)).save(tmp_path / "m.jpg", quality=90)
    assert "JPEG that is not black and white" in refused(tmp_path / "m.jpg")
    coloured(scene(1, 2, 3)).save(tmp_path / "c.jpg", quality=90)
    assert " px coloured" in refused(tmp_path / "c.jpg")


def test_empty_masks_of_every_format_are_refused(tmp_path: Path) -> None:
    nothing = np.zeros((H, W), np.uint8)
    pictures = {
        "p": indexed(nothing),
        "l": Image.fromarray(nothing),
        "c": coloured(nothing),
        "b": Image.new("1", (W, H)),
    }
    pictures["alpha"] = Image.new("RGBA", (W, H), (0, 0, 0, 0))
    pictures["paper"] = Image.new("RGB", (W, H), (200, 180, 160))
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert refused(tmp_path / f"{name}.png") == f"mask {tmp_path / name}.png is empty: no object in {W}x{H} pixels"


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("id,x,y\n1,2,3\n")
    (tmp_path / "zero.png").write_bytes(b"")
    indexed(np.random.default_rng(0).integers(0, 9, (H, W))).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name in ("text.png", "zero.png", "cut.png"):
        assert "cannot be read as a picture" in refused(tmp_path / name)
    (tmp_path / "broken.json").write_text('{"images": [')
    assert "is not valid JSON" in refused(tmp_path / "broken.json")
    (tmp_path / "folder").mkdir()
    assert "holds no picture" in refused(tmp_path / "folder")
    for missing in (tmp_path / "none.png", tmp_path / "none.json", [tmp_path / "none.png"]):
        with pytest.raises(FileNotFoundError, match="does not exist") as error:
            doctor.read(missing)
        one_line(error)


def test_fractions_are_refused_and_whole_floats_are_ids(tmp_path: Path) -> None:
    Image.fromarray(scene(1, 2).astype(np.float32)).save(tmp_path / "whole.tiff")
    np.testing.assert_array_equal(doctor.read(tmp_path / "whole.tiff").labels, scene(1, 2))
    Image.fromarray(scene(1, 2).astype(np.float32) / 3).save(tmp_path / "part.tiff")
    assert "expected ids from 0, got fractions or negative numbers" in refused(tmp_path / "part.tiff")


# --- examine ---


def test_examine_reports_format_values_boxes_and_verdict(tmp_path: Path) -> None:
    labels = scene(1, 4)
    indexed(labels).save(tmp_path / "m.png")
    lines = doctor.examine(tmp_path / "m.png")
    n = [np.count_nonzero(labels == i) for i in (0, 1, 4)]
    assert lines == [
        f"file    {tmp_path / 'm.png'}: PNG, mode P, {W}x{H}",
        f"values  0: {n[0]} px, 1: {n[1]} px, 4: {n[2]} px",
        "kind    palette PNG",
        f"object  1: {n[1]} px ({n[1] / labels.size:.1%}), x 13..67, y 13..67",
        f"object  4: {n[2]} px ({n[2] / labels.size:.1%}), x 63..97, y 41..79",
        "good: 2 objects, ids as stored",
    ]


def test_examine_gives_the_notes_of_a_repaired_mask_and_the_reason_of_a_refusal(tmp_path: Path) -> None:
    Image.fromarray(scene(255)).save(tmp_path / "m.png")
    lines = doctor.examine(tmp_path / "m.png", size=(48, 64))
    assert [line.split(":")[0] for line in lines[-3:]] == [
        "note    0 and 255",
        f"note    resized from {W}x{H} to the video's 64x48 (nearest neighbour)",
        "repaired",
    ]
    for name, picture in {"photo": photograph("RGB"), "empty": Image.new("L", (4, 4))}.items():
        picture.save(tmp_path / f"{name}.png")
        lines = doctor.examine(tmp_path / f"{name}.png")
        assert lines[0].startswith("file ")
        assert lines[1].startswith("values ")
        assert lines[-1].startswith("refused: mask")
    Image.new("RGBA", (4, 4), (9, 9, 9, 200)).save(tmp_path / "a.png")
    assert "alpha   200 to 200, above 127: 16 px" in doctor.examine(tmp_path / "a.png")
    (tmp_path / "t.txt").write_text("hello")
    assert doctor.examine(tmp_path / "t.txt")[0] == f"file    {tmp_path / 't.txt'}: 5 bytes"
    with pytest.raises(FileNotFoundError):
        doctor.examine(tmp_path / "none.png")


# --- real annotations ---


def test_davis_2017_annotations_are_read_without_a_change() -> None:
    for path in davis("davis2017-schoolgirls/Annotations")[::10]:
        reading = doctor.read(path)
        np.testing.assert_array_equal(reading.labels, read_labels(path))
        assert reading.notes == ()


def test_davis_2016_annotations_are_object_1_and_an_empty_one_is_refused() -> None:
    for path in davis("davis2016-train/Annotations/bear")[::20] + davis("davis2016-train/Annotations/bear")[77:78]:
        reading = doctor.read(path)
        np.testing.assert_array_equal(reading.labels, read_labels(path) // 255)
    empty = [p for p in davis("davis2016-train/Annotations/bmx-bumps") if not read_labels(p).any()]
    assert len(empty) == 14
    assert "is empty: no object in 854x480 pixels" in refused(empty[0])


def test_coco_masks_keep_their_small_objects() -> None:
    files = sorted((DATA / "images/coco_full/masks").glob("*.png"))[::25]
    if not files:
        pytest.skip(f"no masks under {DATA / 'images/coco_full/masks'} (set HODOR_DATA to the folder that holds them)")
    smallest = 10**9
    for path in files:
        exact = read_labels(path)
        if not np.any((exact > 0) & (exact < 255)):
            continue
        reading = doctor.read(path)
        np.testing.assert_array_equal(reading.labels, np.where(exact == 255, 0, exact))
        smallest = min(smallest, *np.unique(reading.labels, return_counts=True)[1])
    assert smallest <= 20
