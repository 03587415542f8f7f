"""``equiv-probe run``: a script as Python would run it, measured, whatever way it ends."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import equiv_probe as ep
from equiv_probe.cli import claims
from equiv_probe.cli import run_script as running_script
from equiv_probe.cli.loop_finder import Finder
from equiv_probe.cli.main import build
from equiv_probe.cli.run_command import KNOWN
from equiv_probe.cli.run_script import REPORT, run_script
from equiv_probe.errors import EquivProbeError
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import Adapter, CallAdapter
from equiv_probe.probe import settings
from equiv_probe.results.report import Report

from ... import warm_processes

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


def started(path: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (path / "train.py").write_text(textwrap.dedent(script))
    given = {key: value for key, value in os.environ.items() if key != "EQUIV_PROBE"}
    env = {**given, **environment}
    return warm_processes.run(warm_processes.EQUIV_PROBE, "run", *arguments, cwd=path, env=env)


class Graph:
    """A batch of one graph, such as a framework would define."""

    def __init__(self, pos: Tensor) -> None:
        self.pos = pos


class GraphAdapter(Adapter):
    """Reads it."""

    def split(self, args: Any, kwargs: Any) -> Any:
        del kwargs
        return {"pos": args[0].pos}, lambda values: ((Graph(values["pos"]),), {})

    def stack(self, inputs: Any, rotated: Any) -> None:
        return None

    def structures(self, inputs: Any, schema: Any, center: Any) -> None:
        return None


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(module: nn.Module, args: Any, kwargs: Any) -> GraphAdapter | None:
        return GraphAdapter() if args and isinstance(args[0], Graph) else None

    monkeypatch.setattr("equiv_probe.live.adapter_choice._readers", lambda: [read])
    monkeypatch.setattr(claims, "names", [])


class Field(nn.Module):
    """``f(x) = M x``: its orbit's variance is that of ``g⁻¹ M g``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False).double()
        with torch.no_grad():
            self.inner.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 1.0])))

    def forward(self, graph: Graph) -> dict[str, Tensor]:
        x = graph.pos - graph.pos.mean(-2, keepdim=True)
        return {"forces": self.inner(x)}


def test_a_loop_over_graphs_is_found_and_measured(graphs: None) -> None:
    del graphs
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    model, loss = nn.Sequential(Field()), nn.MSELoss()
    finder = Finder({"every": 1, "light": ep.RotationPlan("icosahedral", replicates=2)})
    for _ in range(3):
        loss(model(Graph(x))["forces"], x)
    finder.remove()
    (probe,) = finder.probes
    assert probe.model is model, "the outermost one"
    # E|g⁻¹Mg x|² − |tr(M)/3 x|² = (tr(MᵀM)/3 − (tr(M)/3)²)|x|²; rounding alone, since the plan is exact
    expected = (6 / 3 - (4 / 3) ** 2) * float(x.square().mean())
    assert probe.compute()["equiv/train/forces/L_equiv"] == pytest.approx(expected, rel=1e-9)
    assert probe.schedules["call", "train"].step == 2, "from the second call on"
    probe.remove()


def test_claimed_modules_and_plain_tensors_are_left_alone(graphs: None) -> None:
    del graphs
    model, graph = Field(), Graph(torch.randn(4, 3, dtype=torch.float64))
    claims.claim(model)
    finder = Finder({})
    model(graph)
    nn.Linear(3, 3)(torch.randn(4, 3))
    finder.remove()
    assert not finder.probes
    assert type(adapter_for(nn.Linear(3, 3), (torch.zeros(3),), {})) is CallAdapter


