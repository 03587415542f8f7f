"""The command line ``equiv-probe``: commands come from the plugins that are installed."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from equiv_probe.cli import report_commands as reporting
from equiv_probe.cli.run_command import PASSED_ON, run
from equiv_probe.cli.shared import INTERRUPTED, USAGE_ERROR, wide_console
from equiv_probe.errors import EquivProbeError
from equiv_probe.live import plugins
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

__all__ = ["INTERRUPTED", "USAGE_ERROR", "build", "explain", "main", "wide_console"]


def build() -> typer.Typer:
    """The application with every plugin's commands."""
    app = typer.Typer(
        name="equiv-probe",
        help="How much of a 3D molecular model's error is there only because the model does not respect rotation.",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(no_args_is_help=True)(_root)
    app.command(epilog="Example: equiv-probe doctor")(doctor)
    app.command(context_settings=PASSED_ON, epilog="Example: equiv-probe run train.py --epochs 10")(run)
    reporting.register(app)
    for plugin in plugins.installed()[0]:
        if plugin.register is None:
            continue
        try:
            plugin.register(app)
        except Exception as error:  # somebody else's package must not take the command line down
            logger.warning(f"plugin {plugin.name} adds no commands: {type(error).__name__}: {error}")
    return app


def _version_callback(asked: bool) -> None:
    if asked:
        print(f"equiv-probe {metadata.version('equiv-probe')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_version_callback)
    ] = False,
) -> None:
    """Take the options of ``equiv-probe`` itself."""
    del version


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, frameworks found, the device, and which presets are usable."""
    found, broken = plugins.installed()
    packages = ["equiv-probe", "torch", "torchmetrics", "numpy", "scipy"]
    packages += [package for plugin in found for package in plugin.packages]
    versions = {name: _version(name) for name in dict.fromkeys(packages)}
    presets = [preset for plugin in found for preset in plugin.presets()]
    state = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "packages": versions,
        "plugins": {plugin.name: plugin.usable for plugin in found},
        "broken plugins": broken,
        "presets": [vars(preset) for preset in presets],
    }
    if as_json:
        print(json.dumps(state, indent=1))
        return
    from rich.text import Text

    console = wide_console()
    console.print(f"Python {state['python']} on {state['platform']}; {state['device']}")
    console.print(_columns("\nPackages", [(name, version or "not installed") for name, version in versions.items()]))
    rows = [(p.name, "usable" if p.usable else p.missing, p.about) for p in presets]
    console.print(_columns("\nCalculators", rows))
    for line in broken:
        console.print(Text(f"plugin not loaded: {line}", "red"))


def _columns(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    width = max(map(len, rows), default=0)
    for place in range(width):
        table.add_column(no_wrap=place < width - 1, overflow="fold")  # a command to be copied stays in one line
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: square brackets are not markup
    return table


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA: {', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))}"
    if torch.backends.mps.is_available():
        return "MPS (Apple)"
    return f"CPU only, {torch.get_num_threads()} threads"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Run ``equiv-probe``; an error that can be explained is one line on stderr and exit code 2, Ctrl-C is 130."""
    try:
        build()()
    except EquivProbeError as error:
        explain(error)
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:  # while commands are being imported; later Typer says the same
        print("Aborted.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def explain(error: EquivProbeError) -> None:
    """Print an error on stderr, in one line."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
