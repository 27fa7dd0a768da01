"""`vortex models`: the weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from consumer.cli.common import (
    EXIT_MISSING,
    EXIT_USAGE,
    ConfigOption,
    console,
    fail,
    load_config,
)
from consumer.config import WorkerConfig
from vortex.errors import VortexInitializationError
from vortex.utils.heap import import_for_good
from vortex.weights.catalogue import Catalogue, CatalogueModel, HubModel
from vortex.weights.manifest import Manifest, problems
from vortex.weights.presence import Presence, presence_of

app = typer.Typer(help="The models' weights.", no_args_is_help=True)

_BYTES_PER_MB = 1e6
_BYTES_PER_GB = 1e9
_COLOURS = {Presence.PRESENT: "green", Presence.MISSING: "red"}


@app.command(name="list")
def list_(config: ConfigOption = None) -> None:
    """Show what each profile needs, and what is installed."""
    settings = load_config(config).models
    for profile, models in Catalogue.load(settings.catalogue).root.items():
        directory = settings.directory.expanduser() / profile
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
        for heading in ("model", "state", "size", "from"):
            table.add_column(heading, justify="right" if heading == "size" else "left")
        for name, model in models.items():
            state = presence_of(directory, name, model)
            coloured = f"[{_COLOURS.get(state, 'yellow')}]{state}[/]"
            table.add_row(name, coloured, _size(model.bytes), _origin(model))
        total = _size(sum(model.bytes for model in models.values()))
        console.print(
            f"[bold]{profile}[/], {total} in {directory}", highlight=False, soft_wrap=True
        )
        console.print(table, highlight=False)


@app.command()
def build(config: ConfigOption = None) -> None:
    """Assemble the small models of the profile mini, unless they exist."""
    settings = load_config(config).models
    if settings.profile != "mini":
        fail(
            f"models.profile is {settings.profile}: only mini can be built; `vortex models fetch`"
            f" fetches the production weights into {settings.profile_directory}",
            EXIT_USAGE,
        )
    directory = settings.profile_directory
    with console.status("loading libraries") as status:
        from vortex.models.mini import build_mini

        build_mini(directory, progress=lambda part: status.update(f"building {part}"))
    console.print(f"models are in {directory}", highlight=False, soft_wrap=True)


@app.command()
def fetch(
    config: ConfigOption = None,
    profile: Annotated[str, typer.Option(help="Profile to fetch.")] = "production",
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Copy from this directory instead of the hub: the hub's cache, or repositories.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Use only the hub's cache on this machine.")
    ] = False,
) -> None:
    """Fetch published models at pinned revisions, check them and write their manifest.

    Resumes interrupted downloads and keeps whole files. HF_ENDPOINT, HF_TOKEN, HF_HOME and
    HF_HUB_OFFLINE apply.
    """
    settings = load_config(config).models
    directory = settings.directory.expanduser() / profile
    try:
        from vortex.weights.fetch import fetch as fetch_models
    except ModuleNotFoundError as error:
        fail(
            f"fetching needs the package {error.name}; install vortex-slots[production]",
            EXIT_MISSING,
        )
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        fetch_models(
            directory,
            progress=_OnBar(bar),
            source=source,
            offline=offline,
            catalogue=settings.catalogue,
        )
    console.print(f"models are in {directory}", highlight=False, soft_wrap=True)


@app.command()
def verify(
    config: ConfigOption = None,
    load: Annotated[
        bool, typer.Option(help="Also load each model, as a worker does; needs its memory.")
    ] = True,
) -> None:
    """Check every file of the profile by its checksum, and load each model.

    Reports each model as OK, or the first problem. A damaged model is not loaded. Exit code 3 if
    there is any problem.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # only verdicts are printed
    settings = load_config(config)
    directory = settings.models.profile_directory
    manifest = Manifest.read(directory)
    sound = True
    with console.status("checking") as status:
        found = problems(directory, manifest, checksums=True, catalogue=settings.models.catalogue)
        for name, wrong in found:
            if load and not wrong:
                status.update(f"loading {name}")
                wrong = _why_not_loaded(name, directory, settings)
                status.update("checking")
            sound = sound and not wrong
            _show_verdict(wrong or f"{name} {manifest.models[name].revision}", sound=not wrong)
    if not sound:
        raise typer.Exit(EXIT_MISSING)


@app.command()
def calibrate(
    config: ConfigOption = None,
    prompts: Annotated[
        int,
        typer.Option(help="Prompts to make a video for; more are more exact.", min=20, max=2000),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Of the prompts and the videos.", min=0)] = 0,
) -> None:
    """Fit what the self-check's scores count for, on videos that the models make here.

    Takes about half a second a prompt with the small models on two cores. Without a calibration of
    these very weights a worker only reports what the self-check finds. The figures are those of
    videos that were not fitted to: how often an own prompt fits better than another's, is refused,
    and how often another's is accepted.
    """
    settings = load_config(config)
    directory = settings.models.profile_directory
    with console.status("loading models") as status:
        import_for_good("vortex.models.calibrate")
        from vortex.models.calibrate import calibrate as fit_to_videos
        from vortex.models.stage_models import StageModels
        from vortex.utils.device import device_of

        models = StageModels.load(settings, device_of(settings.device.name), calibrated=False)
        fitted = fit_to_videos(
            models,
            settings.pipeline,
            count=prompts,
            seed=seed,
            progress=lambda made: status.update(f"{made} of {prompts} videos made"),
        )
        fitted.write(directory)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    headings = ("self-check", "separation", "own refused", "others accepted")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right")
    for name, some in fitted.figures.items():
        table.add_row(
            name,
            f"{some.separation:.3f}",
            f"{some.refused:.1%} (was {some.refused_uncalibrated:.1%})",
            f"{some.accepted:.1%} (was {some.accepted_uncalibrated:.1%})",
        )
    console.print(table, highlight=False)
    console.print(
        f"concepts: {fitted.concepts_missed:.1%} of those shown are missed,"
        f" {fitted.concepts_found:.1%} of others found",
        highlight=False,
    )
    console.print(f"calibration is in {directory}", highlight=False, soft_wrap=True)


def _why_not_loaded(name: str, directory: Path, settings: WorkerConfig) -> str | None:
    import_for_good("vortex.models.loading")
    from vortex.models.loading import try_loading

    try:
        try_loading(name, directory, settings)
    except VortexInitializationError as error:
        return str(error)
    return None


def _show_verdict(text: str, *, sound: bool) -> None:
    console.print("[green]OK[/]   " if sound else "[red]FAIL[/] ", end="")
    console.print(text, highlight=False, soft_wrap=True, markup=False)


class _OnBar:
    """Shows a fetch on a progress bar."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = TaskID(0)

    def start(self, total_bytes: int) -> None:
        self._task = self._bar.add_task("", total=total_bytes)

    def step(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def advance(self, more_bytes: int) -> None:
        self._bar.advance(self._task, more_bytes)


def _size(size_bytes: int) -> str:
    if size_bytes < _BYTES_PER_GB:
        return f"{size_bytes / _BYTES_PER_MB:.0f} MB"
    return f"{size_bytes / _BYTES_PER_GB:.1f} GB"


def _origin(model: CatalogueModel) -> str:
    if not isinstance(model, HubModel):
        return f"{model.source}\n{model.licence}"
    gated = ", gated" if model.gated else ""
    return f"{model.source}\nrevision {model.short_revision}, {model.licence}{gated}"
