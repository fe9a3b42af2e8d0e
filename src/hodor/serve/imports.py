"""Masks from files of a client, read as `hodor segment` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hodor.mask_files import doctor, identity
from hodor.masks import Labels
from hodor.serve.limits import RefusedError
from hodor.serve.paths import existing
from hodor.serve.schema import Mask
from hodor.session import Session

if TYPE_CHECKING:
    from hodor.serve.host import Host


def read_masks(host: Host, session: Session, masks: Sequence[Mask]) -> tuple[dict[int, Labels], list[str]]:
    """Read masks, and find common ids if there are several.

    Args:
        host: the server, for its root and its uploads.
        session: the session, for the size and the number of its frames.
        masks: the files.

    Returns:
        Index of a frame -> its labels, and how the files were read, one line each.

    Raises:
        RefusedError: a path or an upload is refused; two masks for one frame.
        ValueError: a file is not read as a mask.
    """
    given: dict[int, identity.Given] = {}
    for mask in masks:
        if (mask.path is None) == (mask.upload is None):
            raise RefusedError(422, "expected a path or an upload of each mask, got both or none: give one of them")
        if mask.frame in given:
            raise RefusedError(422, f"expected one mask for frame {mask.frame}, got two: give a folder with one file an object")
        if mask.frame >= session.count:
            raise RefusedError(422, f"expected a frame from 0 to {session.count - 1}, got {mask.frame}: give one of them")
        path = existing(host.root, mask.path) if mask.path is not None else host.folder.upload(mask.upload or "")
        given[mask.frame] = identity.Given(path.name, mask.frame, doctor.read(path, session.source.size, mask.image))
    joined = identity.join(list(given.values()))
    notes = [f"{name}: {note}" for name, _, reading in given.values() for note in reading.notes]
    return joined.labels, [*notes, *identity.lines_of(joined.rows)]
