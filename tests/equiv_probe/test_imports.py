"""What is imported when, and that packages which find their names lazily tell everybody of the same names."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

import equiv_probe as ep
from equiv_probe.lazy_names import lazily

HEAVY = {
    *("torch", "numpy", "scipy", "torchmetrics", "matplotlib", "rich", "jinja2", "pandas", "chemiscope"),
    *("ase", "lightning", "pytorch_lightning", "torch_geometric", "schnetpack", "chgnet", "sevenn", "orb_models"),
}
LAZY = ["equiv_probe", "equiv_probe_ase", "equiv_probe_pyg", "equiv_probe_schnetpack"]
RESEARCH = ("Curvature", "Gradients", "Line", "OrbitLoss", "along_line", "curvature", "gradients", "infinitesimal")


def loaded_by(*steps: str) -> list[set[str]]:
    """Which heavy packages a fresh interpreter has imported after each of some lines of code."""
    ask = f"print('loaded:', *sorted(sys.modules.keys() & {HEAVY!r}))"
    code = "\n".join(["import sys", *(f"{step}\n{ask}" for step in steps)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    return [set(line.split()[1:]) for line in lines]


def command(*arguments: str) -> str:
    """Code that runs ``equiv-probe`` in its own process."""
    return (
        f"from equiv_probe.cli.main import main\nsys.argv = ['equiv-probe', *{arguments!r}]\n"
        "try: main()\nexcept SystemExit: pass"
    )


@pytest.mark.slow
def test_nothing_is_imported_before_it_is_used() -> None:
    step = "probe.running.add('train', 'x', *torch.ones(3, 4))"
    metric = "import equiv_probe.estimation.metric"
    package, error, schema, rotations, orbit, probe, measured, used = loaded_by(
        "import equiv_probe as ep",
        "ep.EquivProbeError, dir(ep)",
        "ep.vector, ep.grid(), ep.Schema, ep.RotationPlan('haar')",
        "assert ep.rotations.haar(2).shape == (2, 3, 3)",  # packages are there without an import of their own
        "ep.twirl, ep.decompose, ep.Twirled, ep.augment",
        "ep.Probe",
        f"import torch; probe = ep.Probe(torch.nn.Linear(3, 3)); {step}",
        metric,
    )
    assert package == error == set()
    assert schema == rotations == orbit == {"torch", "numpy"}, "NumPy comes with torch"
    assert probe <= measured <= {"torch", "numpy", "rich"}
    assert used >= {"torch", "torchmetrics"}, "negative control: what is used is found"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from equiv_probe.live import plugins; assert plugins.installed()[0]", set()),
        (command("--version"), set()),
        (command("--help"), {"rich"}),
        (command("audit", "--help"), {"rich"}),
    ],
    ids=["plugins", "--version", "--help", "audit --help"],
)
def test_the_command_line_imports_no_torch(code: str, expected: set[str]) -> None:
    assert loaded_by(code) == [expected], "Rich comes with Typer's help"


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_says_the_same_to_python_and_to_type_checkers(package: str) -> None:
    """Imports under TYPE_CHECKING, the table of modules, and ``__all__`` agree, and every name is there."""
    module = importlib.import_module(package)
    origin = find_spec(package).origin  # type: ignore[union-attr]
    typed: dict[str, str] = {}
    for node in ast.walk(ast.parse(Path(str(origin)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package):
            typed |= {alias.name: node.module for alias in node.names}
    typed = {name: home for name, home in typed.items() if not home.endswith(("deprecation", "lazy_names"))}
    moved = set(RESEARCH) if package == "equiv_probe" else set()
    called = {"landscape"} if package == "equiv_probe" else set()  # a package that may be called as the function
    framework = {"EquivarianceCallback"} & set(module.__all__)  # has a base class that no type checker may follow
    assert set(typed) - moved - called == set(module.__all__) - framework
    assert set(module.__all__) <= set(dir(module))
    for name, home in typed.items():
        if name in moved:
            continue
        if name in called:
            assert callable(getattr(module, name))
            continue
        expected = getattr(importlib.import_module(home), name)
        assert getattr(module, name) is expected, name


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'equiv_probe' has no attribute 'vektor'"):
        ep.vektor  # noqa: B018
    with pytest.raises(ImportError):
        from equiv_probe import vektor  # noqa: F401
    assert not hasattr(ep, "__wrapped__")


def test_a_name_that_is_also_a_module_is_refused() -> None:
    """Whether ``scaling.gap`` is the function would hang on what was imported first."""
    with pytest.raises(ValueError, match="gap"):
        lazily("equiv_probe.scaling", {"gap": ("gap",)})


@pytest.mark.parametrize("name", RESEARCH)
def test_research_names_work_under_their_old_names(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"ep.{name} is now called ep.analysis.{name}") as heard:
        found = getattr(ep, name)
    assert found is getattr(ep.analysis, name)
    assert Path(heard[0].filename) == Path(__file__)
    assert name not in ep.__all__


def test_new_names_say_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(hasattr(ep, name) for name in ep.__all__)
        assert all(hasattr(ep.analysis, name) for name in ep.analysis.__all__)
