"""Records what the README shows, next to this file.

`demo.svg` is the terminal at the end of a real `vortex demo`, `demo.png` the contact sheet of its
videos, `slot-time.svg` the terminal after `make bench-slot`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 84
FONT_FACE = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # rich would fetch a font from the web
HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        shown = _run([str(Path(sys.executable).with_name("vortex")), "demo"], Path(directory))
        shutil.copyfile(Path(directory) / "demo-output" / "sheet.png", HERE / "demo.png")
    shown = shown.replace(directory, "~")
    # Without the progress that the terminal has overwritten.
    _save(shown[shown.rindex("What became of") :], "vortex demo", HERE / "demo.svg")
    shown = _run([sys.executable, "-m", "tests.benchmarks.slot_time"], HERE.parent)
    _save(shown, "make bench-slot", HERE / "slot-time.svg")


def _run(command: list[str], directory: Path) -> str:
    """Return what a command prints into a terminal."""
    return subprocess.run(
        command,
        cwd=directory,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
    ).stdout


def _save(shown: str, title: str, path: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(Text.from_ansi(shown))
    svg = FONT_FACE.sub("", console.export_svg(title=title))
    # Not every viewer takes the no-break spaces between columns for what they are.
    path.write_text(svg.replace("<svg ", '<svg xml:space="preserve" ', 1), encoding="utf-8")


if __name__ == "__main__":
    main()
