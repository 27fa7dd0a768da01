"""`vortex config`: the effective configuration."""

from __future__ import annotations

import typer
import yaml

from consumer.cli.common import ConfigOption, load_config

app = typer.Typer(help="The configuration.", no_args_is_help=True)


@app.callback()
def _config() -> None:
    """The configuration: packaged defaults, then --config, then VORTEX__SECTION__KEY."""


@app.command()
def show(config: ConfigOption = None) -> None:
    """Print the effective configuration as YAML, secrets masked."""
    settings = load_config(config)
    typer.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), nl=False)
