"""Correct the masks of a video step by step, so that only what an edit changes is computed again."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from hodor import prompts
from hodor.frames import open_source
from hodor.library import THRESHOLD, Library, candidates, not_found
from hodor.masks import fit_size, label_dtype
from hodor.models.base import Network
from hodor.models.weights import load as load_network
from hodor.models.weights import weights_hash
from hodor.outputs.selection import Outputs
from hodor.outputs.summary import Summary
from hodor.sessions import planning
from hodor.sessions.edited import Edited, Found, Prompting, pixels, triple
from hodor.sessions.edits import State
from hodor.sessions.exporting import export as export_frames
from hodor.sessions.passes import EndedError, Passes
from hodor.sessions.planning import SNAPSHOT_BYTES
from hodor.sessions.results import FrameResult
from hodor.sessions.store import Store, basis_hash
from hodor.tracking import Tracker
from hodor.video.content import content_hash
from hodor.video.images import Stream
from hodor.video.source import Picture, Source


class Session(Edited):
    """A video, the masks, clicks and boxes that were given of its objects, and the masks of all other frames.

        session = hodor.Session("clip.mp4", folder="work")          # without folder: a temporary one
        session.add_points(0, 1, points=[(310, 190)], labels=[1])   # frame 0, object 1: a click
        session.add_box(0, 2, (400, 120, 520, 300))                 # or a box
        for frame_idx, obj_ids, masks in session.propagate():       # masks: bool [N, H, W]
            show(frame_idx, masks)
        session.add_mask(session.suggest(1)[0], 1, corrected)       # correct the frame where it helps most
        for frame_idx, obj_ids, masks in session.propagate():       # computes only what the correction changes
            show(frame_idx, masks)
        session.export(overlay=True, coco=True)                     # all that `hodor segment` writes
        session = hodor.Session.load("work")                        # later, also after a crash

    Everything that a method was given is on the disk when it returns. An edit changes the results of its object from its frame
    to the next given frame of the object on either side, and nothing else: the results of all other frames stay as they are, to
    the byte. See docs/sessions.md.

    A session is used by one thread, and its folder by one process at a time.

    Args:
        source: a video file, a folder of images, a glob pattern, or an opened source. A camera or an iterator cannot be used,
            since frames are read more than once.
        network: the network. Default: `hodor.load()`.
        folder: folder of the session; it must not contain one yet. Default: a temporary folder, removed by `close`.
        size: short side inside the network, in pixels. Default: the network's own.
        history: number of past frames kept in memory. Default: the network's own.
        prompter: called with a frame uint8 [H, W, 3]; it returns an object with the method `predict` of
            `hodor.prompter.Prompter`. Default: that class, with its bundled weights.
        snapshot_bytes: limit of the snapshots of the memory, in bytes. Without snapshots, more frames are followed again.

    Attributes:
        source: the opened source.
        network: the network.
        folder: the folder of the session.
        count: number of frames.
        notes: remarks, one line each.

    Raises:
        ValueError: "expected a source that can be read again, got camera 0: ...", "expected a folder without a session, got
            work: use Session.load".
    """

    _temporary: Callable[[], object] | None = None
    """Removes the temporary folder."""

    def __init__(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        network: Network | None = None,
        folder: str | os.PathLike[str] | None = None,
        size: int | None = None,
        history: int | None = None,
        prompter: Callable[[Picture], Prompting] | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> None:
        opened = _opened(source)
        network = load_network() if network is None else network
        Tracker(network, history=history, size=size)  # raises before anything is written
        fit_size(opened.size, size)
        if folder is not None and (Path(folder) / "session.json").exists():
            raise ValueError(f"expected a folder without a session, got {folder}: use Session.load, or give another folder")
        temporary = tempfile.mkdtemp(prefix="hodor-session-") if folder is None else None
        store = Store(Path(temporary or folder or "."))
        count = opened.count if opened.count is not None and not opened.estimated else sum(1 for _ in opened.frames())
        about = {
            "source": source.name if isinstance(source, Source) else os.path.abspath(source),
            "content": content_hash(opened),
            "count": count,
            "frame size": list(opened.size),
            "size": size,
            "history": history,
        }
        store.write_about(about)
        self._begin(store, about, opened, network, prompter, snapshot_bytes)
        if temporary is not None:
            self._temporary = weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        source: str | os.PathLike[str] | Source | None = None,
        network: Network | None = None,
        prompter: Callable[[Picture], Prompting] | None = None,
        snapshot_bytes: int = SNAPSHOT_BYTES,
    ) -> Self:
        """Open the session in a folder, with all edits, also those that can be undone or redone, and all results.

        Args:
            folder: the folder.
            source: where the source is now. Default: where it was.
            network: the network. With another one than before, the results of before are kept, but not used. Default:
                `hodor.load()`.
            prompter: see the class.
            snapshot_bytes: see the class.

        Raises:
            FileNotFoundError: "no session in FOLDER: ...", "clip.mp4 does not exist".
            ValueError: "expected the source of this session (hash 0a..., 90 frames of 480x854 pixels), got clip (...): give
                source=".
            ValueError: a damaged journal, a missing mask, or a folder that another process uses.
        """
        if not (Path(folder) / "session.json").is_file():
            raise FileNotFoundError(f"no session in {folder}: make one with Session(source, folder=...)")
        store = Store(Path(folder))
        try:
            about = store.about()
            opened = _opened(about["source"] if source is None else source)
            content, size = content_hash(opened), list(opened.size)
            if (content, size) != (about["content"], about["frame size"]):
                raise ValueError(
                    f"expected the source of this session (hash {about['content']}, {pixels(about['frame size'])} pixels), "
                    f"got {opened.name} (hash {content}, {pixels(size)} pixels): give source= with the file of before"
                )
            if source is not None and not isinstance(source, Source):
                about["source"] = os.path.abspath(source)
                store.write_about(about)
            self = cls.__new__(cls)
            network = load_network() if network is None else network
            self._begin(store, about, opened, network, prompter, snapshot_bytes)
        except BaseException:
            store.close()
            raise
        return self

    def _begin(
        self,
        store: Store,
        about: dict[str, Any],
        source: Source,
        network: Network,
        prompter: Callable[[Picture], Prompting] | None,
        snapshot_bytes: int,
    ) -> None:
        self.source, self.network, self.folder = source, network, store.folder
        self.count, self.notes = int(about["count"]), list[str]()
        self._store, self._about = store, about
        self._make_prompter, self._prompters = prompter or prompts.make_prompter, dict[int, Prompting]()
        self._read_edits()
        made_with = {
            "weights": weights_hash(network),
            "dtype": str(next(network.parameters()).dtype),
            "size": network.size if about["size"] is None else about["size"],
            "history": network.history if about["history"] is None else about["history"],
            "pin_first": network.pin_first,
            "hold_lost": network.hold_lost,
        }
        store.use(basis_hash(made_with))
        if not store.results.is_dir() and any(store.folder.glob("results-*")):
            self.notes.append(f"the results in {store.folder} are of another network: all frames are computed again")
        self._snapshot_bytes = snapshot_bytes
        self._passes = Passes(source, self._new_tracker, store, snapshot_bytes, self._compose)
        self._closed = weakref.finalize(self, store.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for other processes, close the source, and remove a temporary folder."""
        self.source.close()
        self._closed()
        if self._temporary is not None:
            self._temporary()

    # Results

    def find(
        self, name: str, library: str | os.PathLike[str], obj_id: int | None = None, *, threshold: float = THRESHOLD
    ) -> Found:
        """Search an object of a library in the first seconds of the video, and give its mask on the frame where it is found.

        Args:
            name: name of the object.
            library: folder of the library, see `hodor.library.Library`.
            obj_id: id of the object in this session. Default: the lowest free id.
            threshold: confidence from which the object counts as found.

        Returns:
            As `add_mask`.

        Raises:
            FileNotFoundError, ValueError: as `Library.find`; "expected dog in the first 4 seconds of clip, got a confidence of
                0.12 (frame 8) where 0.5 is needed: ...".
        """
        best = Library(Path(library)).find(
            name, candidates(self.source), self.network, size=self._about["size"], threshold=threshold
        )
        if not best.present:
            raise ValueError(not_found(name, self.source, best, threshold, "give a mask, or a lower threshold"))
        free = next(i for i in range(1, 65536) if i not in self.objects)
        return self.add_mask(best.index, free if obj_id is None else obj_id, best.mask)

    def propagate(self, start: int | None = None, stop: int | None = None, reverse: bool = False) -> Iterator[Found]:
        """Compute the results that are missing, and yield the frames. Where nothing is missing, they are read.

        Every frame gets the results of both directions, whatever the order in which frames are yielded. The results of the
        other direction are computed first, before the first frame is yielded. What is yielded is stored: a killed process
        continues there.

        Args:
            start: first frame to yield. Default: 0.
            stop: frame after the last one. Default: the number of frames.
            reverse: yield the last frame first.

        Returns:
            An iterator of (index of the frame, ids of all objects, their masks as bool [N, H, W]).

        Raises:
            ValueError: "expected at least one given mask, got none: ...", "expected 0 <= start < stop <= 90, got ...".
            RuntimeError: "the session was edited while propagate was running: call it again".
        """
        steps = self.steps(start, stop, reverse)
        return (triple(*step) for step in steps if step is not None)

    def steps(
        self, start: int | None = None, stop: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[int, FrameResult] | None]:
        """As `propagate`, but return to the caller after each frame that the network processes, so that it can stop there.

        Args:
            start: as `propagate`.
            stop: as `propagate`.
            reverse: as `propagate`.

        Returns:
            An iterator of (index of the frame, its result), and of None after each frame that was processed before the result
            of the next frame is complete.

        Raises:
            ValueError: as `propagate`.
            RuntimeError: as `propagate`.
        """
        first, last = 0 if start is None else start, self.count if stop is None else stop
        if not 0 <= first < last <= self.count:
            raise ValueError(
                f"expected 0 <= start < stop <= {self.count}, got start {start}, stop {stop}: give frames of the video"
            )
        if not self.objects:
            raise ValueError("expected at least one given mask, got none: use add_mask, add_points or add_box")
        return self._steps(range(first, last), reverse)

    def _steps(self, frames: range, reverse: bool) -> Iterator[tuple[int, FrameResult] | None]:
        state, direction = self.state, -1 if reverse else 1
        for _ in self._computed(state, -direction, frames):
            yield None
            self._unchanged(state)
        computed = self._computed(state, direction, frames)
        for frame in reversed(frames) if reverse else frames:
            if frame >= self.count:
                break
            while (found := self._compose(state, frame)) is None:
                if next(computed, None) is None and frame < self.count:
                    raise RuntimeError(f"frame {frame} has no result: report this")
                if frame >= self.count:
                    return
                yield None
                self._unchanged(state)
            yield frame, found
            self._unchanged(state)

    def _computed(self, state: State, direction: int, frames: range) -> Iterator[int]:
        """Compute what is missing in one direction; a source that ends early shortens the session."""
        for leg, tracks in self._passes.plan(state, direction, frames, self.count):
            try:
                yield from self._passes.run(state, leg, tracks)
            except EndedError as error:
                self._shorten(int(error.args[0]))

    def _shorten(self, last: int) -> None:
        given = max(k for t in self.state.tracks for k in t.given)
        if given > last:
            raise ValueError(f"expected {self.count} frames, {self.source.name} ended at frame {last}: clear frame {given}")
        self.notes.append(f"{self.source.name} ended at frame {last}, where {self.count} frames were announced")
        self.count = self._about["count"] = last + 1
        self._store.write_about(self._about)

    def _unchanged(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError("the session was edited while propagate was running: call it again")

    def suggest(self, k: int = 1) -> list[int]:
        """Return the frames whose correction is expected to help most, the best one first.

        The expected error of a frame is high where the calibrated confidence is low, where the forward and the backward result
        differ, and far from given frames. A frame is good if the expected error of all frames that its correction reaches is
        high. See docs/sessions.md for the formula and how it was measured.

        Args:
            k: number of frames, at least 1. Fewer are returned if fewer are not given.

        Raises:
            ValueError: "expected results of all frames, got none for frame 7: run propagate first".
        """
        if k < 1:
            raise ValueError(f"expected at least 1 frame, got {k}: give a number from 1")
        given, errors = {i: self.given_frames(i) for i in self.objects}, list[float]()
        for t in range(self.count):
            row = self.trust(t)
            known = {i: pair for i, pair in row.items() if pair is not None}
            if len(known) < len(row) or not given:
                raise ValueError(f"expected results of all frames, got none for frame {t}: run propagate first")
            errors.append(planning.expected_error(known, t, given))
        complete = set.intersection(*(set(each) for each in given.values()))
        return planning.most_useful(errors, complete, k, planning.REACH)

    # Files

    def export(self, folder: str | os.PathLike[str] | None = None, *, overwrite: bool = False, **outputs: Any) -> Summary:
        """Write the masks of all frames, and everything that `hodor segment` writes. What is missing is computed first.

        Args:
            folder: the folder. Default: `export` in the folder of the session.
            overwrite: remove an earlier export from the folder first. Without it, a folder with masks is refused, except for
                the default one, whose files are replaced one by one.
            **outputs: fields of `hodor.outputs.selection.OutputOptions`, such as `overlay=True`, `coco=True`, `cutout=(1,)`.

        Returns:
            The summary, as of `hodor.segment.segment`. `tracked` is the number of frames that the network processed.

        Raises:
            ValueError: "expected objects of the session to cut out (1, 2), got 9", "expected a folder without masks, ...", an
                unknown output.
        """
        chosen = Outputs(Path(self.folder / "export" if folder is None else folder), **outputs)
        label_dtype(max(self.objects, default=0))
        for i in chosen.cut_out_objects:
            if i not in self.objects:
                raise ValueError(f"expected objects of the session to cut out ({', '.join(map(str, self.objects))}), got {i}")
        if folder is not None and not overwrite and any(chosen.masks.glob("[!.]*.png")):
            raise ValueError(f"expected a folder without masks, got {chosen.masks}: give another folder, or overwrite")
        if overwrite:
            chosen.clear()
        before = self._passes.steps
        for _ in self.propagate():
            pass
        summary = export_frames(self.source, self.count, chosen, lambda t: self.result(t, soft=chosen.needs_soft))
        summary.tracked = self._passes.steps - before
        summary.notes += [*self.notes, *self.source.notes]
        return summary

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Make sure that the session can be loaded from a folder.

        Edits and results are stored when they are made, so this only removes results that no undo or redo can bring back. With
        another folder, the session is copied there and continues there.

        Args:
            folder: a folder that does not exist yet. Default: the folder of the session, unless it is temporary.

        Returns:
            The folder.

        Raises:
            ValueError: "expected a folder for a temporary session, got none: ...", "expected a folder that does not exist or is
                empty, got ...".
        """
        if folder is None and self._temporary is not None:
            raise ValueError("expected a folder for a temporary session, got none: give save(folder)")
        self._store.keep_runs(set[str]().union(*(s.runs() for s in [*self._done, *self._undone])))
        self._store.thin(self._snapshot_bytes)
        if folder is None or Path(folder).resolve() == self.folder.resolve():
            return self.folder
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"expected a folder that does not exist or is empty, got {target}: give another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        shutil.copytree(self.folder, part)
        os.replace(part, target)
        self._closed()
        if self._temporary is not None:
            self._temporary()
            self._temporary = None
        done = self._done, self._undone
        store = Store(target)
        self._begin(store, self._about, self.source, self.network, self._make_prompter, self._snapshot_bytes)
        self._done, self._undone = done
        return target

    def _new_tracker(self) -> Tracker:
        return Tracker(self.network, history=self._about["history"], size=self._about["size"])


def _opened(source: str | os.PathLike[str] | Source) -> Source:
    opened = source if isinstance(source, Source) else open_source(source)
    if isinstance(opened, Stream):
        raise ValueError(f"expected a source that can be read again, got {opened.name}: save it as a video or a folder first")
    return opened
