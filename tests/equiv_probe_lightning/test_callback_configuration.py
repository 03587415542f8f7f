"""The callback from configuration files, the environment, and both of Lightning's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_lightning as pl

import equiv_probe as ep
from equiv_probe.representations.spelling import representation
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning import callback_lightning as of_lightning
from equiv_probe_lightning.callback import Measuring
from equiv_probe_lightning.environment import lightning_callbacks, pytorch_lightning_callbacks

from .lightning_models import LinearModule, loader, trainer

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "every": 10,
    "network": "net",
    "schema": {"inputs": {"pos": "point"}, "outputs": {"forces": "vector", "stress": "voigt('xx yy zz yz xz xy')"}},
    "plan": {"design": "klein", "replicates": 3},
    "light": "tetrahedral",
}


def check(callback: Any) -> None:
    assert callback.settings.network == "net"
    expected = {"forces": ep.vector, "stress": ep.voigt("xx yy zz yz xz xy")}
    assert callback.settings.schema == ep.Schema({"pos": ep.point}, expected)
    assert callback.settings.options["plan"] == ep.RotationPlan("klein", replicates=3)
    assert callback.settings.options["light"] == ep.RotationPlan("tetrahedral")
    assert callback.settings.options["every"] == 10


@pytest.mark.parametrize("where", ["equiv_probe_lightning", "equiv_probe_lightning.callback_lightning"])
def test_hydra_instantiates_it(where: str) -> None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    check(instantiate(OmegaConf.create({"_target_": f"{where}.EquivarianceCallback", **CONFIG})))


def test_lightning_cli_reads_it_from_yaml(tmp_path: Path) -> None:
    import yaml
    from pytorch_lightning.cli import LightningCLI

    callback = {"class_path": "equiv_probe_lightning.EquivarianceCallback", "init_args": CONFIG}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback], "logger": False, "accelerator": "cpu"}}))
    cli = LightningCLI(LinearModule, run=False, args=["--config", str(config)], save_config_callback=None)
    (found,) = (one for one in cli.trainer.callbacks if isinstance(one, Measuring))
    check(found)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"schema": {"inputs": {"pos": "places"}}}, "one of scalar"),
        ({"schema": {"input": {}}}, "a mapping with some of"),
        ({"plan": {"designs": "klein"}}, "tetrahedral"),
        ({"every": 0}, "1 or more"),
        ({"every": "sometimes"}, "epoch"),
        ({"stages": ["fit"]}, "train"),
        ({"light": {"design": "haar", "replicates": 1}}, "at least two"),
    ],
)
def test_wrong_settings_teach_when_they_are_made(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(ep.EquivProbeError, match=hint):
        EquivarianceCallback(**wrong)


@pytest.mark.parametrize("name", ["scalar", "axial", "tensor(2)", "irreps('1x0e+1x2e')", "voigt('xx yy zz yz xz xy')"])
def test_representations_by_name(name: str) -> None:
    assert str(representation(name)).replace('"', "'") == name


def test_both_packages_take_their_class() -> None:
    import lightning.pytorch

    assert isinstance(EquivarianceCallback(), pl.Callback)
    made = of_lightning.EquivarianceCallback()
    lightning.pytorch.Trainer(callbacks=made, logger=False, accelerator="cpu", enable_checkpointing=False)


@pytest.mark.slow
def test_lightning_itself_runs_it(tmp_path: Path) -> None:
    """The same steps under ``lightning``, whose modules and Trainers are other classes."""
    code = f"""
import lightning, torch
from equiv_probe_lightning import EquivarianceCallback
class Net(torch.nn.Linear):
    def forward(self, pos): return {{"forces": super().forward(pos - pos.mean(-2, keepdim=True))}}
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Net(3, 3)
    def training_step(self, x, i): return (self.net(x)["forces"] - 2 * x).square().mean()
    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 1e-3)
assert EquivarianceCallback.__mro__[2] is lightning.pytorch.Callback
callback = EquivarianceCallback(every=1, report={str(tmp_path)!r})
trainer = lightning.Trainer(default_root_dir={str(tmp_path)!r}, callbacks=callback,
    max_epochs=1, logger=False, accelerator="cpu")
trainer.fit(Module(), torch.utils.data.DataLoader(torch.randn(16, 4, 3), batch_size=4))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
    labelled = Report.load(tmp_path / "equiv_probe_report.json")["train/loss"].labelled
    assert labelled is not None
    assert labelled.structures == 4
    assert 0 < labelled.share < 1


def test_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in (None, "", "0", "false", "Off"):
        monkeypatch.delenv("EQUIV_PROBE", raising=False)
        if nothing is not None:
            monkeypatch.setenv("EQUIV_PROBE", nothing)
        assert lightning_callbacks() == pytorch_lightning_callbacks() == []
    monkeypatch.setenv("EQUIV_PROBE", "every=100,augment=true,network=0,cost=none,stages=train+val,plan=klein,report=r")
    (found,) = pytorch_lightning_callbacks()
    assert isinstance(found, pl.Callback)
    told = found.settings
    assert (told.network, told.augment, told.stages, told.report) == ("0", True, ("train", "val"), "r")
    assert (told.options["every"], told.options["cost"]) == (100, None)
    assert told.options["plan"] == ep.RotationPlan("klein")
    for wrong in ("evry=100", "every", "2", "{every: 2}"):
        monkeypatch.setenv("EQUIV_PROBE", wrong)
        with pytest.raises(ep.EquivProbeError, match="every, network"):
            pytorch_lightning_callbacks()


def test_environment_costs_nothing_when_unset() -> None:
    code = (
        "import sys; from equiv_probe_lightning.environment import lightning_callbacks as f; assert f() == [];"
        "assert not {'torch', 'equiv_probe', 'lightning', 'pytorch_lightning', 'numpy'} & set(sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "EQUIV_PROBE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_trainer_gets_one_and_a_users_own_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIV_PROBE", f"every=2,report={tmp_path}")
    fit = trainer(tmp_path, [])
    (added,) = (one for one in fit.callbacks if isinstance(one, Measuring))
    fit.fit(LinearModule(), loader())
    assert added.probe is not None
    assert added.probe.schedules["step", "train"].measured == 4
    assert Report.load(tmp_path / "equiv_probe_report.json").protocol["steps"] == 8
    mine = EquivarianceCallback(every=4, verbose=False)
    both = trainer(tmp_path, [mine])
    assert len([one for one in both.callbacks if isinstance(one, Measuring)]) == 2
    both.fit(LinearModule(), loader())
    assert mine.probe is not None
    assert mine.probe.schedules["step", "train"].measured == 2
    (other,) = (one for one in both.callbacks if isinstance(one, Measuring) and one is not mine)
    assert other.probe is None
