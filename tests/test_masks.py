"""Labels, planes and label PNGs. Expected values come from the definitions, DAVIS's palette from PASCAL's devkit."""

import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from hodor import masks

DATA = Path(os.environ.get("HODOR_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
LABELS8 = hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 254))
LABELS16 = hnp.arrays(np.uint16, SHAPES, elements=st.integers(0, 65535))
IN_TMP = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text
    return text


@given(st.one_of(LABELS8, LABELS16))
def test_labels_to_planes_and_back_is_identity(labels: np.ndarray) -> None:
    objects = masks.objects_in(labels)
    planes = masks.to_planes(labels, objects)
    assert planes.shape == (len(objects), *labels.shape)
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(masks.to_labels(planes, objects), labels)


@given(LABELS8, st.randoms())
def test_shuffling_objects_shuffles_planes(labels: np.ndarray, random: object) -> None:
    objects = list(masks.objects_in(labels))
    order = list(range(len(objects)))
    random.shuffle(order)  # type: ignore[attr-defined]
    planes = masks.to_planes(labels, objects)
    np.testing.assert_array_equal(masks.to_planes(labels, [objects[k] for k in order]), planes[order])


def test_an_absent_object_is_a_plane_of_zeros_and_an_unasked_one_is_background() -> None:
    labels = np.array([[0, 3], [7, 7]], np.uint8)
    planes = masks.to_planes(labels, (7, 300))
    assert planes.tolist() == [[[0, 0], [1, 1]], [[0, 0], [0, 0]]]
    assert masks.to_labels(planes, (7, 300)).tolist() == [[0, 0], [7, 7]]


def test_soft_planes_give_the_highest_above_one_half() -> None:
    planes = np.array([[[0.5, 0.6, 0.7, 0.6]], [[0.1, 0.9, 0.7, 0.2]]])
    assert masks.to_labels(planes, (4, 9)).tolist() == [[0, 9, 4, 4]]  # 0.5 is not above; a tie goes to the earlier
    assert masks.to_labels(planes > 0.5, (4, 9)).tolist() == [[0, 4, 4, 4]]


def test_no_planes_are_background() -> None:
    assert masks.to_labels(np.zeros((0, 2, 3)), ()).tolist() == [[0, 0, 0]] * 2
    assert masks.to_planes(np.zeros((2, 3), np.uint8), ()).shape == (0, 2, 3)


def test_ids_that_differ_by_256_stay_apart() -> None:
    labels = np.array([[1, 257, 513]], np.uint16)
    assert masks.to_planes(labels, (1, 257)).tolist() == [[[1, 0, 0]], [[0, 1, 0]]]
    assert masks.to_planes(labels.astype(np.uint8), (257,)).sum() == 0


@pytest.mark.parametrize(("top", "dtype"), [(0, np.uint8), (254, np.uint8), (255, np.uint16), (65535, np.uint16)])
def test_the_dtype_holds_the_highest_id_and_255_is_never_an_8_bit_id(top: int, dtype: type) -> None:
    assert masks.label_dtype(top) == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masks.label_dtype(70000), "expected ids from 1 to 65535, got 70000"),
        (lambda: masks.objects_in(np.zeros((2, 2))), "expected integer labels, got float64"),
        (lambda: masks.objects_in(np.array([[-1, 2]])), "expected labels of 0 and above, got -1"),
        (lambda: masks.objects_in(np.zeros((1, 2, 2), int)), "expected labels of shape [H, W], got (1, 2, 2)"),
        (lambda: masks.to_planes(np.zeros((2, 2), int), (1, 1)), "expected distinct object ids above 0, got (1, 1)"),
        (lambda: masks.to_planes(np.zeros((2, 2), int), (0,)), "expected distinct object ids above 0, got (0,)"),
        (lambda: masks.to_labels(np.zeros((3, 2, 2)), (1, 2)), "expected 2 planes, one for each object, got 3"),
        (lambda: masks.to_labels(np.zeros((2, 2)), (1, 2)), "expected planes of shape [N, H, W], got (2, 2)"),
        (lambda: masks.fit_size((0, 5), 3), "expected a size of at least 1 x 1, got (0, 5)"),
        (lambda: masks.fit_size((4, 5), 0), "expected a short side of at least 1, got 0"),
    ],
)
def test_every_message_names_the_value_it_rejects(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        call()  # type: ignore[operator]
    assert one_line(error) == message


def test_the_palette_is_pascals() -> None:
    colours = masks.palette()
    assert colours.shape == (256, 3)
    assert colours.dtype == np.uint8
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(c) for c in colours[:7].tolist()] == first
    assert colours[[7, 8, 20, 255]].tolist() == [[128, 128, 128], [64, 0, 0], [0, 64, 128], [224, 224, 192]]
    assert len(np.unique(colours, axis=0)) == 256


