"""Records a real `vortex demo` beside this file.

`demo.svg` is the terminal at its end, `demo.png` the contact sheet of its videos.
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


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [Path(sys.executable).with_name("vortex"), "demo"],
            cwd=directory,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        )
        shown = done.stdout.replace(directory, "~")
        sheet = Path(directory) / "demo-output" / "sheet.png"
        shutil.copyfile(sheet, Path(__file__).with_name("demo.png"))
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(Text.from_ansi(_last_screen(shown)))
    svg = FONT_FACE.sub("", console.export_svg(title="vortex demo"))
    # Not every viewer takes the no-break spaces between columns for what they are.
    svg = svg.replace("<svg ", '<svg xml:space="preserve" ', 1)
    Path(__file__).with_name("demo.svg").write_text(svg, encoding="utf-8")


def _last_screen(shown: str) -> str:
    """Leave out the progress that the terminal has overwritten."""
    return shown[shown.rindex("What became of") :]


if __name__ == "__main__":
    main()
