"""`vortex models`: the weights."""

from __future__ import annotations

from typing import Annotated

import typer

from consumer.cli.common import EXIT_USAGE, ConfigOption, console, fail, load_config
from vortex.models.manifest import verify_manifest

app = typer.Typer(help="The models' weights.", no_args_is_help=True)


@app.command()
def build(
    config: ConfigOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides all random weights.")] = 0,
) -> None:
    """Build the small models of profile mini, unless they are there."""
    settings = load_config(config).models
    if settings.profile != "mini":
        fail(
            f"models.profile is {settings.profile}: only mini can be built; the production weights"
            f" belong in {settings.profile_directory}",
            EXIT_USAGE,
        )
    directory = settings.profile_directory
    with console.status("loading libraries") as status:
        from vortex.models.mini import build_mini

        build_mini(directory, seed=seed, progress=lambda part: status.update(f"building {part}"))
    console.print(f"models are in {directory}", highlight=False, soft_wrap=True)


@app.command()
def verify(config: ConfigOption = None) -> None:
    """Check that every file of the profile is there and has its checksum."""
    directory = load_config(config).models.profile_directory
    revisions = verify_manifest(directory, checksums=True)
    for name, revision in revisions.items():
        console.print(f"[green]OK[/] {name} {revision}", highlight=False)
