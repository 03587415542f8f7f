"""Rows of a run: every loader and every loss once, by a name that says which, and whether it is more than rounding."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import equiv_probe as ep
from equiv_probe_lightning import EquivarianceCallback
from equiv_probe_lightning.losses import losses_of

from .lightning_models import MATRIX, LinearModule, centred, loader, trainer
from .test_callback import truth

if TYPE_CHECKING:
    from pathlib import Path

    from equiv_probe.results.measured import Measured

EXACT = ep.RotationPlan("tetrahedral", replicates=2)


def rows(callback: EquivarianceCallback) -> dict[str, Measured]:
    assert callback.probe is not None
    assert not callback.probe.failures
    return {m.name: m for m in callback.probe.report().measured}


class Loaders(LinearModule):
    """The second loader's loss counts twice."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", (1 + dataloader_idx) * self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": (1 + dataloader_idx) * self.loss(batch)}


@pytest.mark.slow
@pytest.mark.parametrize("names", [("dataloader_idx_0", "dataloader_idx_1"), ("md", "qm")])
def test_every_loader_is_a_row(names: tuple[str, str], tmp_path: Path) -> None:
    loaders = [loader(count=24), loader(count=32, seed=3)]
    given: Any = loaders if names[0].startswith("dataloader") else dict(zip(names, loaders, strict=True))
    callback = EquivarianceCallback(every=None, plan=EXACT, full=1, cost=None, verbose=False)
    fit, module = trainer(tmp_path, [callback]), Loaders()
    fit.fit(module, loader(), given)
    fit.test(module, given, verbose=False)
    found = rows(callback)
    assert sorted(found) == sorted(f"{stage}/{name}/loss" for stage in ("test", "val") for name in names)
    for stage in ("val", "test"):
        for place, x in enumerate((centred(24), centred(32, 3))):
            total, mean = truth(x)
            known = found[f"{stage}/{names[place]}/loss"].labelled
            assert known is not None
            # 1e-9: sums of squares in float64; the loader's own structures and its own factor
            assert known.total == pytest.approx((1 + place) * total, rel=1e-9)
            assert known.share == pytest.approx(1 - mean / total, rel=1e-9)
            assert known.structures == len(x) // 8
    assert f"equiv/test/{names[1]}/loss/share" in fit.callback_metrics


class Outputs(NamedTuple):
    energy: Tensor
    forces: Tensor


class Named(nn.Module):
    """``E = xᵀ M x`` and ``M x``."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(MATRIX.clone())

    def forward(self, pos: Tensor) -> Outputs:
        forces = pos @ self.matrix.T
        return Outputs((pos * forces).sum((1, 2)), forces)


def test_outputs_are_called_what_the_fields_of_a_namedtuple_are(tmp_path: Path) -> None:
    class Silent(LinearModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Named()  # type: ignore[assignment]

        def loss(self, batch: Any) -> Tensor:
            return self.net(batch[0]).forces.square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

    callback = EquivarianceCallback(every=None, plan=EXACT, full=1, cost=None, verbose=False)
    trainer(tmp_path, [callback]).fit(Silent(), loader(), loader())
    found = rows(callback)
    assert set(found) == {"val/energy", "val/forces"}
    total, mean = truth(centred(64))
    assert found["val/forces"].equiv == pytest.approx(total - mean, rel=1e-9)
    assert found["val/forces"].verdict == "broken"


@pytest.mark.slow
def test_errors_that_are_logged_beside_a_loss_are_losses_too(tmp_path: Path) -> None:
    """As matgl logs them; against a sum over 4000 Haar rotations, to its own error of sampling."""

    class Errors(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            off = self.net(batch[0])["forces"] - batch[1]
            loss = off.square().mean()
            self.log_dict({"train_Total_Loss": 3 * loss, "train_Force_MAE": off.abs().mean(), "train_n": 2.0})
            return loss

    callback = EquivarianceCallback(every=1, light=ep.RotationPlan("icosahedral", 8), verbose=False)
    trainer(tmp_path, [callback]).fit(Errors(), loader(count=8))
    found = rows(callback)
    assert set(found) == {"train/loss", "train/Total_Loss", "train/Force_MAE"}
    x = centred(8)
    g = ep.rotations.haar(4000, torch.Generator().manual_seed(0))
    back = torch.einsum("gji,jk,gkl,bnl->gbni", g, MATRIX, g, x)
    direct = (back - 1.5 * x).abs().mean()
    known = found["train/Force_MAE"].labelled
    assert known is not None
    assert known.total == pytest.approx(float(direct), rel=0.02)  # 960 rotations of a loss that varies by 20 %


def test_names_of_losses() -> None:
    x = torch.tensor(1.0)
    logged = {"val_Energy_MAE": x + 1, "val_Total_Loss": x + 2, "lr": 0.1, "epoch": 3.0}
    assert set(losses_of(x, logged)) == {"loss", "Energy_MAE", "Total_Loss"}
    assert set(losses_of(None, logged)) == {"Energy_MAE", "Total_Loss"}


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "kept"), [(1.0, False), (1.001, True)])
def test_one_loss_under_two_names_is_one_row(factor: float, kept: bool, tmp_path: Path) -> None:
    """As NequIP logs its ``weighted_sum``; negative control: one that is nearly the same is another."""

    class Twice(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("train_loss_step/weighted_sum", factor * loss.clone())
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.loss(batch)
            self.log_dict({"val0_epoch/weighted_sum_loss": factor * loss, "val_loss": loss})

    callback = EquivarianceCallback(every=2, light=EXACT, plan="klein", full=1, cost=None, verbose=False)
    fit = trainer(tmp_path, [callback])
    fit.fit(Twice(), loader(), loader())
    outputs = {name.split("/", 1)[1] for name in rows(callback) if name.startswith("train")}
    assert len(outputs) == (2 if kept else 1)
    assert "loss" in outputs
    assert len([name for name in rows(callback) if name.startswith("val")]) == (2 if kept else 1)
    logged = {name for name in fit.callback_metrics if name.startswith("equiv/train") and name.endswith("/share")}
    assert len(logged) == len(outputs)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(27, 32), nn.Tanh(), nn.Linear(32, 27))

    def forward(self, pos: Tensor) -> Tensor:
        return self.layers(pos.flatten(1)).reshape(pos.shape)


class Equivariant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.radial = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, pos: Tensor) -> Tensor:
        difference = pos[:, :, None] - pos[:, None]
        return (difference * self.radial((difference.square().sum(-1, keepdim=True) + 1e-6).sqrt())).sum(2)


class Precise(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-4)


def verdicts(net: nn.Module, precision: Any, path: Path) -> tuple[dict[str, Measured], list[str]]:
    torch.manual_seed(0)
    pos = torch.randn(80, 9, 3)
    pos -= pos.mean(1, keepdim=True)
    data = DataLoader(TensorDataset(pos, pos * (pos.norm(dim=2, keepdim=True) - 1.5)), batch_size=20)
    callback = EquivarianceCallback(every=1, full=1, cost=None, verbose=False)
    fit = trainer(path, [callback], precision=precision, inference_mode=False)
    fit.fit(Precise(copy.deepcopy(net)), data, data)
    assert callback.probe is not None
    return rows(callback), callback.probe.report().notes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_rounding_is_not_taken_for_broken_symmetry(precision: str, tmp_path: Path) -> None:
    """In training and in validation, whatever the precision; a perceptron's broken symmetry shows in all of them."""
    torch.manual_seed(1)
    equivariant, notes = verdicts(Equivariant(), precision, tmp_path)
    for stage, found in equivariant.items():
        assert found.verdict == "round-off", (stage, found.sentence)
        assert ("bfloat16, which resolves 0.78 % of it" in found.sentence) == (precision == "bf16-true")
    assert bool(notes) == (precision != "32-true"), "what reads like a small breakage, and is none, is said to be none"
    assert all("is no more than rounding" in note for note in notes)
    for stage, found in verdicts(Perceptron(), precision, tmp_path)[0].items():
        assert found.verdict == "broken", (stage, found.sentence)


