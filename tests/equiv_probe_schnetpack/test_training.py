"""The loss that a task trains is the loss that is decomposed, output by output and in total."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import schnetpack as spk
import torch
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.capture import wide
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe_schnetpack.training import training

from ..equiv_probe.live.test_no_waiting import NoReading
from .spk_models import Quadratic, batch, copied, crystals, make_task, output, potential, quadratic_truth

PLAN = ep.RotationPlan("haar", replicates=12)


class Squares(nn.Module):
    """A loss that is no mean over elements."""

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return (p - t).square().mean().sqrt()


class Halved(nn.Module):
    """A constraint of somebody's own, which writes in place."""

    def forward(self, pred: Any, targets: Any, module: Any) -> Any:
        pred[module.name] *= 0.5
        return pred, targets


SETTINGS: dict[str, Any] = {
    "mse": lambda: (output("energy", nn.MSELoss(), 0.01), output("forces", nn.MSELoss(), 0.99)),
    "l1": lambda: (output("energy", nn.L1Loss(), 0.3), output("forces", nn.L1Loss(), 0.7)),
    "huber": lambda: (output("energy", nn.HuberLoss(delta=0.2)), output("forces", nn.SmoothL1Loss(beta=0.4), 2.0)),
    "sum": lambda: (output("energy", nn.MSELoss()), output("forces", nn.L1Loss(reduction="sum"), 0.1)),
    "selected": lambda: (
        output("energy", nn.MSELoss(), 0.1),
        output("forces", nn.MSELoss(), constraints=[spk.task.ConsiderOnlySelectedAtoms("considered_atoms")]),
    ),
    "own loss": lambda: (output("energy", nn.MSELoss(), 0.1), output("forces", Squares())),
    "own constraint": lambda: (
        output("energy", nn.MSELoss(), 0.1),
        output("forces", nn.MSELoss(), constraints=[Halved()]),
    ),
    "without labels": lambda: (
        output("forces", nn.MSELoss()),
        spk.task.UnsupervisedModelOutput("energy", loss_fn=lambda p: p.square().mean(), loss_weight=0.2, metrics={}),
    ),
    "twice": lambda: (output("forces", nn.MSELoss()), output("forces", nn.L1Loss(), 0.5)),
    "twice, once selected": lambda: (
        output("forces", nn.MSELoss()),
        output("forces", nn.L1Loss(), 0.5, constraints=[spk.task.ConsiderOnlySelectedAtoms("considered_atoms")]),
    ),
    "other label": lambda: (output("energy", nn.MSELoss(), target_property="total"), output("forces", nn.MSELoss())),
    "not trained": lambda: (output("energy", None), output("forces", nn.MSELoss(), 0.5)),
}


def quiet(task: spk.AtomisticTask) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return training(task)


def direct_loss(task: spk.AtomisticTask, given: dict[str, Tensor], prediction: dict[str, Tensor]) -> Tensor:
    """The task's own arithmetic on predictions made elsewhere."""
    targets = {o.target_property: given[o.target_property] for o in task.outputs if o.target_property in given}
    targets["considered_atoms"] = given["considered_atoms"]
    return task.loss_fn(*task.apply_constraints(copied(prediction), targets)).detach()


def rotated_back(task: spk.AtomisticTask, given: dict[str, Tensor], rotations: Tensor) -> dict[str, Tensor]:
    """``h_g`` of one rotation per structure, by the model itself, without the code under test."""
    own = rotations[given["_idx_m"]]
    rotated = copied(given)
    sizes = given["_n_atoms"]
    centre = torch.zeros(len(sizes), 3).double().index_add(0, given["_idx_m"], given["_positions"]) / sizes[:, None]
    centre = centre[given["_idx_m"]]
    rotated["_positions"] = torch.einsum("nij,nj->ni", own, given["_positions"] - centre) + centre
    rotated["_cell"] = torch.einsum("bij,bkj->bki", rotations, given["_cell"])
    rotated["_offsets"] = torch.einsum("eij,ej->ei", own[given["_idx_i"]], given["_offsets"])
    raw = {name: value.detach() for name, value in task.predict_without_postprocessing(rotated).items()}
    back = {"energy": raw["energy"], "forces": torch.einsum("nji,nj->ni", own, raw["forces"])}
    if "stress" in raw:
        back["stress"] = torch.einsum("bji,bjk,bkl->bil", rotations, raw["stress"], rotations)
    return back


