"""fairchem's EScAIP on ethanol, in a loop of one's own: it is equivariant but for three rows of its force head."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import equiv_probe as ep

from .batches import batch_is_loop, structures
from .brute_force import ROTATIONS, agree, bits, measured, variance

pytest.importorskip("fairchem.core", reason="fairchem is not installed: make hosts HOST=fairchem")
io = pytest.importorskip("ase.io", reason="ASE is not installed")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ase import Atoms

SIZES = {
    "hidden_size": 32,
    "num_layers": 1,
    "atten_num_heads": 2,
    "atom_embedding_size": 16,
    "node_direction_embedding_size": 16,
    "node_direction_expansion_size": 4,
    "edge_distance_expansion_size": 16,
    "edge_distance_embedding_size": 16,
    "freequency_list": [6, 4, 3, 3],  # fills the 16 channels of a head
    "max_num_elements": 20,
    "max_atoms": 100,
    "max_batch_size": 8,
}
NEIGHBOURS = {
    "max_radius": 6.0,
    "knn_k": 20,  # more than there are within the radius: none is cut off
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "knn_pad_size": 30,
    "use_pbc": False,
}
DIRECTION = "output_heads.forces.force_direction_layer"


def small() -> Any:
    """A backbone of 1 layer, with heads for energies and for forces that are no gradients."""
    from fairchem.core.models.base import HydraModelV2
    from fairchem.core.models.escaip.EScAIP import EScAIPBackbone, EScAIPDirectForceHead, EScAIPEnergyHead

    torch.manual_seed(0)
    how = {"regress_forces": True, "direct_forces": True, "use_compile": False, "use_padding": False}
    backbone = EScAIPBackbone(atten_name="math", **how, **SIZES, **NEIGHBOURS)
    heads = {"energy": EScAIPEnergyHead(backbone), "forces": EScAIPDirectForceHead(backbone)}
    return HydraModelV2(backbone, heads)


def batched(frames: list[Any], g: Any = None) -> Any:
    """The batch of some molecules, rotated by ``g``, ``(3, 3)``."""
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    g = torch.eye(3) if g is None else g
    graphs = []
    for frame in frames:
        atoms = frame.copy()
        atoms.positions, atoms.cell, atoms.pbc = frame.positions @ g.numpy().T, 30 * g.numpy().T, False
        graphs.append(AtomicData.from_ase(atoms, task_name="omol"))
    return atomicdata_list_to_batch(graphs)


def trained(frames: list[Any], *, probed: bool) -> tuple[Any, Any]:
    """A model after ten steps on forces, and its probe."""
    model = small()
    probe = ep.Probe(model, every=1)
    if probed:
        probe.attach()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for number in range(10):
        part = frames[4 * number : 4 * number + 4]
        forces = torch.cat([torch.tensor(one.get_forces(), dtype=torch.float32) for one in part])
        out = model(batched(part))
        loss = (out["forces"]["forces"] - forces).square().mean() + 1e-4 * out["energy"]["energy"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probe.remove()
    return model, probe


def test_training(data: Path) -> None:
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":40")
    plain, _ = trained(frames, probed=False)
    model, probe = trained(frames, probed=True)
    assert bits(plain) == bits(model)
    assert not probe.failures
    assert measured(probe, "energy.energy") < 1e-9, "energies of EScAIP are invariant by construction"
    assert measured(probe, "forces.forces") > 1e-3

    model.eval()
    with ep.Probe(model, plan=ep.RotationPlan("haar", ROTATIONS), full=1, cost=None) as broken:
        model(batched(frames[:4]))
    expected = variance(lambda g: model(batched(frames[:4], g))["forces"]["forces"] @ g.float())
    agree(measured(broken, "forces.forces"), expected)


def test_trace_finds_the_three_rows(data: Path) -> None:
    """One coefficient for each axis multiplies an edge's direction, between calls: made equal, nothing is broken."""
    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":40")
    model, _ = trained(frames, probed=False)
    model.eval()
    batch = batched(frames[:2])
    traced = ep.trace(model, batch, output="forces.forces")
    assert [layer.path for layer in traced.culprits] == ["output_heads.forces"]

    def error() -> float:
        spread = variance(lambda g: model(batched(frames[:2], g))["forces"]["forces"] @ g.float())
        size = model(batched(frames[:2]))["forces"]["forces"].detach().square().mean()
        return float((spread / size) ** 0.5)

    assert error() > 0.1
    with torch.no_grad():
        last = [one for one in model.get_submodule(DIRECTION).modules() if isinstance(one, torch.nn.Linear)][-1]
        assert len(last.weight) == 3
        last.weight.copy_(last.weight.mean(0, keepdim=True).expand(3, -1))
    assert error() < 1e-5


