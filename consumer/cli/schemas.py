"""`vortex schemas`: the event contract as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, console
from schemas.generate import check, generate


def schemas(
    output: Annotated[Path, typer.Argument(help="Directory to write to.")] = Path("schemas"),
    check_only: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if files differ.")
    ] = False,
) -> None:
    """Write JSON Schemas, the AsyncAPI document and example events.

    Example: `vortex schemas ./contract`
    """
    if check_only:
        drifted = check(output)
        for name in drifted:
            console.print(f"differs: {name}", highlight=False)
        if drifted:
            raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)
        return
    for path in generate(output):
        console.print(str(path), highlight=False, soft_wrap=True)
