"""The command `vortex`."""

from __future__ import annotations

import sys

from consumer.cli.stop_signals import held_stop
from vortex.utils.heap import import_for_good


def main() -> None:
    """Run the command line; an expected failure is one line on standard error."""
    if sys.argv[1:2] == ["run"]:
        held_stop.hold()  # before the imports below, which take a second
    import_for_good("consumer.cli.app")
    from consumer.cli.app import run_app

    run_app()