UMA = "fairchem.core.models.uma.escn_md"
MLIP = "fairchem.core.units.mlip_unit.mlip_unit"
SMALL_ESEN = {
    "model": f"{UMA}.eSCNMDBackbone",
    "sphere_channels": 8,
    "hidden_channels": 8,
    "edge_channels": 8,
    "num_distance_basis": 8,
    "num_layers": 1,
    "cutoff": 5.0,
    "otf_graph": True,
    "direct_forces": False,
    "regress_forces": True,
    "regress_stress": True,
    "always_use_pbc": False,
    "use_dataset_embedding": False,
    "dataset_list": ["omat"],
}


def checkpoint(path: Path) -> Path:
    """An eSEN with random weights in a file of the kind that fairchem publishes, with the tasks of its training."""
    import hydra
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    torch.manual_seed(0)
    model = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": SMALL_ESEN,
        "heads": {"efs": {"module": f"{UMA}.MLP_EFS_Head", "prefix": "omat"}},
        "pass_through_head_outputs": True,
    }
    tasks = [
        {
            "_target_": f"{MLIP}.Task",
            "name": f"omat_{name}",
            "level": "atom" if name == "forces" else "system",
            "property": name,
            "out_spec": {"_target_": f"{MLIP}.OutputSpec", "dim": dim, "dtype": "float32"},
            "normalizer": {"_target_": "fairchem.core.modules.normalization.normalizer.Normalizer"},
            "datasets": ["omat"],
        }
        for name, dim in {"energy": [1], "forces": [3], "stress": [1, 9]}.items()
    ]
    state = hydra.utils.instantiate(model).state_dict()
    averaged = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(1)}
    torch.save(MLIPInferenceCheckpoint(model, state, averaged, tasks), path)
    return path


def test_a_batch_of_a_checkpoint(tmp_path: Path) -> None:
    """Of eSEN; fairchem 2.24's own calculator takes no EScAIP."""
    batch_is_loop(f"fairchem:{checkpoint(tmp_path / 'esen.pt')}", structures(), tolerance=1e-4)


