"""The command `hodor`: parsing and messages only.

Exit codes: 0 done; 2 wrong input, one line says what came, what was wanted and what to do; 3 the source was damaged and
ended early, everything up to there is written; 130 stopped by Ctrl-C, everything so far is whole.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from hodor.commands.console import fail, told

COMMANDS = {
    "segment": "follow objects through a video from a mask on one frame",
    "doctor": "tell what a mask file holds, and what would be made of it",
    "evaluate": "score masks against the ground truth by a benchmark's rules: J, F, J&F",
    "compare": "compare results files: differences with 95 % intervals",
    "submit": "write and check the zip that a benchmark's server takes",
    "analyse": "the papers' figures and ablation tables, from any weights and video",
    "benchmark": "frames a second, milliseconds by stage, peak memory",
    "train": "train a network by a named recipe",
    "data": "check what training would see of a data set; preview clips",
    "convert": "turn the authors' checkpoint into a .safetensors file",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    _keep_memory()
    _wait_briefly()
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as in `hodor doctor ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            fail(f"{error.filename}: {error.strerror}")
        fail(told(str(error)))
    except OSError as error:
        fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("hodor: stopped", file=sys.stderr)
        code = 130
    sys.exit(code)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from hodor import __version__

        print(f"hodor {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ValueError(f"no command {argv[0]!r}: want one of {', '.join(COMMANDS)}; see `hodor --help`")
    if "--dataset" in argv[1:] and argv[0] in ("segment", "evaluate"):
        from hodor.commands import dataset

        return (dataset.main if argv[0] == "segment" else dataset.evaluate_main)(argv[1:])
    return int(import_module(f"hodor.commands.{argv[0]}").main(argv[1:]))


def _keep_memory() -> None:
    """Let glibc reuse freed memory instead of handing it back: maps of 30 MB a layer would fault in anew. Elsewhere
    nothing happens."""
    import ctypes

    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-4, 0)  # M_MMAP_MAX: large blocks too come from the heap
            mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and stay there


def _wait_briefly() -> None:
    """Let threads that wait for each other sleep soon instead of spinning on, if nobody has said how they wait. A single core
    that something else keeps busy costs tens of times the speed otherwise. Read by GNU's OpenMP as torch comes in."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _usage() -> str:
    return "\n".join(
        [
            "usage: hodor COMMAND ...",
            "",
            "Video object segmentation: a mask on one frame in, the masks of all frames out.",
            "",
            *(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
            "",
            "`hodor COMMAND --help` lists a command's options. First steps: hodor segment VIDEO --mask MASK.png -o OUT",
        ]
    )


if __name__ == "__main__":
    main()
