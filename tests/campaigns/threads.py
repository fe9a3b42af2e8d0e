"""Trackers in threads and in several processes: whether their masks stay the same, and what each run loses.

    python tests/campaigns/threads.py threads     two trackers on one network, in turn and in two threads
    python tests/campaigns/threads.py processes   one and four `segment` processes
    python tests/campaigns/threads.py start       trackers in processes started by fork, forkserver and spawn

"processes" reports processor time a frame (which grows when processes disturb each other) and wall-clock time a frame (which
also grows because they share the cores). taskset selects the cores. Exit code 1 if a mask differs or a process hangs.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import job
import kill
import numpy as np
import torch
import training
from kill import compare, files_in, forked

from hodor.models import weights
from hodor.tracking import Tracker

FRAMES = 30
SIZE = (96, 128)


def follow(network: Any, first: int, size: int = 96) -> list[np.ndarray]:
    """Follow the blocks through pictures that begin with picture `first`."""
    tracker = Tracker(network, size=size)
    frames = range(first, first + FRAMES)
    return [tracker.track(job.picture(i, SIZE), job.mask(i, size=SIZE) if i == first else None) for i in frames]


def same(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, one, two))


def in_threads(model: str, number: int = 2, size: int = 96) -> bool:
    """Two trackers on one network: in turn, then at the same time in two threads."""
    torch.set_num_threads(1)
    network = weights.build(model).eval() if model == "tiny" else weights.load(model)
    follow(network, 0, size)
    took = {}
    began = time.process_time()
    expected = [follow(network, 7 * i, size) for i in range(number)]
    took["in turn"] = time.process_time() - began
    found: dict[int, list[np.ndarray]] = {}
    workers = [threading.Thread(target=lambda i=i: found.update({i: follow(network, 7 * i, size)})) for i in range(number)]
    began = time.process_time()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took["at the same time"] = time.process_time() - began
    equal = all(same(found[i], expected[i]) for i in range(number))
    each = ", ".join(f"{1000 * t / FRAMES / number:.1f} ms of processor time a frame {how}" for how, t in took.items())
    print(f"{model}: {number} trackers on one network: masks {'equal' if equal else 'DIFFER'}, {each}")
    return equal


def in_processes(number: int = 4, network: str = "hodor-lite", frames: int = 40) -> bool:
    """One `segment` process, then `number` of them at the same time."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip, mask = job.video(folder / "clip.mp4", frames, SIZE), job.mask_file(folder / "mask.png", size=SIZE)
        options = [
            "--mask",
            mask,
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--model",
            network,
            "--size",
            96,
            "--coco",
            "--table",
        ]

        def start(out: Path, resume: bool) -> int:
            return kill.command("segment", clip, *options, "-o", out)

        with kill.silent():
            start(folder / "first", False)
        campaign = kill.Campaign(start, kill.same_file, [], lambda out: "")

        def timed(count: int) -> tuple[list[float], list[float], list[str]]:
            began = time.perf_counter()
            outs = {forked(lambda i=i: start(folder / f"{count}-{i}", False), folder / f"{i}.txt"): i for i in range(count)}
            cpu, wall, failures = [], [], []
            for _ in range(count):
                process, status, usage = os.wait4(-1, 0)
                wall.append((time.perf_counter() - began) / frames * 1000)
                cpu.append((usage.ru_utime + usage.ru_stime) / frames * 1000)
                i = outs[process]
                expected = files_in(folder / "first")
                code = os.waitstatus_to_exitcode(status)
                failures += compare(campaign, folder / f"{count}-{i}", folder / "first", expected, code, folder / f"{i}.txt")
            return cpu, wall, failures

        failures = []
        for count in (1, number):
            cpu, wall, wrong = timed(count)
            failures += wrong
            each = f"{sum(cpu) / count:.1f} ms of processor time and {max(wall):.1f} ms of wall-clock time a frame"
            print(
                f"{network}: {count} processes on {len(os.sched_getaffinity(0))} core: each {each}; {len(wrong)} files differ"
            )
    return not failures


def child(answers: Any, threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)
    answers.put(follow(weights.load("hodor-lite"), 0, 64))


def started(threads: int, limit: float = 60) -> bool:
    """A tracker runs in this process; then one runs in a process started by each method, with as many threads or with one."""
    torch.set_num_threads(threads)
    own = follow(weights.load("hodor-lite"), 0, 64)
    good = True
    for method in ("fork", "forkserver", "spawn"):
        for inside in sorted({1, threads}):
            context = multiprocessing.get_context(method)
            answers = context.Queue()
            process = context.Process(target=child, args=(answers, inside), daemon=True)
            process.start()
            try:
                found = answers.get(timeout=limit)
                process.join()
            except queue.Empty:
                process.kill()
                found = None
            result = "hangs" if found is None else "equal masks" if same(found, own) else "other masks"
            print(f"{threads} threads, a process with {inside} by {method}: {result}", flush=True)
            good = good and (result == "equal masks" or inside != threads)
    return good


def main() -> int:
    training.add_models()
    chosen = sys.argv[1:] or ["threads", "processes", "start"]
    results = []
    if "processes" in chosen:
        results += [in_processes()]
    if "threads" in chosen:
        results += [in_threads("xmem-lite"), in_threads("hodor-lite")]
    if "start" in chosen:
        results += [started(1), started(2)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
