"""Options of `hodor segment` that store objects in a library and find them again."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import UseAppendAction

from hodor.commands.console import info

if TYPE_CHECKING:
    from hodor.library import ViewsWriter
    from hodor.masks import Labels


@dataclass(frozen=True)
class LibraryOptions:
    """Objects that are stored after the run, or found before it."""

    library: Path = Path("objects")
    """Folder of stored objects, one file each."""
    save_object: UseAppendAction[tuple[str, ...]] = ()
    """NAME=ID stores an object after the run, as LIBRARY/NAME.safetensors; repeat the option for several."""
    find: UseAppendAction[tuple[str, ...]] = ()
    """NAME or NAME=ID finds a stored object in the first 4 seconds, without a mask; repeat the option for several. Default of
    ID: the smallest that is free."""
    find_confidence: float = 0.5
    """Confidence from which an object counts as found, in [0, 1]."""

    def saved(self) -> dict[str, int]:
        """Return name -> id of the objects to store. Raises ValueError for a value that is not NAME=ID."""
        return {name: number for name, number in _parsed("--save-object", self.save_object).items() if number is not None}

    def sought(self, taken: Collection[int]) -> dict[str, int]:
        """Return name -> id of the objects to find.

        Args:
            taken: ids of the given masks.
        """
        found = _parsed("--find", self.find)
        used = {*taken, *(i for i in found.values() if i is not None)}
        for name, number in found.items():
            if number is None:
                found[name] = min(set(range(1, len(used) + 2)) - used)
                used.add(found[name])  # type: ignore[arg-type]
            elif number in taken:
                raise ValueError(f"expected an id that no given mask has for --find {name}={number}: give another one")
        return {name: int(number or 0) for name, number in found.items()}


def _parsed(option: str, values: Sequence[str]) -> dict[str, int | None]:
    """Parse NAME or NAME=ID, refuse doubles."""
    found: dict[str, int | None] = {}
    for value in values:
        name, equals, number = value.partition("=")
        wrong = equals and not (number.isdecimal() and number.isascii() and 1 <= int(number[:6]) <= 65535)
        if wrong or (not equals and option == "--save-object"):
            form = "NAME=ID" if option == "--save-object" else "NAME or NAME=ID"
            raise ValueError(f"expected {form} with an id from 1 to 65535, got {option} {value}")
        number_or_none = int(number) if equals else None
        if name in found or (equals and number_or_none in found.values()):
            raise ValueError(f"expected names and ids that differ, got {option} {value} after another one: give each once")
        found[name] = number_or_none
    return found


def find_masks(
    options: LibraryOptions,
    source: Any,
    network: Any,
    masks: Mapping[int, "Labels"],
    *,
    size: int | None = None,
    extent: tuple[int, int | None] = (0, None),
) -> tuple[dict[int, "Labels"], list[dict[str, int | str]]]:
    """Find the objects of `--find`, and print where.

    Args:
        options: the options.
        source: the source.
        network: the network.
        masks: index of a frame -> the labels that were given.
        size: short side of the frame inside the network, in pixels. Default: the network's own.
        extent: index of the first frame that is used, and the one after the last; None is the end. Default: (0, None).

    Returns:
        The masks, with those of the objects that were found, and a row of the table of ids for each of these. A pixel of
        several objects belongs to the one with the largest confidence, and pixels of given masks stay as they are.

    Raises:
        ValueError: "expected dog in the first 4 seconds of clip, got a confidence of 0.12 (frame 8) where 0.5 is needed: ...".
        FileNotFoundError, ValueError: as `Library.find`.
    """
    import numpy as np

    from hodor.library import Library, candidates, not_found
    from hodor.masks import label_dtype, objects_in
    from hodor.video.images import Stream

    if not options.find:
        return dict(masks), []
    if isinstance(source, Stream):
        raise ValueError(f"expected a video file or a folder for --find, got {source.name}: record it to a file first")
    if not 0 <= options.find_confidence <= 1:
        raise ValueError(f"expected --find-confidence in [0, 1], got {options.find_confidence}")
    names = options.sought({i for labels in masks.values() for i in objects_in(labels)})
    library, found = Library(options.library), []
    for name, number in names.items():
        frames = candidates(source, *extent)
        best = library.find(name, frames, network, size=size, threshold=options.find_confidence)
        if not best.present:
            advice = "give --mask, or a lower --find-confidence"
            raise ValueError(not_found(name, source, best, options.find_confidence, advice))
        info(f"found {name} on frame {best.index} with confidence {best.confidence:.2f}: object {number}")
        found.append((best, name, number))
    out = dict(masks)
    for best, _, number in sorted(found, key=lambda each: each[0].confidence):
        given = masks.get(best.index)
        labels = out.get(best.index, np.zeros(source.size, np.uint8))
        dtype = label_dtype(max(number, int(labels.max())))
        free = best.mask if given is None else best.mask & (given == 0)
        out[best.index] = np.where(free, number, labels).astype(dtype)
    for best, name, number in found:
        if not (out[best.index] == number).any():
            raise ValueError(
                f"expected {name} beside the other objects on frame {best.index} of {source.name}, got the pixels of "
                "another one: find one of them only, or give --mask"
            )
    rows: list[dict[str, int | str]] = [
        {
            "id": number,
            "frame": best.index,
            "file": str(library.path(name)),
            "stated": f"found with confidence {best.confidence:.2f}",
        }
        for best, name, number in found
    ]
    return out, rows


def writers_of(
    options: LibraryOptions, network: Any, masks: Mapping[int, "Labels"], size: int | None = None
) -> dict[str, "ViewsWriter"]:
    """Return, by name, a writer that collects views of each object to store.

    Args:
        options: the options.
        network: the network.
        masks: index of a frame -> the labels that are given.
        size: short side of the frame inside the network, in pixels. Default: the network's own.

    Raises:
        ValueError: "expected objects of the masks to store (1, 2), got dog=9: ...", and as `Library.path`.
    """
    if not options.save_object:
        return {}
    from hodor.library import Library, ViewsWriter
    from hodor.masks import objects_in

    ids = sorted({i for labels in masks.values() for i in objects_in(labels)})
    for name, number in options.saved().items():
        Library(options.library).path(name)
        if number not in ids:
            held = ", ".join(map(str, ids))
            raise ValueError(f"expected objects of the masks to store ({held}), got {name}={number}: give one of them")
    given = {k: set(objects_in(labels)) for k, labels in masks.items()}
    return {name: ViewsWriter(network, number, given, size) for name, number in options.saved().items()}


def save_objects(options: LibraryOptions, network: Any, writers: Mapping[str, "ViewsWriter"]) -> None:
    """Store the objects, and print the files."""
    from hodor.library import Library

    for name, writer in writers.items():
        info(f"stored {name} in {Library(options.library).save(name, network, writer.views)}")
