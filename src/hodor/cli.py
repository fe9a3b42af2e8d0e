"""The command `hodor`: it parses arguments and prints messages.

Exit codes: 0 complete; 2 wrong input, one line states what was expected, what was given and what to do; 3 the source was
damaged: frames of it do not decode, or it ended early, and all that can be read is written; 130 stopped by Ctrl-C, 143 by
SIGTERM, 129 by SIGHUP, all files are complete.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from hodor.commands.console import fail, info, one_line
from hodor.commands.process import occupy_standard_streams, stopped_by_signals

COMMANDS = {
    "segment": "follow objects through a video, from a mask on one frame",
    "frame": "export a frame to draw a mask on",
    "mask": "make a mask on one frame from clicks and boxes",
    "serve": "draw, follow and correct masks over HTTP, for the page and for programs",
    "doctor": "report what a mask file contains and how it would be read",
    "evaluate": "run a network over a data set and score it",
    "score": "score masks against ground truth by the rules of a benchmark: J, F, J&F",
    "compare": "compare result files: differences with 95 % confidence intervals",
    "submit": "check masks and write the zip file that a benchmark's server expects",
    "analyse": "make the papers' figures and ablation tables for any weights and videos",
    "benchmark": "measure frames a second, milliseconds by stage and peak memory",
    "train": "train a network by a named recipe",
    "data": "check a data set for training, preview training clips, pack data sets",
    "export": "write a network as ONNX graphs, for programs that run it without torch",
    "convert": "convert the authors' checkpoint to a .safetensors file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code.

    Args:
        arguments: arguments after `hodor`. Default: those of the process.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _keep_freed_memory()
    _shorten_thread_spinning()
    occupy_standard_streams()
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged tags in files that are read
    with stopped_by_signals() as signals:
        code = _exit_code(argv)
    sys.exit(128 + signals[0] if signals and code == 130 else code)


def _exit_code(argv: list[str]) -> int:
    """Run the command; print one line for an error that a caller can cause. Returns the exit code."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has exited, as in `hodor doctor ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except io.UnsupportedOperation:
        fail("expected an open standard output, got a closed one: leave it open, or write to a file")
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            fail(f"{os.fsdecode(error.filename)}: {error.strerror}")
        fail(one_line(str(error)))
    except OSError as error:
        fail(f"{os.fsdecode(error.filename or 'output')}: {error.strerror or error}")
    except MemoryError:
        fail("not enough memory: give smaller pictures, fewer objects or a smaller --size")
    except KeyboardInterrupt:
        info("hodor: stopped")
        code = 130
    return code


def _run(argv: list[str]) -> int:
    """Run the command that the first argument names. Returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from hodor import __version__

        print(f"hodor {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ValueError(f"expected a command ({', '.join(COMMANDS)}), got {argv[0]!r}: see `hodor --help`")
    if argv[0] == "segment" and "--dataset" in argv[1:]:
        from hodor.commands import dataset

        return dataset.main(argv[1:])
    return int(import_module(f"hodor.commands.{argv[0]}").main(argv[1:]))


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse; on other systems do nothing.

    It would return it to the system otherwise, and the 30 MB of each layer's maps would need new pages every time.
    """
    import ctypes

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-4, 0)  # M_MMAP_MAX: large blocks too are allocated on the heap
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap is not shrunk


def _shorten_thread_spinning() -> None:
    """Make threads that wait for each other sleep after a short spin, unless the environment sets how they wait.

    Without this, a single core that another process keeps busy makes the network tens of times slower. GNU's OpenMP
    reads the variable when torch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _usage() -> str:
    return "\n".join(
        [
            "usage: hodor COMMAND ...",
            "",
            "Video object segmentation: from a mask on one frame to the masks of all frames.",
            "",
            *(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
            "",
            "`hodor COMMAND --help` lists the options of a command. First steps: hodor segment VIDEO --mask MASK.png -o OUT",
        ]
    )


if __name__ == "__main__":
    main()