@IN_TMP
@given(st.one_of(LABELS8, LABELS16))
def test_writing_then_reading_is_identity(tmp_path: Path, labels: np.ndarray) -> None:
    masks.write_labels(tmp_path / "m.png", labels)
    again = masks.read_labels(tmp_path / "m.png")
    np.testing.assert_array_equal(again, labels)
    assert again.dtype == masks.label_dtype(int(labels.max()))


@pytest.mark.parametrize("ids", [[0], [0, 1], [0, 1, 2, 3], [0, 254]])
def test_a_written_palette_png_always_has_8_bits_and_256_colours(tmp_path: Path, ids: list[int]) -> None:
    masks.write_labels(tmp_path / "m.png", np.array([ids], np.int64))
    header = (tmp_path / "m.png").read_bytes()[16:26]
    assert struct.unpack(">IIBB", header) == (len(ids), 1, 8, 3)  # width, height, bits, palette
    picture = Image.open(tmp_path / "m.png")
    assert np.array_equal(np.reshape(picture.getpalette(), (256, 3)), masks.palette())


def test_an_id_beyond_254_makes_a_16_bit_grey_png(tmp_path: Path) -> None:
    masks.write_labels(tmp_path / "m.png", np.array([[0, 255]]))
    assert struct.unpack(">IIBB", (tmp_path / "m.png").read_bytes()[16:26]) == (2, 1, 16, 0)


@pytest.mark.parametrize("highest", [254, 255])
def test_encoded_labels_are_the_content_of_the_file(tmp_path: Path, highest: int) -> None:
    labels = np.array([[0, 7, highest]])
    masks.write_labels(tmp_path / "m.png", labels)
    assert masks.encode_labels(labels) == (tmp_path / "m.png").read_bytes()


@pytest.mark.parametrize("old", [True, False])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    path = tmp_path / "m.png"
    if old:
        masks.write_labels(path, np.array([[0, 5]]))

    def half(self: Image.Image, file: object, *args: object, **kwargs: object) -> None:
        file.write(b"\x89PNG half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space left"):
        masks.write_labels(path, np.array([[0, 6]]))
    assert [p.name for p in tmp_path.iterdir()] == (["m.png"] if old else [])
    if old:
        assert masks.read_labels(path).tolist() == [[0, 5]]


def test_the_file_is_written_beside_and_then_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.png"
    with masks.written_whole(path) as file:
        file.write(b"all of it")
        assert not path.exists()
        (beside,) = path.parent.iterdir()
        assert beside.name.startswith(".m.png.")
    assert path.read_bytes() == b"all of it"
    assert list(path.parent.iterdir()) == [path]


def test_writing_refuses_what_is_no_label(tmp_path: Path) -> None:
    for labels in (np.array([[-1]]), np.array([[70000]]), np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2))):
        with pytest.raises(ValueError, match=r"labels|got 70000") as error:
            masks.write_labels(tmp_path / "m.png", labels)
        one_line(error)
    assert list(tmp_path.iterdir()) == []


def test_reading_keeps_every_value_of_every_plain_mode(tmp_path: Path) -> None:
    values = np.array([[0, 1, 38], [254, 255, 7]], np.uint8)
    Image.fromarray(values).save(tmp_path / "grey.png")
    assert masks.read_labels(tmp_path / "grey.png").tolist() == values.tolist()
    Image.fromarray(values > 5).save(tmp_path / "bits.png")
    assert masks.read_labels(tmp_path / "bits.png").tolist() == (values > 5).astype(int).tolist()
    palette = Image.fromarray(values)
    palette.putpalette(masks.palette().tobytes())
    palette.save(tmp_path / "palette.png")
    assert masks.read_labels(tmp_path / "palette.png").tolist() == values.tolist()
    opaque = np.stack([values, np.full_like(values, 255)], -1)
    Image.fromarray(opaque).save(tmp_path / "opaque.png")  # LA, as one file of DAVIS 2016
    assert masks.read_labels(tmp_path / "opaque.png").tolist() == values.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits_keep_their_indices(tmp_path: Path, bits: int) -> None:
    labels = np.arange(2**bits, dtype=np.uint8)[None].repeat(3, 0)
    picture = Image.fromarray(labels)
    picture.putpalette(masks.palette()[: 2**bits].tobytes())
    picture.save(tmp_path / "m.png", bits=bits)
    assert (tmp_path / "m.png").read_bytes()[24] == bits
    np.testing.assert_array_equal(masks.read_labels(tmp_path / "m.png"), labels)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_keeps_its_samples(tmp_path: Path, bits: int) -> None:
    path = write_grey_bits(tmp_path / "m.png", bits)
    assert masks.read_labels(path).tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]]


