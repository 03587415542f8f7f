"""What README and docs/ show of Python runs and prints what its last comment says; what they name exists."""

from __future__ import annotations

import ast
import io
import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from equiv_probe.cli.main import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if "generated" not in page.parts)]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [(page, language, block) for page in PAGES for language, block in FENCE.findall(page.read_text("utf-8"))]


def blocks(*languages: str) -> list[Any]:
    """Pages and blocks of these languages."""
    chosen = [(page, block) for page, language, block in BLOCKS if language in languages]
    counts = {page: iter(range(1, 100)) for page, _ in chosen}
    return [pytest.param(*one, id=f"{one[0].stem}-{next(counts[one[0]])}") for one in chosen]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), blocks("python"))
def test_an_example_prints_what_its_comment_says(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some of them save a report
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(block, page.name, "exec"), {"__name__": "example"})
    said = re.findall(r"^(?:print\(.*\)  )?# (.+)$", block, flags=re.MULTILINE)[-1]
    assert words(printed.getvalue()) == words(said)


def words(text: str) -> list[str]:
    """Figures at round-off differ from machine to machine; the words, and the figures that mean something, do not."""
    return re.sub(r"[\d.]+e-\d+", "<tiny>", text).split()


@pytest.mark.parametrize(("page", "block"), blocks("py"))
def test_a_fragment_is_python(page: Path, block: str) -> None:
    ast.parse(block, page.name)


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_yaml_can_be_read(page: Path, block: str) -> None:
    assert yaml.safe_load(block), page


def test_configurations_make_the_callback_that_they_describe() -> None:
    """Hydra's and LightningCLI's way of making an object of a file."""
    instantiate = pytest.importorskip("hydra.utils").instantiate
    pytest.importorskip("pytorch_lightning")
    made = [yaml.safe_load(block) for page, language, block in BLOCKS if language == "yaml" and "Callback" in block]
    files, hydra = [one for one in made if "trainer" in one], [one for one in made if "callbacks" in one]
    assert len(files) == len(hydra) == 1
    callback = instantiate(hydra[0]["callbacks"]["equivariance"])
    assert str(callback.settings.schema) == 'Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})'
    assert (callback.settings.network, callback.settings.options["every"]) == ("model.net", 100)
    given = files[0]["trainer"]["callbacks"][0]
    callback = instantiate({"_target_": given["class_path"], **given["init_args"]})
    assert callback.settings.options["plan"].design == "icosahedral"


@cache
def options() -> dict[str, set[str]]:
    """The options of every command."""
    group: Any = typer.main.get_command(build())
    context = group.make_context("equiv-probe", [], resilient_parsing=True)
    found = {}
    for name in group.list_commands(context):
        parameters = group.get_command(context, name).params
        found[name] = {spelling for one in parameters for spelling in (*one.opts, *one.secondary_opts)} | {"--help"}
    return found


COMMANDS = [
    (page, line.strip().removeprefix("$ ").partition("   #")[0])
    for page, language, block in BLOCKS
    if language in {"console", "bash"}
    for line in block.splitlines()
    if re.match(r"^\s*(\$ |srun )", line)
]
COMMANDS += [
    (page, found) for page in PAGES for found in re.findall(r"`(equiv-probe [a-z]+ [^`\n]*)`", page.read_text("utf-8"))
]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page.stem}: {line[:60]}" for page, line in COMMANDS])
def test_a_command_is_one_that_there_is(page: Path, command: str) -> None:
    words = shlex.split(command, comments=False)
    if "equiv-probe" in words:
        _, name, *rest = words[words.index("equiv-probe") :]
        if name != "COMMAND":
            ours = rest if name != "run" else rest[: next((k for k, w in enumerate(rest) if w.endswith(".py")), None)]
            assert {word.partition("=")[0] for word in ours if re.match("-[a-z-]", word)} <= options()[name], page
    for word in words:
        path = word.partition(":")[0].partition("?")[0]
        if path.startswith(("integrations/", "tests/", "docs/", "plugins/", "equiv_probe/")):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


NAMED = re.compile(r"`((?:integrations|tests|docs|plugins|equiv_probe)/[\w./-]*|[A-Z]+\.md|\.pre-commit[\w.-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page: Path) -> None:
    for path in NAMED.findall(page.read_text("utf-8")):
        assert path.startswith("docs/_build") or (ROOT / path).exists(), path


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.slow
def test_the_audit_in_the_readme_is_a_real_one() -> None:
    """Its table has the errors and shares that an audit finds, to 3 %: single precision, another processor."""
    pytest.importorskip("ase")
    from equiv_probe_ase import audit

    text = (ROOT / "README.md").read_text("utf-8")
    errors = {name: float(value) for name, value in re.findall(r"^ (energy|forces) +([\d.]+) +\[", text, re.MULTILINE)}
    shares = {
        name: float(value) for name, value in re.findall(r"^ (energy|forces) .*? ([\d.]+) % ±", text, re.MULTILINE)
    }
    folder = ROOT / "integrations" / "force_field"
    report = audit(f"{folder / 'transformer.py'}:calculator", folder / "data" / "molecules.extxyz", progress=False)
    assert {name: report[name].rms for name in errors} == pytest.approx(errors, rel=0.03)
    assert {name: 100 * report[name].labelled.share for name in shares} == pytest.approx(shares, rel=0.03)
    assert set(errors) == set(shares) == {"energy", "forces"}