@pytest.fixture
def study() -> Iterator[None]:
    """The modules of integrations/escaip, which are a script's and no package's."""
    folder = str(Path(__file__).parents[2] / "integrations" / "escaip")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def over_rotations(model: torch.nn.Module, frames: list[Atoms], labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Both losses over the icosahedral design, differentiable."""
    import escaip

    rotations = ep.RotationPlan("icosahedral", 1, seed=3).rotations().double().reshape(-1, 3, 3)
    values = torch.stack(
        [escaip.forces_of(model, escaip.batch(frames, g.expand(len(frames), 3, 3))).double() @ g for g in rotations]
    )
    return (values.mean(0) - labels).square().mean(), values.var(0, unbiased=False).mean()


@pytest.mark.usefixtures("study")
def test_both_losses_in_closed_form(data: Path) -> None:
    """Four evaluations and no rotation, as integrations/escaip says; a design of degree 5 averages them exactly."""
    import escaip

    frames = io.read(data / "3bpa" / "train_mixedT.xyz", ":2")
    labels = escaip.labels(frames)
    model = escaip.escaip("small").eval()
    before = bits(model)
    found = escaip.both_losses(model, escaip.batch(frames), labels)
    assert bits(model) == before
    wanted = over_rotations(model, frames, labels)
    for one, other in zip(found, wanted, strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-4)
    assert float(found[1] / sum(found)) > 0.005

    weights = list(model.parameters())
    for one, other in zip(found, wanted, strict=True):
        gradients = [torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for loss in (one, other)]
        for exact, averaged in zip(*gradients, strict=True):
            if exact is not None and averaged is not None:
                torch.testing.assert_close(exact, averaged, rtol=1e-2, atol=1e-3 * float(averaged.norm()))

    with torch.no_grad():
        escaip.rows(model).weight.copy_(escaip.rows(model).weight[:1].expand(3, -1).clone())
    equal = escaip.both_losses(model, escaip.batch(frames), labels)
    assert float(equal[1]) < 1e-9 * float(found[1])
    assert escaip.variance_of_rows(model) < 1e-12


@pytest.mark.usefixtures("study")
def test_equiv_is_a_quadratic_form_of_the_features(data: Path) -> None:
    """Taken at the differences of the rows; of other rows it is another number. The model stays as it is."""
    import escaip
    import rows

    frames = io.read(data / "3bpa" / "train_mixedT.xyz", ":2")
    model = escaip.escaip("small").eval()
    before = bits(model)
    form, differences = rows.form(model, frames), rows.differences(model)
    assert bits(model) == before
    wanted = float(escaip.both_losses(model, escaip.batch(frames), escaip.labels(frames))[1])
    assert rows.of(form, differences) == pytest.approx(wanted, rel=1e-4)
    assert rows.of(form, differences.flip(1)) != pytest.approx(wanted, rel=0.05)


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("name", ["absolute", "free", "coordinates"])
def test_losses_and_gradients_without_closed_form(name: str, data: Path) -> None:
    """The 24 rotations of the cube, against Haar rotations; gradients against differences along themselves."""
    import measuring
    import models

    frames = io.read(data / "ethanol_rmd17" / "train.xyz", ":2")
    model = models.network(name, "small", 8, 1.0, 0)
    found = measuring.measured(model, frames, gradients=True)
    model.eval()

    haar = ep.RotationPlan("haar", 200, seed=1).rotations().double().reshape(-1, 3, 3)
    with torch.no_grad():
        values = torch.stack(
            [models.forces_of(model, models.batch(model, frames, g.expand(2, 3, 3))).double() @ g for g in haar]
        )
    assert found["L_equiv"] == pytest.approx(float(values.var(0).mean()), rel=0.15)
    assert found["L_equiv"] > 1e-3 * found["L_mean"]

    weights = [one for one in model.parameters() if one.requires_grad]
    both = measuring._gradients(model, frames, closed=False)
    for k, gradient in enumerate(both):
        assert float(gradient.norm()) == pytest.approx(found[("gradient_mean", "gradient_equiv")[k]], rel=1e-6)
        slope = []
        for sign in (1, -1):
            step = sign * 3e-3 * gradient / gradient.norm()
            for weight, part in zip(weights, step.split([one.numel() for one in weights]), strict=True):
                weight.data += part.view_as(weight).float()
            slope.append(measuring.over_rotations(model, frames)[k])
            for weight, part in zip(weights, step.split([one.numel() for one in weights]), strict=True):
                weight.data -= part.view_as(weight).float()
        assert (slope[0] - slope[1]) / 6e-3 == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.usefixtures("study")
def test_a_stopped_training_goes_on_to_the_same_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two parts and in one, the same table."""
    import train

    settings = train.Settings("ethanol", "escaip", "small", 20, 1e-3, "adam", 2, True, 0)
    tables = []
    for folder, stops in (("whole", [20]), ("parts", [10, 20])):
        monkeypatch.setattr(train, "RUNS", tmp_path / folder)
        for steps in stops:
            training = train.Training(settings)
            training.to(steps)
        tables.append({row["step"]: row["L_equiv"] for row in training.rows})
    assert tables[0] == pytest.approx(tables[1], rel=1e-5)
    assert set(tables[0]) == {0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20}
    assert (tmp_path / "parts" / settings.name / "probe.json").exists()
