"""Figures are written whatever backend MPLBACKEND names: in a process of its own, since matplotlib reads it once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
CODE = {
    "analyse": "with plots.page(path, {'a': 1}, (2.0, 2.0)) as figure:\n    figure.subplots()",
    "benchmark": "from hodor.benchmark import check_plot\ncheck_plot(path)\nfrom matplotlib import pyplot, use\nuse('agg')\n"
    "pyplot.figure().savefig(path)",
}


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "module://no.such.backend", "agg"])
@pytest.mark.parametrize("command", list(CODE))
def test_a_figure_is_written_whatever_backend_the_environment_names(tmp_path: Path, command: str, backend: str) -> None:
    head = "import os, sys\nfrom pathlib import Path\nfrom hodor.analysis import plots\npath = Path(sys.argv[1])\n"
    code = f"{head}{CODE[command]}\nprint(os.environ['MPLBACKEND'])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.png"],
        env={**os.environ, "MPLBACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, backend), done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