@pytest.mark.parametrize("setting", SETTINGS)
def test_unrotated_the_objectives_are_the_loss_that_is_trained(setting: str) -> None:
    task = make_task(potential(), *SETTINGS[setting]())
    given = batch() | {"total": torch.arange(4.0).double()}
    found = quiet(task)
    live = LiveOrbit(found.network, found.schema)
    call = live.keep((copied(given),), {})
    raw = task.predict_without_postprocessing(copied(given))
    schema = live.resolve(call, raw)
    outputs = {name: wide(raw[name].detach()) for name in schema.outputs}
    objectives = found.objectives(call.inputs, outputs, live.structures(call.inputs), schema)
    total = 0.0
    for name, factor in objectives.factors.items():
        losses, weight = objectives.parts[name](outputs, 0)
        total += factor * float((losses * weight).sum() / weight.sum())
    expected = task.training_step(copied(given), 0)
    assert total == pytest.approx(float(expected.detach()), rel=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_decomposition_is_that_of_a_loop_over_rotations(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rotations through the bare model and the task's own ``loss_fn``: ``L_total`` must be equal, not near."""
    task = make_task(potential(), *SETTINGS[setting]())
    given = batch() | {"total": torch.arange(4.0).double()}
    rotations = ep.rotations.haar(12 * 4, torch.Generator().manual_seed(3)).reshape(12, 1, 4, 3, 3)
    monkeypatch.setattr("equiv_probe.rotations.drawing.draw", lambda *args: rotations)
    found = quiet(task)
    with ep.Probe(found.network, found.schema, light=PLAN, every=1, objectives=found.objectives) as probe:
        probe.step(lambda: task.training_step(copied(given), 0), stage="train")
    each = [rotated_back(task, given, g) for g in rotations[:, 0]]
    mean = {name: torch.stack([one[name] for one in each]).mean(0) for name in each[0]}
    total = float(torch.stack([direct_loss(task, given, one) for one in each]).mean())
    plugged_in = float(direct_loss(task, given, mean))
    estimates = probe.compute()
    assert estimates["equiv/train/loss/L_total"] == pytest.approx(total, rel=1e-10)
    # The jackknife takes the plug-in's bias of first order out; with rotations shared there is no other difference.
    left_out = []
    for r in range(12):
        rest = {name: (12 * mean[name] - each[r][name]) / 11 for name in mean}
        left_out.append(float(direct_loss(task, given, rest)))
    jackknifed = 12 * plugged_in - 11 * sum(left_out) / 12
    assert estimates["equiv/train/loss/L_mean"] == pytest.approx(jackknifed, rel=1e-8)
    assert estimates["equiv/train/loss/L_equiv"] > 0.01 * total, "negative control: nothing is averaged away"


@pytest.mark.parametrize("setting", ["mse", "l1", "huber", "sum", "selected", "not trained"])
def test_measuring_reads_nothing_back_from_the_device(setting: str) -> None:
    """The planted model reads nothing either, as SchNetPack's own output modules do."""
    task = make_task(Quadratic(torch.eye(3).double()), *SETTINGS[setting]())
    found = quiet(task)
    live = LiveOrbit(found.network, found.schema)
    call = live.keep((batch(),), {})
    raw = task.predict_without_postprocessing(batch())
    live.resolve(call, raw)
    rotations = ep.rotations.haar(2 * 4, torch.Generator().manual_seed(0)).reshape(2, 1, 4, 3, 3)
    with torch.no_grad():
        live.rotated_back(call, live.structures(call.inputs), rotations[:, 0])  # finds out that gradients are needed
        with NoReading():
            measured = live.measure(call, raw, ep.RotationPlan("haar", 2), rotations, evaluate=found.objectives)
    assert float(measured["forces"].estimate.equiv.mean()) == pytest.approx(0, abs=1e-13)


def test_planted_model_meets_its_closed_form() -> None:
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    task = make_task(Quadratic(matrix))
    found = training(task)
    given = batch()
    energy, forces = quadratic_truth(matrix, given)
    plan = ep.RotationPlan("lebedev-5", replicates=2)  # the loss is of degree 4 in the rotation: no sampling error
    with ep.Probe(found.network, found.schema, light=plan, every=1, objectives=found.objectives) as probe:
        probe.step(lambda: task.training_step(copied(given), 0), stage="train")
    estimates = probe.compute()
    assert estimates["equiv/train/energy/L_equiv"] == pytest.approx(energy, rel=1e-10)
    assert estimates["equiv/train/forces/L_equiv"] == pytest.approx(forces, rel=1e-10)
    assert estimates["equiv/train/loss/L_equiv"] == pytest.approx(0.01 * energy + 0.99 * forces, rel=1e-10)
    assert math.isfinite(estimates["equiv/train/forces/share_stderr"]), "four structures have an error bar"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "periodic"),
    [(kind, periodic) for kind in ("schnet", "painn", "so3net") for periodic in (False, True)]
    + [("unconstrained", False)],
)
def test_equivariant_models_are_at_the_floor_and_the_unconstrained_one_is_not(kind: str, periodic: bool) -> None:
    outputs = [output("energy", nn.MSELoss()), output("forces", nn.MSELoss())]
    outputs += [output("stress", nn.MSELoss())] if periodic else []
    task = make_task(potential(kind, stress=periodic), *outputs)
    found = training(task)
    with ep.Probe(found.network, found.schema, light=PLAN, every=1, objectives=found.objectives) as probe:
        given = batch(crystals() if periodic else None)
        probe.step(lambda: task.training_step(given, 0), stage="train")
    shares = {name: v for name, v in probe.compute().items() if name.endswith("/share")}
    assert len(shares) == len(outputs) + 1
    for name, share in shares.items():
        # 1e-20 is (1e-10)²: far above rounding in float64, far below any broken symmetry.
        assert (abs(share) < 1e-20) == (kind != "unconstrained"), name


