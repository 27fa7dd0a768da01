"""`vortex inspect`: what a video's credentials say, and what was altered."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from consumer.artifacts.errors import ArtifactError
from consumer.cli.common import EXIT_NOT_AS_IT_SHOULD, console
from schemas import SlotComplete, parse_outcome


def inspect(
    file: Annotated[Path, typer.Argument(help="An MP4 file.", dir_okay=False)],
    outcome: Annotated[
        Path | None,
        typer.Option(help="JSON file with the slot's outcome, to compare with.", dir_okay=False),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option(help="PEM file with the authorities to trust.", dir_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a video's content credentials and watermark, and check them without a network.

    Exit code 1 if anything was altered; each such thing is named.

    Example: `vortex inspect slot.mp4 --outcome slot.json --trust authority.pem`
    """
    from consumer.artifacts.inspection import inspect_file

    expected = None if outcome is None else _outcome(outcome)
    found = inspect_file(file, outcome=expected, authorities=trust)
    if as_json:
        console.print_json(json.dumps(asdict(found)))
    else:
        if found.generator is not None:
            trusted = "trusted" if found.trusted else "not checked" if trust is None else "no"
            console.print(f"made by    {found.generator}, a generative model", highlight=False)
            console.print(f"signed by  {found.signer} (trust: {trusted})", highlight=False)
        if found.claim is not None:
            console.print_json(json.dumps(found.claim))
        if found.watermark_id is not None:
            console.print(f"watermark  {found.watermark_id}", highlight=False)
        for problem in found.problems or ["intact"]:
            console.print(problem, highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


def _outcome(path: Path) -> SlotComplete:
    try:
        event = parse_outcome(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError:
        event = None
    if not isinstance(event, SlotComplete):
        raise ArtifactError(f"{path} must hold the JSON of a slot-complete")
    return event