def write_grey_bits(path: Path, bits: int) -> Path:
    """An 8x1 grey PNG of 2 or 4 bits a sample, holding 0 1 2 3 0 1 2 3, which Pillow does not write."""
    row = int("".join(f"{v:0{bits}b}" for v in (0, 1, 2, 3, 0, 1, 2, 3)), 2).to_bytes(bits, "big")
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_reading_refuses_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist") as error:
        masks.read_labels(tmp_path / "none.png")
    one_line(error)
    Image.new("RGB", (4, 4)).save(tmp_path / "colour.png")
    Image.new("LA", (4, 4), (3, 100)).save(tmp_path / "glass.png")
    (tmp_path / "text.png").write_text("a, b\n")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = tmp_path / "whole.png"
    masks.write_labels(whole, np.random.default_rng(0).integers(0, 250, (50, 50)))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:1500])
    for name, words in {
        "colour": r"expected ids in a palette or grey PNG, got RGB: run .*hodor doctor",
        "glass": "expected ids in a palette or grey PNG, got LA",
        "text": "not a known picture format",
        "empty": "not a known picture format",
        "cut": "cannot be read as a picture: ",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.png:? {words}|{name}.png cannot be read as a picture: {words}") as e:
            masks.read_labels(tmp_path / f"{name}.png")
        one_line(e)
    with pytest.raises(ValueError, match="is a folder: give one picture file"):
        masks.read_labels(tmp_path)


@pytest.mark.parametrize(
    ("size", "short", "fitted"),
    [
        ((480, 854), 240, (240, 427)),
        ((480, 854), 480, (480, 854)),
        ((854, 480), 240, (427, 240)),
        ((100, 200), 300, (300, 600)),  # enlarged as well
        ((480, 911), 240, (240, 456)),  # 455.5 goes up
        ((2, 3), 1, (1, 2)),  # 1.5 goes up, not to the even number
        ((2, 5), 1, (1, 3)),  # 2.5 goes up as well
        ((333, 444), None, (333, 444)),
        ((7, 7), 3, (3, 3)),
    ],
)
def test_fit_size_gives_the_short_side_exactly(size: tuple[int, int], short: int, fitted: tuple[int, int]) -> None:
    assert masks.fit_size(size, short) == fitted


@pytest.mark.parametrize(
    ("size", "short", "fitted"),
    [
        ((8, 64), 192, (192, 1536)),  # 8 times as long: as before
        ((1536, 8), 192, (1536, 8)),
        ((8, 1536), 416, (17, 3328)),
        ((1, 4096), 192, (1, 1536)),
        ((4096, 1), 416, (3328, 1)),
    ],
)
def test_the_long_side_is_at_most_eight_times_the_short_side_that_was_asked_for(
    size: tuple[int, int], short: int, fitted: tuple[int, int]
) -> None:
    assert masks.fit_size(size, short) == fitted


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_pictures_up_to_eight_times_as_long_as_wide_have_the_short_side_that_was_asked_for(h: int, w: int, short: int) -> None:
    fitted = masks.fit_size((h, w), short)
    assert max(fitted) <= 8 * short
    if max(h, w) <= 8 * min(h, w):
        assert min(fitted) == short
        assert max(fitted) == (2 * max(h, w) * short + min(h, w)) // (2 * min(h, w))


@given(LABELS8, st.integers(1, 4))
def test_enlarging_labels_by_an_integer_repeats_them_and_resizing_back_restores_them(labels: np.ndarray, times: int) -> None:
    large = masks.fit_labels(labels, (labels.shape[0] * times, labels.shape[1] * times))
    np.testing.assert_array_equal(large, labels.repeat(times, 0).repeat(times, 1))
    np.testing.assert_array_equal(masks.fit_labels(large, labels.shape), labels)


def test_resizing_uses_the_pixel_at_the_centre() -> None:
    assert masks.fit_labels(np.arange(1, 6)[None], (1, 3)).tolist() == [[1, 3, 5]]
    assert masks.fit_labels(np.arange(1, 5)[None], (1, 2)).tolist() == [[2, 4]]


def davis(folder: str) -> list[Path]:
    files = sorted((DATA / folder).glob("**/*.png"))
    if not files:
        pytest.skip(f"no DAVIS annotations under {DATA / folder} (set HODOR_DATA to the folder that holds them)")
    return files


def test_davis_2017_masks_survive_writing_and_reading(tmp_path: Path) -> None:
    for path in davis("davis2017-schoolgirls/Annotations")[::10]:
        labels = masks.read_labels(path)
        assert set(masks.objects_in(labels)) <= set(range(1, 8))
        masks.write_labels(tmp_path / "m.png", labels)
        assert Image.open(tmp_path / "m.png").convert("RGB").tobytes() == Image.open(path).convert("RGB").tobytes()


def test_davis_2016_masks_read_as_0_and_255_even_the_one_with_alpha() -> None:
    files = davis("davis2016-train/Annotations/bear")
    assert "LA" in {Image.open(path).mode for path in files}
    assert {masks.objects_in(masks.read_labels(path)) for path in files} == {(255,)}


def test_a_folder_that_vanishes_between_writing_and_renaming_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()

    def write() -> None:
        with masks.written_whole(folder / "0.png", new_folder=False) as file:
            file.write(b"data")
            shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError, match="the folder was removed while files were written to it") as error:
        write()
    assert error.value.filename == str(folder)