def test_postprocessing_is_measured_as_it_is_trained() -> None:
    offsets = spk.transform.AddOffsets("energy", add_mean=True, property_mean=torch.tensor([7.0]).double())
    task = make_task(potential(postprocessors=[offsets]), output("energy", nn.MSELoss()))
    found = training(task)
    given = batch()
    with ep.Probe(found.network, found.schema, light=PLAN, every=1, objectives=found.objectives) as probe:
        loss = probe.step(lambda: task.training_step(copied(given), 0), stage="train")
    total = probe.compute()["equiv/train/loss/L_total"]
    offset = sum((7.0 * n) ** 2 for n in given["_n_atoms"].tolist()) / 4
    assert abs(total - float(loss.detach())) < 0.1 * offset
    assert task.model.do_postprocessing, "and it is switched on again"


def test_component_wise_losses_are_said_to_depend_on_the_frame() -> None:
    with pytest.warns(UserWarning, match="'forces' is taken component by component"):
        training(make_task(potential(), *SETTINGS["l1"]()))
    task = make_task(potential(), *SETTINGS["mse"]())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training(task)


class OwnStep(spk.AtomisticTask):
    def loss_fn(self, pred: Any, batch: Any) -> Any:
        return super().loss_fn(pred, batch) * 2


def test_a_task_with_a_loss_of_its_own_is_replayed() -> None:
    task = make_task(potential(), cls=OwnStep)
    found = training(task)
    assert found.objectives is None
    given = batch()
    with ep.Probe(found.network, found.schema, light=PLAN, every=1) as probe:
        loss = probe.step(lambda: task.training_step(copied(given), 0), stage="train")
    estimates = probe.compute()
    assert estimates["equiv/train/loss/L_total"] == pytest.approx(float(loss.detach()), rel=0.5)
    assert estimates["equiv/train/loss/L_equiv"] > 0


class Mystery(nn.Module):
    """The energy in a fixed direction, under a name that nobody knows: rotated back it averages to zero."""

    model_outputs = ("mystery",)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs["mystery"] = inputs["energy"][:, None] * inputs["energy"].new_ones(3)
        return inputs


def test_an_output_that_nothing_tells_about_is_inferred_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task(potential("schnet", modules=(Mystery(),)), output("mystery", nn.MSELoss()))
    found = training(task)
    klein = ep.RotationPlan("klein", 2)  # averages vectors exactly
    given = batch() | {"mystery": torch.zeros(4, 3).double()}
    with ep.Probe(found.network, found.schema, light=klein, every=1, objectives=found.objectives) as probe:
        loss = probe.step(lambda: task.training_step(given, 0), stage="train")
    assert "outputs['mystery'] is vector" in caplog.text
    estimates = probe.compute()
    assert estimates["equiv/train/mystery/share"] == pytest.approx(1, rel=1e-12)
    assert estimates["equiv/train/mystery/L_equiv"] == pytest.approx(float(loss.detach()), rel=1e-12)


def test_other_modules_are_not_ours() -> None:
    assert training(nn.Linear(3, 3)) is None
