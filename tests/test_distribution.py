"""What is published: an archive and a wheel that pass the index's checks and work with nothing but what they declare.

The clean environments are made of links to the packages that are installed here, so that nothing is downloaded: of each
extra exactly what it requires, and what that requires in turn.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_paths()["purelib"])


def done(*command: str | Path, cwd: Path | None = None) -> str:
    found = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=cwd)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive of the sources, and the wheel made from what is in it."""
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    done("tar", "-xf", next(folder.glob("*.tar.gz")), "-C", folder)
    sources = next(path for path in folder.iterdir() if path.is_dir())
    done(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=sources)
    return folder


@pytest.mark.slow
def test_the_index_takes_it(built: Path) -> None:
    scripts = Path(sys.executable).parent
    files = [*built.glob("*.tar.gz"), *built.glob("*.whl")]
    assert len(files) == 2
    assert done(scripts / "twine", "check", "--strict", *files).count("PASSED") == 2
    done(scripts / "check-wheel-contents", *built.glob("*.whl"), cwd=ROOT)


@pytest.mark.slow
def test_every_package_is_typed_and_carries_its_data(built: Path) -> None:
    names = ZipFile(next(built.glob("*.whl"))).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert {"equiv_probe/report/page/page.js", "equiv_probe_ase/force_field/weights.pt"} <= set(names)
    assert max(ZipFile(next(built.glob("*.whl"))).infolist(), key=lambda one: one.file_size).file_size < 1_000_000


def needed(requirement: str) -> set[str]:
    """The installed distributions that a requirement brings, with its extras."""
    todo, seen = [Requirement(requirement)], set()
    while todo:
        one = todo.pop()
        for extra in ["", *one.extras]:
            if (one.name, extra) in seen:
                continue
            seen.add((one.name, extra))
            for line in metadata.requires(one.name) or []:
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    todo.append(inner)
    return {re.sub(r"[-_.]+", "-", name).lower() for name, _ in seen} - {"equiv-probe"}


def linked(names: set[str], site: Path) -> None:
    """Link what these distributions installed into an environment's folder of packages."""
    for name in names:
        files = metadata.distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            if not (site / top).exists() and (SITE / top).exists():
                (site / top).symlink_to(SITE / top)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "code"),
    [
        ("", "import equiv_probe_lightning, equiv_probe_pyg, equiv_probe_ase, equiv_probe_schnetpack"),
        ("[ase]", "from equiv_probe_ase import SymmetryMonitor, TwirledCalculator, audit"),
        (
            "[lightning]",
            "from equiv_probe_lightning import EquivarianceCallback; EquivarianceCallback()",
        ),
        ("[pyg]", "from equiv_probe_pyg import RandomRotation, attach"),
    ],
)
def test_a_clean_environment_with_an_extra_works(built: Path, tmp_path: Path, extras: str, code: str) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(done(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    linked(needed(f"equiv-probe{extras}"), site)
    done(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, next(built.glob("*.whl")))
    probe = (
        "import torch, equiv_probe as ep; torch.manual_seed(0); "
        "x = torch.randn(4, 5, 3, dtype=torch.float64); x -= x.mean(-2, keepdim=True); "
        "s = ep.Schema({'x': ep.point}, {'v': ep.vector}); "
        "orbit = ep.twirl(lambda given: {'v': given['x'] * torch.tensor([1.0, 2.0, 3.0])}, {'x': x}, s); "
        "print('off by', float((orbit.means['v'].mean(0) - 2 * x).abs().max()))"  # a third of the trace
    )
    said = done(python, "-c", f"{probe}\n{code}", cwd=tmp_path)
    assert float(said.split("off by ")[1].split()[0]) < 1e-12
    assert done(python, "-m", "equiv_probe", "--version", cwd=tmp_path).startswith("equiv-probe ")
    assert "Packages" in done(python, "-m", "equiv_probe", "doctor", cwd=tmp_path)


def test_the_conda_recipe_asks_for_what_the_project_declares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    recipe = yaml.safe_load((ROOT / "integrations/conda/recipe.yaml").read_text())
    declared = {f"python {project['requires-python']}"} | {
        f"{'pytorch' if one.name == 'torch' else one.name} {one.specifier}"
        for one in map(Requirement, project["dependencies"])
    }
    assert set(recipe["requirements"]["run"]) == declared
    assert recipe["context"]["version"] == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]
    (entry,) = recipe["build"]["python"]["entry_points"]
    assert entry == f"equiv-probe = {project['scripts']['equiv-probe']}"
