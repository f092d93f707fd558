"""The ``sadr`` command line: the plugin's own commands and, through a hook, the adapters'."""

from __future__ import annotations

import functools
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .._version import plugin_version
from ..errors import SadrError
from ..plugins import plugin_manager
from ._doctor import doctor
from ._drift import drift
from ._editors import editors
from ._eval import evaluate
from ._models import models
from ._tune import tune


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"sadr {plugin_version()}")
        raise typer.Exit


def build() -> typer.Typer:
    """Build the command line with the commands of every installed adapter.

    If the commands of an adapter cannot be added, a warning names it. All other commands work.
    """
    app = typer.Typer(
        help="Selective Attention Drift Restriction: knowledge edits that stay specific.",
        no_args_is_help=True,
        rich_markup_mode=None,  # its columns break words on a narrow terminal
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def sadr(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                help="Show the version.",
                callback=_show_version,
                is_eager=True,
            ),
        ] = False,
    ) -> None:
        pass

    app.command()(doctor)
    app.command()(editors)
    app.command()(drift)
    app.command("eval")(evaluate)
    app.command()(models)
    app.command()(tune)
    for implementation in plugin_manager().hook.sadr_register_commands.get_hookimpls():
        try:
            implementation.function(app=app)
        except Exception as error:
            warnings.warn(
                f"SADR: {implementation.plugin_name} has no commands here: {error!r}", stacklevel=2
            )
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _with_whole_errors(command.callback)
    return app


def _with_whole_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show an unexpected end of a file with its place. Click would say "Aborted!" and no more."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except EOFError as error:
            traceback.print_exception(error)
            print("sadr: a file ended before it should; the lines above say where", file=sys.stderr)
            raise typer.Exit(1) from None

    return run


def main() -> None:
    """Run the command line. An error of the plugin itself ends it with one line and status 1."""
    try:
        build()()
    except SadrError as error:
        print(f"sadr: {error}", file=sys.stderr)
        sys.exit(1)