@pytest.mark.parametrize(("ends", "code"), [("", 0), ("raise SystemExit(7)", 7), ("raise KeyError('mine')", 1)])
def test_the_report_is_saved_however_the_script_ends(
    ends: str, code: int, graphs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del graphs
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch
        from equiv_probe.loop_of_test import Field, Graph
        assert sys.argv[1:] == ["--lr", "2"] and __name__ == "__main__"
        model = Field()
        for _ in range(4):
            model(Graph(torch.randn(4, 3, dtype=torch.float64)))
        """)
        + ends
    )
    sys.modules["equiv_probe.loop_of_test"] = sys.modules[__name__]
    before = list(sys.argv), list(sys.path)
    try:
        found = run_script(str(script), ["--lr", "2"], {"every": 1, "report": str(tmp_path)})
    finally:
        del sys.modules["equiv_probe.loop_of_test"]
    assert found == code
    assert (sys.argv, sys.path) == before
    report = Report.load(tmp_path / REPORT)
    assert report["train/forces"].structures == 3
    assert report.complete == (code == 0)
    printed = capsys.readouterr()
    assert "train/forces" in printed.out
    if "KeyError" in ends:
        assert printed.err.splitlines()[-1] == "KeyError: 'mine'"
        assert "running_script" not in printed.err, "the traceback begins in the script"


@pytest.mark.slow
def test_arguments_codes_and_tracebacks_pass_through(tmp_path: Path) -> None:
    script = """
        import json, os, sys
        import beside
        print(json.dumps([sys.argv, os.environ["EQUIV_PROBE"], __name__, sys.path[0] == os.getcwd()]))
        raise SystemExit(int(sys.argv[-1]))
    """
    (tmp_path / "beside.py").write_text("")
    done = started(tmp_path, script, "-s", "every=7", "train.py", "--every", "3", "5")
    assert done.returncode == 5, done.stderr
    assert done.stdout.strip() == '[["train.py", "--every", "3", "5"], "{\\"every\\": 7}", "__main__", true]'
    assert "measured nothing" in done.stderr
    done = started(tmp_path, script, "-m", "train", "0")
    assert done.returncode == 0, done.stderr
    done = started(tmp_path, "def f():\n    raise ValueError('mine')\nf()", "train.py")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("Traceback")
    assert "ValueError: mine" in done.stderr
    assert "runpy" not in done.stderr


def test_a_run_knows_all_settings_of_what_it_may_meet() -> None:
    """Of the callback and of the monitor, whose arguments are not settings where they are objects of Python."""
    callback = pytest.importorskip("equiv_probe_lightning.callback").Measuring
    environment = pytest.importorskip("equiv_probe_ase.dynamics.environment")
    assert set(inspect.signature(callback.__init__).parameters) - {"self"} <= set(KNOWN)
    assert set(environment.OPTIONS) <= set(KNOWN)
    with pytest.warns(DeprecationWarning, match="budget is now called cost"):
        assert settings.parse("budget=0.1", KNOWN) == {"cost": 0.1}


@pytest.mark.slow
def test_settings_and_missing_scripts_teach(tmp_path: Path) -> None:
    done = started(tmp_path, "", "-s", "evry=7", "train.py")
    assert done.returncode == 2
    assert "did you mean every?" in done.stderr
    done = started(tmp_path, "", "other.py")
    assert done.returncode == 2
    assert "other.py" in done.stderr


@pytest.mark.parametrize("text", ["", "1", "every=100", "every=epoch,network=0,cost=none,stages=train+val,seed=3"])
def test_settings_survive_being_written(text: str) -> None:
    known = ["every", "network", "cost", "stages", "seed"]
    found = settings.parse(text, known)
    if found is not None:
        assert settings.parse(settings.written(found), known) == found


@pytest.mark.parametrize(("option", "warns"), [("-o", False), ("--output", False), ("--report", True)])
def test_the_report_goes_where_the_output_option_says_by_its_old_name_too(
    option: str, warns: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(running_script, "run_script", lambda *args, **_: asked.append(args[2]) or 0)
    result = CliRunner().invoke(build(), ["run", option, str(tmp_path / "r.json"), "train.py"])
    assert result.exit_code == 0
    assert asked[0]["report"] == str(tmp_path / "r.json")
    assert ("--report is now called --output" in caplog.text) == warns


def test_the_old_name_is_hidden_and_goes_not_with_the_new_one() -> None:
    assert "--report" not in CliRunner().invoke(build(), ["run", "--help"]).output
    result = CliRunner().invoke(build(), ["run", "-o", "a.json", "--report", "b.json", "train.py"])
    assert isinstance(result.exception, EquivProbeError)


LOOP = """
import sys, torch
from torch import nn
kind = sys.argv[1]
class Tensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
    def forward(self, positions):
        return self.layer(positions - positions.mean(-2, keepdim=True))
class Keywords(Tensors):
    def forward(self, *, batch):
        return {"out": {"forces": super().forward(batch["inputs"]["pos"])}}
class Grids(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 1, 3, padding=1)
    def forward(self, x):
        return self.layer(x)
class Unclear(Tensors):
    def forward(self, pos, a, b):
        return super().forward(pos)
class Tables(nn.Linear):
    pass
net = {"tensors": Tensors, "keywords": Keywords, "grids": Grids, "unclear": Unclear}.get(kind, lambda: Tables(3, 3))()
optimizer = torch.optim.SGD(net.parameters(), 0.01)
for _ in range(5):
    x = torch.randn({"grids": (2, 1, 6, 6, 6), "tables": (32, 3)}.get(kind, (4, 5, 3)))
    if kind == "keywords":
        y = net(batch={"inputs": {"pos": x}})["out"]["forces"]
    elif kind == "unclear":
        y = net(x, torch.randn(4, 5, 3), torch.randn(4, 5, 6))
    else:
        y = net(x)
    optimizer.zero_grad()
    y.square().mean().backward()
    optimizer.step()
print("the training ended normally")
raise SystemExit(5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("tensors", "every=1,light=klein", "train/output 0"),
        ("keywords", "every=1", "train/out.forces"),
        ("grids", "every=1", "train/output 0"),
        ("grids", "every=1,network=Grids", "train/output 0"),
        ("tensors", "every=1,network=layer,prog_bar=true", "prog_bar is for frameworks"),
        ("tensors", "every=1,network=Missing", "network=Missing"),
        ("unclear", "every=1", "2 tensors that could be several things"),
        ("unclear", 'every=1,schema={"inputs": {"pos": "point"}, "rest": "fixed"}', "train/output 0"),
        ("tables", "every=1", "measured nothing"),
    ],
)
def test_plain_loops_are_measured_or_left_alone_and_go_on(kind: str, settings: str, said: str, tmp_path: Path) -> None:
    done = started(tmp_path, LOOP, "-s", settings, "train.py", kind)
    assert done.returncode == 5, done.stderr
    assert "the training ended normally" in done.stdout
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
