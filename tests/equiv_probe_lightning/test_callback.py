"""What the callback measures, on real Trainers: closed forms, kinds of batches, which module is the network."""

from __future__ import annotations

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.results.report import Report
from equiv_probe_lightning import EquivarianceCallback

from .lightning_models import MATRIX, Linear, LinearModule, centred, loader, trainer

EXACT = ep.RotationPlan("tetrahedral", replicates=2)
"""Averages a linear field and its squared loss exactly, whatever the rotations: only rounding is left."""


def truth(x: Tensor, label: float = 1.5) -> tuple[float, float]:
    """``L_total`` and ``L_mean`` of ``f(x) = M x`` against ``label · x``, in closed form.

    ``E|g⁻¹Mg x − t x|² = (tr(MᵀM)/3 − 2 t tr(M)/3 + t²)|x|²``, and the twirl is ``tr(M)/3 x``.
    """
    square, trace = float((MATRIX.T @ MATRIX).trace()) / 3, float(MATRIX.trace()) / 3
    size = float(x.square().mean())
    return (square - 2 * label * trace + label**2) * size, (trace - label) ** 2 * size


def everything(callback: EquivarianceCallback) -> dict[str, float]:
    assert callback.probe is not None
    assert not callback.probe.failures
    return callback.probe.compute(window=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tensor", "tuple", "dict", "custom"])
def test_logged_share_is_the_closed_form(kind: str, tmp_path: Path) -> None:
    callback = EquivarianceCallback(every=1, light=EXACT, plan=EXACT, full=1, cost=None, window=100)
    module = LinearModule(kind)
    fit = trainer(tmp_path, [callback])
    data = loader(kind, count=24)
    fit.fit(module, data, data)
    fit.test(module, data, verbose=False)
    total, mean = truth(centred(24))
    for stage in ("train", "val", "test"):
        # 1e-9: sums of squares in float64
        for key, value in {"L_total": total, "L_mean": mean, "share": 1 - mean / total}.items():
            assert everything(callback)[f"equiv/{stage}/loss/{key}"] == pytest.approx(value, rel=1e-9)
    assert float(fit.logged_metrics["equiv/test/loss/share"]) == pytest.approx(1 - mean / total, rel=1e-9)


@pytest.mark.slow
def test_without_averaging_the_closed_form_would_be_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with identities in the place of rotations there is no broken symmetry to see."""
    one = torch.eye(3, dtype=torch.float64)
    monkeypatch.setattr(
        "equiv_probe.rotations.drawing.draw", lambda plan, generator, count: one.expand(2, 60, count, 3, 3)
    )
    callback = EquivarianceCallback(every=1, light=EXACT, window=100)
    trainer(tmp_path, [callback]).fit(LinearModule(), loader())
    assert everything(callback)["equiv/train/loss/share"] == pytest.approx(0, abs=1e-12)
    total, mean = truth(centred(64))
    assert mean / total < 0.5, "where the truth is another"


@pytest.mark.slow
def test_two_rotations_are_unbiased(tmp_path: Path) -> None:
    """The default light plan, 64 batches: within four standard errors, and these are of the right size."""
    callback = EquivarianceCallback(every=1, window=1000)
    trainer(tmp_path, [callback]).fit(LinearModule(), loader(count=512))
    found = everything(callback)
    total, mean = truth(centred(512))
    error = found["equiv/train/loss/L_equiv_stderr"]
    assert error < 0.2 * (total - mean)
    assert abs(found["equiv/train/loss/L_equiv"] - (total - mean)) < 4 * error


@pytest.mark.slow
def test_a_value_is_logged_for_every_step_that_lightning_writes(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path)
    callback = EquivarianceCallback(every=4, light=EXACT, verbose=False)
    trainer(tmp_path, [callback], logger=logger, log_every_n_steps=3).fit(LinearModule(), loader(count=128))
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    written = {int(row["step"]) for row in rows if row.get("equiv/train/loss/share")}
    assert written == {int(row["step"]) for row in rows if row["train_loss"]} == {2, 5, 8, 11, 14}
    assert callback.probe is not None
    history = callback.logbook.history
    assert [entry["step"] for entry in history] == [1, 5, 9, 13], "optimizer steps done when it was measured"
    shares = [entry["share"] for entry in history]
    last = [float(row["equiv/train/loss/share"]) for row in rows if row.get("equiv/train/loss/share")]
    assert last == pytest.approx([shares[0], shares[1], shares[2], shares[2], shares[3]])


class Several(LinearModule):
    def __init__(self) -> None:
        super().__init__()
        self.other = Linear()
        self.embedding = nn.Linear(2, 2).double()

    def loss(self, batch: Any) -> Tensor:
        self.embedding(torch.ones(1, 2, dtype=torch.float64))
        return super().loss(batch) + self.other(batch[0])["forces"].square().mean()


@pytest.mark.slow
def test_several_networks_are_an_error_that_lists_them(tmp_path: Path) -> None:
    with pytest.raises(ep.EquivProbeError, match=r'network="net" \(Linear\), network="other" \(Linear\)'):
        trainer(tmp_path, [EquivarianceCallback()]).fit(Several(), loader())
    callback = EquivarianceCallback(every=1, network="other", light=EXACT, window=100)
    trainer(tmp_path, [callback]).fit(Several(), loader())
    zero, zero_mean = truth(centred(64), label=0.0)
    own = float((centred(64) @ MATRIX.T - 1.5 * centred(64)).square().mean())
    assert everything(callback)["equiv/train/loss/L_total"] == pytest.approx(own + zero, rel=1e-9)
    assert everything(callback)["equiv/train/loss/L_equiv"] == pytest.approx(zero - zero_mean, rel=1e-9)


def test_no_network_and_wrong_names_teach(tmp_path: Path) -> None:
    class Nothing(LinearModule):
        def loss(self, batch: Any) -> Tensor:
            return self.net.matrix.sum()

    with pytest.raises(ep.EquivProbeError, match=r"calls no module with parameters.*network="):
        trainer(tmp_path, [EquivarianceCallback()]).fit(Nothing(), loader())
    with pytest.raises(ep.EquivProbeError, match=r"one of \['net'\]"):
        trainer(tmp_path, [EquivarianceCallback(network="model")]).fit(LinearModule(), loader())


@pytest.mark.slow
def test_the_module_itself_is_the_network_where_the_step_calls_it(tmp_path: Path) -> None:
    class Itself(LinearModule):
        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            return dict(self.net(pos))

        def loss(self, batch: Any) -> Tensor:
            return (self(batch[0])["forces"] - batch[1]).square().mean()

    module, callback = Itself(), EquivarianceCallback(every=1, light=EXACT, window=100)
    trainer(tmp_path, [callback]).fit(module, loader())
    assert callback.probe is not None
    assert callback.probe.model is module
    total, mean = truth(centred(64))
    assert everything(callback)["equiv/train/loss/share"] == pytest.approx(1 - mean / total, rel=1e-9)


def test_steps_without_a_loss_are_measured_without_labels(tmp_path: Path) -> None:
    class Silent(LinearModule):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.net(batch[0])

    callback = EquivarianceCallback(every=None, plan=EXACT, full=1, cost=None)
    trainer(tmp_path, [callback]).fit(Silent(), loader(), loader())
    total, mean = truth(centred(64))
    found = everything(callback)
    assert found["equiv/val/forces/L_equiv"] == pytest.approx(total - mean, rel=1e-9)
    assert not [name for name in found if "L_total" in name]


def test_manual_optimization_is_measured_without_labels_and_trains_once(tmp_path: Path) -> None:
    class Manual(LinearModule):
        def __init__(self) -> None:
            super().__init__(lr=1e-2)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), 1e-2), torch.optim.Adam(self.parameters(), 1e-3)]

    plain, probed = Manual(), Manual()
    trainer(tmp_path, []).fit(plain, loader())
    callback = EquivarianceCallback(every=1, light=EXACT)
    trainer(tmp_path, [callback]).fit(probed, loader())
    assert torch.equal(plain.net.matrix, probed.net.matrix)
    assert set(everything(callback)) >= {"equiv/train/forces/L_equiv"}
    assert callback.probe is not None
    assert callback.probe.schedules["step", "train"].step == 7, "the first of eight batches shows the network"


@pytest.mark.slow
def test_short_epochs_sanity_checks_and_fast_dev_run(tmp_path: Path) -> None:
    callback = EquivarianceCallback(light=EXACT, plan="klein", full=10, cost=None)
    module = LinearModule()
    trainer(tmp_path, [callback], num_sanity_val_steps=2, max_epochs=3).fit(module, loader(count=24), loader(count=24))
    assert callback.probe is not None
    schedule = callback.probe.schedules["step", "val"]
    assert (schedule.step, schedule.measured) == (9, 9), "all of three batches in each epoch; none in the sanity check"
    quick = EquivarianceCallback(light=EXACT, plan=EXACT)
    trainer(tmp_path, [quick], fast_dev_run=True).fit(LinearModule(), loader(), loader())
    assert {name.split("/")[1] for name in everything(quick)} == {"train", "val"}


@pytest.mark.slow
def test_one_measurement_in_every_epoch(tmp_path: Path) -> None:
    callback = EquivarianceCallback(every="epoch", light=EXACT)
    trainer(tmp_path, [callback], max_epochs=3).fit(LinearModule(), loader())
    assert [entry["step"] for entry in callback.logbook.history] == [1, 9, 17]


@pytest.mark.slow
def test_accumulated_gradients_and_several_losses(tmp_path: Path) -> None:
    class Terms(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log_dict({"train/force_loss": 2 * loss, "train/loss": loss, "lr": 0.5})
            return loss

    callback = EquivarianceCallback(every=1, light=EXACT, window=100)
    trainer(tmp_path, [callback], accumulate_grad_batches=4).fit(Terms(), loader())
    total, mean = truth(centred(64))
    found = everything(callback)
    assert {name.split("/")[2] for name in found} == {"loss", "force_loss"}
    assert found["equiv/train/force_loss/L_equiv"] == pytest.approx(2 * (total - mean), rel=1e-9)


def test_augmentation_rotates_what_the_network_sees_and_not_what_is_measured(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Spy(Linear):
        def forward(self, pos: Tensor) -> dict[str, Tensor]:
            seen.append(pos.detach().clone())
            return super().forward(pos)

    module = LinearModule()
    module.net = Spy()
    callback = EquivarianceCallback(every=1000, light=EXACT, augment=True)
    trainer(tmp_path, [callback]).fit(module, loader())
    x = centred(64).reshape(8, 8, 5, 3)
    later = torch.stack(seen[-7:])
    assert (later - x[1:]).abs().max() > 0.5
    torch.testing.assert_close(later.norm(dim=-1), x[1:].norm(dim=-1))
    assert not module.net._forward_hooks, "gone with the run"
    total, mean = truth(centred(64)[:8])
    assert everything(callback)["equiv/train/loss/L_equiv"] == pytest.approx(total - mean, rel=1e-9)


def test_a_step_that_takes_its_batches_from_an_iterator_is_not_run_again(tmp_path: Path) -> None:
    class Iterating(LinearModule):
        def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
            batch, _, _ = next(dataloader_iter)
            return self.loss(batch)

    callback = EquivarianceCallback(every=1, light=EXACT, window=100)
    trainer(tmp_path, [callback]).fit(Iterating(), loader())
    total, mean = truth(centred(64)[8:])
    # The first batch shows which module is the network, and is not measured.
    assert everything(callback)["equiv/train/forces/L_equiv"] == pytest.approx(total - mean, rel=1e-9)
    assert callback.probe is not None
    assert callback.probe.schedules["step", "train"].step == 7


@pytest.mark.slow
def test_validation_alone_and_runs_without_logging(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = EquivarianceCallback(plan=EXACT, full=1, cost=None)
    trainer(tmp_path, [callback]).validate(LinearModule(), loader(), verbose=False)
    total, mean = truth(centred(64))
    assert everything(callback)["equiv/val/loss/share"] == pytest.approx(1 - mean / total, rel=1e-9)
    assert "val/loss" in capsys.readouterr().out
    bare = EquivarianceCallback(every=1, light=EXACT, window=100)
    pl.Trainer(callbacks=[bare], barebones=True, max_epochs=1, accelerator="cpu").fit(LinearModule(), loader())
    assert everything(bare)["equiv/train/loss/share"] == pytest.approx(1 - mean / total, rel=1e-9)


@pytest.mark.slow
def test_stopped_by_hand_it_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(LinearModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 5:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    callback = EquivarianceCallback(every=1, light=EXACT, report=str(tmp_path / "report.json"))
    module = Stopped()
    before = signal.getsignal(signal.SIGINT)  # Lightning ignores it from then on
    with pytest.raises(SystemExit):
        trainer(tmp_path, [callback]).fit(module, loader())
    signal.signal(signal.SIGINT, before)
    report = Report.load(tmp_path / "report.json")
    assert not report.complete
    assert report.notes == ["stopped by KeyboardInterrupt"]
    assert report["train/loss"].structures == 5
    assert "Interrupted" in capsys.readouterr().out
    assert "training_step" not in vars(module)
