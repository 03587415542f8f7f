"""What the site says of commands and files is written from the commands and records themselves, before Sphinx reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from equiv_probe.cli.main import build
from equiv_probe.diagnosis.experiments import EXPERIMENTS
from equiv_probe.live import plugins
from equiv_probe.report import kinds
from equiv_probe_ase.diagnosis.experiments import ATOMS_EXPERIMENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

ESCAPED = str.maketrans({"<": "&lt;", "*": "\\*", "[": "\\[", "|": "\\|", "$": "\\$"})


def commands() -> str:
    """Markdown of every command, in the order of ``equiv-probe --help``."""
    group: Any = typer.main.get_command(build())
    context = group.make_context("equiv-probe", [], resilient_parsing=True)
    found = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return "\n".join(line for name, command in found if not command.hidden for line in _of_command(name, command))


def _of_command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(f"equiv-probe {name}", [], resilient_parsing=True)
    usage = context.get_usage().removeprefix("Usage: ")
    yield from (f"### {name}", "", _prose(command.help or ""), "", "```text", usage, "```", "")
    if command.epilog:
        yield from ("```console", f"$ {command.epilog.removeprefix('Example: ')}", "```", "")
    yield from ("| argument or option | what it does |", "|---|---|")
    for parameter in command.get_params(context):
        if parameter.name != "help" and (record := parameter.get_help_record(context)):
            yield f"| `{record[0].replace('|', '/')}` | {' '.join(record[1].split()).translate(ESCAPED)} |"
    yield ""


def _prose(text: str) -> str:
    """A command's help; the paragraphs that are examples become code."""
    paragraphs = [paragraph.strip() for paragraph in text.replace("\b", "").split("\n\n")]
    return "\n\n".join(
        f"```console\n$ {one}\n```" if one.startswith("equiv-probe ") else one.translate(ESCAPED) for one in paragraphs
    )


def presets() -> str:
    """A table of the calculators with short names, in Markdown."""
    lines = ["| preset | what |", "|---|---|"]
    found = [one for plugin in plugins.installed()[0] for one in plugin.presets()]
    return "\n".join([*lines, *(f"| `{one.name}` | {one.about.translate(ESCAPED)} |" for one in found)])


def experiments() -> str:
    """A table of what a diagnosis tries, in Markdown."""
    lines = ["| experiment | asks | evaluations, about |", "|---|---|---|"]
    found = {one.name: one for one in (*EXPERIMENTS, *ATOMS_EXPERIMENTS)}.values()
    ordered = sorted(found, key=lambda one: (one.group, one.cost))
    return "\n".join([*lines, *(f"| {one.name} | {one.question.translate(ESCAPED)} | {one.cost} |" for one in ordered)])


def schemas(folder: Path) -> str:
    """Write the JSON schema of every kind of result; return a table of them in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| kind | class | what it is | schema |", "|---|---|---|---|"]
    for kind in sorted(kinds._PLACES):
        record = kinds.class_of(kind)
        text = json.dumps(record.json_schema(), indent=1, ensure_ascii=False)
        (folder / f"{kind}.json").write_text(text, encoding="utf-8")
        about = (record.__doc__ or "").partition("\n")[0].replace("``", "`")
        link = f'<a href="../schemas/{kind}.json">{kind}.json</a>'
        lines.append(f"| `{kind}` | `{record.__name__}` | {about} | {link} |")
    return "\n".join(lines)


def write(app: Sphinx) -> None:
    """Write all of it below ``generated/``, files only where they changed: Sphinx reads anew what is newer."""
    generated = Path(app.srcdir) / "generated"
    texts = {
        "commands.md": commands(),
        "experiments.md": experiments(),
        "presets.md": presets(),
        "schemas.md": schemas(generated / "extra" / "schemas"),
    }
    for name, text in texts.items():
        path = generated / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write before anything is read."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
