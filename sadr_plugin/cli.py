"""The ``sadr`` command line: the plugin's own commands and, through a hook, the adapters'."""

from __future__ import annotations

import sys

import typer

from .doctor import doctor, editors
from .errors import SadrError
from .models import models
from .plugins import plugin_manager


def build() -> typer.Typer:
    """The command line with every installed adapter's commands."""
    app = typer.Typer(
        help="Selective Attention Drift Restriction: knowledge edits that stay specific.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def sadr() -> None:
        pass  # with a callback, a single command keeps its name

    app.command()(doctor)
    app.command()(editors)
    app.command()(models)
    plugin_manager().hook.sadr_register_commands(app=app)
    return app


def main() -> None:
    """Run the command line; one of the plugin's own errors ends it with one line and status 1."""
    try:
        build()()
    except SadrError as error:
        print(f"sadr: {error}", file=sys.stderr)
        sys.exit(1)
