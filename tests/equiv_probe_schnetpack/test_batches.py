"""Copies of a batch in one batch, and what is an input and whose it is."""

from __future__ import annotations

from typing import Any

import pytest
import schnetpack as spk
import torch
from schnetpack import properties
from torch import Tensor, nn

import equiv_probe as ep
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.isolation import measuring
from equiv_probe_schnetpack import quantities
from equiv_probe_schnetpack.batches import ATOM_INDICES, PAIR_INDICES, BatchAdapter
from equiv_probe_schnetpack.quantities import INPUTS, PROPERTIES

from .spk_models import MOLECULES, batch, copied, crystals, make_task, output, potential, structures

PLAN = ep.RotationPlan("haar", replicates=5)


def stacked(model: nn.Module, given: dict[str, Tensor], copies: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    made, part = BatchAdapter(model).stack(
        given, {name: torch.stack([one[name] for one in copies]) for name in ("_positions", "_cell", "_offsets")}
    )
    return part({name: value.detach() for name, value in model(made).items()})


@pytest.mark.parametrize("kind", ["schnet", "painn", "so3net", "unconstrained"])
@pytest.mark.parametrize("atoms", [structures, crystals])
def test_copies_in_one_batch_give_what_they_give_alone(kind: str, atoms: Any) -> None:
    model = potential(kind, stress=atoms is crystals and kind != "unconstrained").eval()
    given = batch(atoms())
    copies = [copied(given) for _ in range(3)]
    for k, one in enumerate(copies):  # any three geometries will do
        noise = torch.randn(one["_positions"].shape, generator=torch.Generator().manual_seed(k)).double()
        one["_positions"] += 0.1 * noise
    together = stacked(model, given, copies)
    assert set(together) >= {"energy", "forces"}
    for k, one in enumerate(copies):
        for name, value in model(copied(one)).items():
            # Sums in another order: a few units in the last place of the largest term.
            torch.testing.assert_close(together[name][k], value.detach(), rtol=1e-11, atol=1e-11)


def test_triples_and_far_pairs_are_shifted_as_the_loader_shifts_them() -> None:
    """The loader itself, given every structure twice, is the reference."""
    atoms = structures()
    triples = spk.transform.CollectAtomTriples()
    given, twice = batch(atoms, 0, triples), batch(atoms + atoms, 0, triples)
    for one in (given, twice):
        one["_idx_i_lr"], one["_idx_j_lr"] = one["_idx_i"].clone(), one["_idx_j"].clone()
    positions = given["_positions"].expand(2, -1, -1)
    made, _ = BatchAdapter(nn.Identity()).stack(given, {"_positions": positions})
    for name in ("_idx_m", *ATOM_INDICES, *PAIR_INDICES, "_n_atoms", "_atomic_numbers", "_pbc", "_idx_i_local"):
        assert torch.equal(made[name], twice[name]), name
    assert int(made["_idx_k_triples"].max()) >= len(given["_idx_j"]), "there are triples in the second copy"


def test_what_the_model_wrote_is_not_taken_for_an_input() -> None:
    model = potential("painn")
    given = batch()
    fresh, _ = BatchAdapter(model).split((copied(given),), {})
    model(given)
    assert "_Rij" in given, "the model writes into its batch"
    found, _ = BatchAdapter(model).split((given,), {})
    assert "_Rij" not in found
    assert set(fresh) <= set(found)


def test_pair_vectors_that_are_given_are_an_input() -> None:
    """A representation alone, as somebody might probe it: its pair vectors rotate with their structure."""
    given = spk.atomistic.PairwiseDistances()(batch())
    representation = potential("painn").representation
    schema = ep.Schema(
        {"_positions": ep.point, "_Rij": ep.vector},
        {"scalar_representation": ep.scalar, "vector_representation": ep.irreps("0e")},
    )
    del schema.outputs["vector_representation"]  # type: ignore[attr-defined]
    with ep.Probe(representation, schema, light=PLAN, every=1) as probe:
        representation(given)
    found = probe.compute()["equiv/train/scalar_representation/L_equiv"]
    assert 0 <= abs(found) < 1e-24


def test_a_batch_is_left_as_it_is_without_the_probe() -> None:
    def run(probing: bool) -> tuple[dict[str, Any], Tensor]:
        task, given = make_task(potential("painn")), batch()
        probe = ep.Probe(task.model, light=PLAN, every=1) if probing else None
        if probe is None:
            loss = task.training_step(given, 0)
        else:
            with probe:
                loss = task.training_step(given, 0)
            assert probe.compute()
        loss.backward()
        return given, task.model.output_modules[0].outnet[0].weight.grad

    (plain, gradient), (probed, probed_gradient) = run(False), run(True)
    assert list(plain) == list(probed)
    for name, value in plain.items():
        assert torch.equal(value, probed[name]), name
        assert value.requires_grad == probed[name].requires_grad, name
    assert torch.equal(gradient, probed_gradient)


def test_a_call_with_a_batch_finds_the_adapter_and_others_do_not() -> None:
    model = potential()
    assert isinstance(adapter_for(model, (batch(),), {}), BatchAdapter)
    assert isinstance(adapter_for(model, (), {"inputs": batch()}), BatchAdapter)
    assert not isinstance(adapter_for(model, (torch.zeros(3, 3),), {}), BatchAdapter)
    assert not isinstance(adapter_for(model, ({"_positions": torch.zeros(3, 3)},), {}), BatchAdapter)


@pytest.mark.parametrize("names", [("H2", "Ar"), ("H2", "Ar", "Ne", "He"), ("H2", "H2")])
def test_atoms_pairs_and_structures_in_equal_numbers_are_told_apart(names: tuple[str, ...]) -> None:
    """Two pairs and two structures, or two atoms and two pairs: lengths alone would not say whose an entry is."""
    from ase import Atoms
    from ase.build import molecule

    atoms = [molecule(name) if name == "H2" else Atoms(name) for name in names]
    given = batch(atoms)
    model = potential("schnet")
    call = BatchAdapter(model)
    schema = ep.Schema(
        {n: INPUTS[n].representation for n in ("_positions", "_cell", "_offsets")}, {"energy": ep.scalar}
    )
    found = call.structures(given, schema, "centroid")
    assert found.count == len(names)
    assert torch.equal(found.owner(given["_positions"], "_positions"), given["_idx_m"])
    assert torch.equal(found.owner(given["_offsets"], "_offsets"), given["_idx_m"][given["_idx_i"]])
    assert torch.equal(found.owner(given["_cell"], "_cell"), torch.arange(len(names)))
    assert torch.equal(found.owner(given["energy"], "energy"), torch.arange(len(names)))


@pytest.mark.parametrize("correct", [True, False])
def test_dipoles_of_charged_molecules_rotate_about_the_origin(correct: bool) -> None:
    """``Σ q x`` with a net charge moves with the point it is rotated about; only the origin leaves it equivariant."""
    dipole = spk.atomistic.DipoleMoment(n_in=16, correct_charges=correct)
    polarizability = spk.atomistic.Polarizability(n_in=16)
    model = potential("painn", modules=(dipole, polarizability))
    task = make_task(model, output("dipole_moment", nn.MSELoss()), output("polarizability", nn.MSELoss()))
    given = batch()
    given["_positions"] += 3.0
    given["polarizability"] = torch.zeros(len(MOLECULES), 3, 3).double()
    from equiv_probe_schnetpack.training import training

    found = training(task)
    with ep.Probe(found.network, found.schema, light=PLAN, every=1, objectives=found.objectives) as probe:
        probe.step(lambda: task.training_step(given, 0), stage="train")
    for name in ("dipole_moment", "polarizability"):
        assert abs(probe.compute()[f"equiv/train/{name}/share"]) < 1e-20, name


def test_names_are_schnetpacks() -> None:
    known = {value for name, value in vars(properties).items() if isinstance(value, str) and not name.startswith("__")}
    assert set(INPUTS) <= known
    assert set(PROPERTIES) <= known
    assert set(ATOM_INDICES) | set(PAIR_INDICES) <= known


def test_keys_of_output_modules_are_read_from_the_modules() -> None:
    forces = spk.atomistic.Forces(energy_key="E", force_key="F", stress_key="S", calc_stress=True)
    model = nn.Sequential(
        spk.atomistic.Atomwise(n_in=4, output_key="E", per_atom_output_key="e"),
        spk.atomistic.DipoleMoment(n_in=4, dipole_key="mu", predict_magnitude=True),
        spk.atomistic.Response("E", ["polarizability"], {"polarizability": "alpha"}),
        forces,
    )
    found = quantities.predicted(model)
    shown = {name: (str(one.representation), one.per) for name, one in found.items()}
    assert shown["E"] == ("scalar", "structure")
    assert shown["e"] == ("scalar", "atom")
    assert shown["F"] == ("vector", "atom")
    assert shown["S"] == ("tensor(2)", "structure")
    assert shown["mu"] == ("scalar", "structure")
    assert shown["alpha"] == ("tensor(2)", "structure")
    assert not measuring()