@pytest.mark.slow
def test_without_its_floor_rounding_would_look_like_broken_symmetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: by identities in the place of rotations through one spacing, nothing is rounded anew."""
    torch.manual_seed(1)
    net = Equivariant()
    honest = verdicts(net, "bf16-mixed", tmp_path)[0]["val/loss"]
    one = torch.eye(3, dtype=torch.float64).expand(2, 1, 3, 3)
    monkeypatch.setattr("equiv_probe.probe.floors.tiny_rotations", lambda angle, device: one.to(device))
    blind = verdicts(net, "bf16-mixed", tmp_path)[0]["val/loss"]
    assert blind.floor == 0
    assert blind.verdict != "round-off"
    assert blind.equiv == honest.equiv
    assert 0.1 * honest.equiv < honest.floor < 10 * honest.equiv, "the floor is of the size of what it explains"


@pytest.mark.slow
def test_a_row_says_at_which_step_it_was_measured(tmp_path: Path) -> None:
    callback = EquivarianceCallback(
        every=3, light=EXACT, plan="klein", full=1, cost=None, report=str(tmp_path / "r.json")
    )
    trainer(tmp_path, [callback], max_epochs=2).fit(LinearModule(), loader(), loader())
    report = ep.load(tmp_path / "r.json")
    assert {m.name: m.step for m in report.measured} == {"train/loss": 16, "val/loss": 16}
    assert "at step" in str(report)


def test_the_floor_of_an_earlier_epoch_counts_on_and_losses_of_nothing_are_left_out(tmp_path: Path) -> None:
    """The third epoch measures no floor of its own; a loss of labels that there are none of is zero."""

    class Zero(LinearModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss = self.loss(batch)
            self.log_dict({"val_loss": loss, "val_Stress_MAE": 0.0 * loss})

    callback = EquivarianceCallback(every=None, plan="klein", full=1, cost=None, verbose=False)
    trainer(tmp_path, [callback], max_epochs=3).fit(Zero(), loader(), loader(count=8))
    found = rows(callback)
    assert set(found) == {"val/loss"}
    assert abs(found["val/loss"].floor) < 1e-12
    assert found["val/loss"].verdict == "broken"


class Shared(LinearModule):
    """One step for all stages, each called by another's."""

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:  # type: ignore[override]
        return self.training_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self.validation_step(batch, batch_idx)}


def test_a_step_that_another_stage_calls_is_that_stages(tmp_path: Path) -> None:
    """Of three loaders with other scales: what validation and test call is not counted as training."""
    callback = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, window=100, verbose=False)
    fit, module = trainer(tmp_path, [callback], num_sanity_val_steps=2), Shared()
    fit.fit(module, loader(), loader(count=24, seed=3))
    fit.test(module, loader(count=16, seed=5), verbose=False)
    found = rows(callback)
    assert {name: one.structures for name, one in found.items()} == {"train/loss": 8, "val/loss": 3, "test/loss": 2}
    for stage, x in (("train", centred(64)), ("val", centred(24, 3)), ("test", centred(16, 5))):
        labelled = found[f"{stage}/loss"].labelled
        assert labelled is not None
        assert labelled.total == pytest.approx(truth(x)[0], rel=1e-9), stage
