"""The batched evaluators against the calculators' own single calls.

Tolerance. The models run in float32. A batch does the same arithmetic on the same graphs, but matrix products over
other numbers of rows and sums in another order round differently: 2^-24 per operation, times the few tens of operations
whose errors add up, relative to the largest number in the sum. Measured: up to 2e-6 of the largest component.
`TOLERANCE` allows 1e-5 of it (of at least 1 eV, 1 eV/Å, ...; 0.1 eV/Å³ for stress); a wrong unit, order, sign or atom
is off by its whole size. In float64 the same comparison must hold to 1e-12.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from scipy.spatial.transform import Rotation

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators import CannotBatchError, Evaluator, LoopEvaluator, evaluator_for, register_evaluator
from equiv_probe_ase.evaluators.registry import _EVALUATORS

TOLERANCE = 1e-5
UNITS_FLOOR = {"stress": 0.1}


def rotated(atoms: Atoms, seed: int) -> Atoms:
    """Return a copy with atoms and cell rotated together, which makes every cell a general triclinic one."""
    copy, rotate = atoms.copy(), Rotation.random(random_state=seed).as_matrix()
    copy.set_cell(copy.cell.array @ rotate.T, scale_atoms=False)
    copy.positions = copy.positions @ rotate.T
    return copy


def structures(*, boxed: bool) -> list[Atoms]:
    """Return a crystal, one without bonds below 3 Å, a slab, a molecule, and the first rotated: 1 to 13 atoms."""
    crystal = bulk("NaCl", "rocksalt", 5.64) * (2, 1, 1)
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
    slab.pbc = True
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.set_constraint(FixAtoms([0, 1, 2, 3]))
    ethanol = molecule("CH3CH2OH")
    if boxed:
        ethanol.set_cell([12, 13, 14])
        ethanol.pbc = True
    rattled = [crystal, bulk("Cs", "bcc", 6.1), slab, ethanol]
    for seed, atoms in enumerate(rattled):
        atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    rattled = [rotated(atoms, seed) for seed, atoms in enumerate(rattled)]
    return [*rattled, rotated(rattled[0], 10)]


def chgnet() -> SimpleNamespace:
    dynamics = pytest.importorskip("chgnet.model.dynamics", reason="CHGNet is not installed")
    return SimpleNamespace(
        calculator=dynamics.CHGNetCalculator(use_device="cpu", return_site_energies=True, on_isolated_atoms="ignore"),
        properties=["energy", "free_energy", "forces", "stress", "magmoms", "energies"],
        structures=structures(boxed=True),
        unknown=bulk("Am", "fcc", 4.9),  # Z = 95
    )


def sevennet() -> SimpleNamespace:
    sevenn = pytest.importorskip("sevenn.calculator", reason="SevenNet is not installed")
    return SimpleNamespace(
        calculator=sevenn.SevenNetCalculator("7net-0", device="cpu"),
        properties=["energy", "free_energy", "forces", "stress", "energies"],
        structures=structures(boxed=False),
        unknown=bulk("Po", "sc", 3.3),
    )


def painn(path: Path, dtype: torch.dtype = torch.float32) -> SimpleNamespace:
    spk = pytest.importorskip("schnetpack", reason="SchNetPack is not installed")
    interfaces = pytest.importorskip("schnetpack.interfaces")
    torch.manual_seed(0)
    model = spk.model.NeuralNetworkPotential(
        representation=spk.representation.PaiNN(
            n_atom_basis=16,
            n_interactions=2,
            radial_basis=spk.nn.GaussianRBF(n_rbf=10, cutoff=4.0),
            cutoff_fn=spk.nn.CosineCutoff(4.0),
        ),
        input_modules=[spk.atomistic.Strain(), spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=16, output_key="U0"), spk.atomistic.Forces(energy_key="U0")],
    )
    with torch.no_grad():
        model.output_modules[0].outnet[-1].weight *= 30  # forces of a real size, some eV/Å
    torch.save(model, path)
    calculator = interfaces.SpkCalculator(
        model=str(path),
        neighbor_list=spk.transform.ASENeighborList(cutoff=4.0),
        energy_key="U0",
        stress_key="stress",
        energy_unit="kcal/mol",
        position_unit="Bohr",  # only the conversion of outputs is under test
        dtype=dtype,
    )
    return SimpleNamespace(
        calculator=calculator,
        properties=["energy", "forces", "stress"],
        structures=structures(boxed=True),
        unknown=Atoms(numbers=[110], positions=[[0, 0, 0]], cell=[9, 9, 9], pbc=True),
    )


def orb(folder: Path, **options: object) -> SimpleNamespace:
    data = os.environ.get("EQUIV_PROBE_DATA")
    if data is None:
        pytest.skip("EQUIV_PROBE_DATA is unset, so there is no Orb checkpoint")
    pretrained = pytest.importorskip("orb_models.forcefield.pretrained", reason="orb-models is not installed")
    from orb_models.forcefield.calculator import ORBCalculator

    (half,) = (Path(data).parent / "weights" / "orb_d3_xs_v2").glob("*.fp16.pt")
    state = torch.load(half, weights_only=True)
    single = {k: v.float() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in state.items()}
    torch.save(single, folder / "orb.pt")
    model = pretrained.orb_d3_xs_v2(
        weights_path=str(folder / "orb.pt"), device="cpu", precision="float32-highest", compile=False
    )
    return SimpleNamespace(
        calculator=ORBCalculator(model, device="cpu", **options),
        properties=["energy", "free_energy", "forces", "stress"],
        structures=structures(boxed=False),
        unknown=Atoms(numbers=[118], positions=[[0, 0, 0]]),
    )


@pytest.fixture(scope="module", params=["chgnet", "sevennet", "painn", "orb"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("models")
    builders = {
        "chgnet": chgnet,
        "sevennet": sevennet,
        "painn": lambda: painn(folder / "painn.pt"),
        "orb": lambda: orb(folder),
    }
    case = builders[request.param]()
    case.evaluator = evaluator_for(case.calculator)
    assert case.evaluator.batched
    assert case.evaluator.note == ""
    case.results = case.evaluator.evaluate(case.structures, case.properties)
    return case


def as_a_user_reads_it(calculator: Calculator, atoms: Atoms, properties: list[str]) -> dict[str, np.ndarray]:
    """Read properties through ASE's own getters, one fresh calculation."""
    copy = atoms.copy()
    calculator.reset()
    copy.calc = calculator
    getters = {
        "energy": copy.get_potential_energy,
        "forces": lambda: copy.get_forces(apply_constraint=False),
        "stress": lambda: copy.get_stress(apply_constraint=False),
    }
    copy.get_potential_energy()
    return {name: np.asarray(getters.get(name, lambda n=name: calculator.results[n])()) for name in properties}


def assert_same(found: list[dict], expected: list[dict], tolerance: float = TOLERANCE) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert value.dtype == np.float64
            assert value.shape == other[name].shape, name
            scale = max(UNITS_FLOOR.get(name, 1.0), np.abs(other[name]).max())
            np.testing.assert_allclose(value, other[name], rtol=0, atol=tolerance * scale, err_msg=name)


@pytest.mark.slow
def test_a_batch_says_what_single_calls_say(case: SimpleNamespace) -> None:
    expected = [as_a_user_reads_it(case.calculator, atoms, case.properties) for atoms in case.structures]
    assert_same(case.results, expected)
    # The loop makes the same calls, but with several threads SevenNet's sums repeat only to round-off.
    assert_same(LoopEvaluator(case.calculator).evaluate(case.structures, case.properties), expected)


def test_the_comparison_would_notice_a_mix_up(case: SimpleNamespace) -> None:
    # The rotated copy of the first structure has its energy but not its forces: swapping the two must not pass.
    original, copy = case.results[0], case.results[-1]
    assert np.abs(original["forces"] - copy["forces"]).max() > 100 * TOLERANCE
    assert np.abs(original["stress"] - copy["stress"]).max() > 100 * TOLERANCE * UNITS_FLOOR["stress"]


def test_order_and_company_do_not_matter(case: SimpleNamespace) -> None:
    order = [3, 0, 4, 1]
    company = case.evaluator.evaluate([case.structures[i] for i in order], case.properties)
    assert_same(company, [case.results[i] for i in order])
    assert_same(case.evaluator.evaluate([case.structures[2]], case.properties), [case.results[2]])


@pytest.mark.slow
def test_asking_for_less_gives_the_same(case: SimpleNamespace) -> None:
    for properties in (["energy"], ["forces"], ["stress", "energy"], case.properties[::-1]):
        expected = [{name: result[name] for name in properties} for result in case.results]
        assert_same(case.evaluator.evaluate(case.structures, properties), expected)


@pytest.mark.slow
def test_nothing_of_the_callers_is_touched(case: SimpleNamespace) -> None:
    before = [atoms.copy() for atoms in case.structures]
    model = case.calculator.model
    parameters = {name: value.detach().clone() for name, value in model.state_dict().items() if torch.is_tensor(value)}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    batch_mode = getattr(model, "is_batch_data", None)
    random_state = torch.get_rng_state()
    with torch.no_grad():
        assert_same(case.evaluator.evaluate(case.structures, case.properties), case.results)
    with torch.inference_mode():
        assert_same(case.evaluator.evaluate(case.structures, case.properties), case.results)
        case.evaluator.evaluate(case.structures, ["forces"])
    for now, then in zip(case.structures, before, strict=True):
        assert now == then
        assert now.calc is None
        assert str(now.constraints) == str(then.constraints)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not model.training
    assert getattr(model, "is_batch_data", None) == batch_mode
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in parameters.items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_an_unknown_element_raises(case: SimpleNamespace) -> None:
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        case.evaluator.evaluate([case.structures[0], case.unknown], ["energy"])
    assert_same(case.evaluator.evaluate(case.structures, case.properties), case.results)


def test_an_unsupported_property_says_what_there_is(case: SimpleNamespace) -> None:
    for evaluator in (case.evaluator, LoopEvaluator(case.calculator)):
        with pytest.raises(
            EquivProbeError, match=r"no dipole in the results of \w+Calculator; expected one of .*energy"
        ):
            evaluator.evaluate(case.structures[:2], ["energy", "dipole"])


@pytest.mark.slow
def test_out_of_memory_reaches_the_caller(case: SimpleNamespace) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("simulated")

    hooks = [module.register_forward_pre_hook(out_of_memory) for module in case.calculator.model.modules()]
    with pytest.raises(torch.OutOfMemoryError):
        case.evaluator.evaluate(case.structures, case.properties)
    for hook in hooks:
        hook.remove()
    # What the adapter switched for the batch is switched back, so the calculator still works on its own.
    expected = [as_a_user_reads_it(case.calculator, atoms, case.properties) for atoms in case.structures]
    assert_same(case.results, expected)


def test_float64_agrees_to_round_off(tmp_path: Path) -> None:
    case = painn(tmp_path / "painn.pt", torch.float64)
    expected = [as_a_user_reads_it(case.calculator, atoms, case.properties) for atoms in case.structures]
    assert_same(evaluator_for(case.calculator).evaluate(case.structures, case.properties), expected, tolerance=1e-12)


def test_schnetpack_declines_a_foreign_converter(tmp_path: Path) -> None:
    calculator = painn(tmp_path / "painn.pt").calculator
    calculator.converter = lambda atoms: {}
    evaluator = evaluator_for(calculator)
    assert isinstance(evaluator, LoopEvaluator)
    assert "converter" in evaluator.note


def test_chgnet_without_angles_does_not_depend_on_company() -> None:
    # CHGNet's own batching does, where its bond layers have a bias (v0.2.0): 0.08 eV on this pair.
    dynamics = pytest.importorskip("chgnet.model.dynamics", reason="CHGNet is not installed")
    model = dynamics.CHGNet.load(model_name="0.2.0", use_device="cpu", verbose=False)
    calculator = dynamics.CHGNetCalculator(model, use_device="cpu")
    pair = [bulk("NaCl", "rocksalt", 5.64), bulk("Kr", "fcc", 5.0) * (2, 1, 1)]
    pair[1].positions[0] += 0.1
    evaluator = evaluator_for(calculator)
    assert_same(evaluator.evaluate(pair, ["energy", "forces"])[1:], evaluator.evaluate(pair[1:], ["energy", "forces"]))
    graphs = [model.graph_converter(evaluator._to_structure(atoms)) for atoms in pair]
    together, alone = model.predict_graph(graphs)[1]["e"], model.predict_graph(graphs[1])["e"]
    assert abs(together - alone) > 0.01


@pytest.mark.slow
def test_sevennet_atomic_stresses_come_in_ase_order() -> None:
    sevenn = pytest.importorskip("sevenn.calculator", reason="SevenNet is not installed")
    calculator = sevenn.SevenNetCalculator("7net-0", device="cpu", compute_atomic_virial=True)
    slab = structures(boxed=False)[2]
    for evaluator in (evaluator_for(calculator), LoopEvaluator(calculator)):
        (result,) = evaluator.evaluate([slab], ["stress", "stresses"])
        total = -result["stresses"].sum(axis=0) / slab.get_volume()  # SevenNet: eV, with the virial's sign
        np.testing.assert_allclose(total, result["stress"], rtol=0, atol=1e-6)
        assert np.abs(total[3:] - total[[4, 3, 5]]).max() > 1e-4  # other orders are off by more


@pytest.mark.slow
def test_orb_neighbour_cap_bites_as_in_single_calls(tmp_path: Path) -> None:
    capped, free = orb(tmp_path, max_num_neighbors=5), orb(tmp_path)
    expected = [as_a_user_reads_it(capped.calculator, atoms, capped.properties) for atoms in capped.structures]
    results = evaluator_for(capped.calculator).evaluate(capped.structures, capped.properties)
    assert_same(results, expected)
    without = evaluator_for(free.calculator).evaluate(free.structures, ["energy"])
    assert abs(results[2]["energy"] - without[2]["energy"]) > 0.01


def test_orb_conservative_model() -> None:
    pretrained = pytest.importorskip("orb_models.forcefield.pretrained", reason="orb-models is not installed")
    from orb_models.forcefield.atomic_system import SystemConfig
    from orb_models.forcefield.calculator import ORBCalculator

    torch.manual_seed(0)
    model = pretrained.orb_v3_conservative_architecture(
        latent_dim=16,
        base_mlp_hidden_dim=16,
        base_mlp_depth=1,
        head_mlp_hidden_dim=16,
        num_message_passing_steps=2,
        device="cpu",
        system_config=SystemConfig(radius=6.0, max_num_neighbors=120),
    ).eval()
    calculator = ORBCalculator(model, device="cpu")
    some = structures(boxed=False)[1:]
    expected = [as_a_user_reads_it(calculator, atoms, ["energy", "forces", "stress"]) for atoms in some]
    with torch.no_grad():
        results = evaluator_for(calculator).evaluate(some, ["energy", "forces", "stress"])
    assert_same(results, expected)
    assert all(parameter.grad is None for parameter in model.parameters())


# What needs no model: the loop, the duck-typed batch and the choice between them.


class Noisy(Calculator):
    """EMT's energy plus noise, which counts its calculations and knows what was asked."""

    implemented_properties = ("energy", "forces")

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.random = np.random.default_rng(0)

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls.append(properties)
        self.results = {"energy": self.random.normal(), "forces": self.random.normal(size=(len(atoms), 3))}


def test_the_loop_recomputes_what_ase_remembers() -> None:
    atoms, calculator = bulk("Cu"), Noisy()
    first, second = LoopEvaluator(calculator).evaluate([atoms, atoms], ["energy", "forces"])
    assert calculator.calls == [["energy", "forces"]] * 2
    assert first["energy"] != second["energy"]
    assert calculator.results == {}
    atoms.calc = calculator
    assert atoms.get_potential_energy() == atoms.get_potential_energy()  # ASE's memory works as before
    assert len(calculator.calls) == 3


def test_the_loop_recomputes_inside_a_sum_of_calculators() -> None:
    noisy, emt = Noisy(), EMT()
    first, second = LoopEvaluator(SumCalculator([noisy, emt])).evaluate([bulk("Cu")] * 2, ["energy"])
    assert len(noisy.calls) == 2
    assert first["energy"] != second["energy"]


def test_the_loop_gives_the_models_forces_not_the_constrained_ones() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = EMT()
    (result,) = evaluator_for(EMT()).evaluate([atoms], ["forces", "stress"])
    np.testing.assert_array_equal(result["forces"], atoms.get_forces(apply_constraint=False))
    assert np.abs(result["forces"][0]).max() > 0.1
    assert result["stress"].shape == (6,)


def test_the_loop_raises_on_what_was_not_produced() -> None:
    with pytest.raises(EquivProbeError, match=r"no stress in the results of Noisy; expected one of .*: energy, forces"):
        LoopEvaluator(Noisy()).evaluate([bulk("Cu")], ["energy", "stress"])


class WithBatch(Noisy):
    def calculate_batch(self, structures: list[Atoms], properties: list[str]) -> list[dict]:
        self.calls.append(properties)
        return [{"energy": len(atoms), "stress": np.diag([1.0, 2.0, 3.0])} for atoms in structures][: self.keep]

    keep: int | None = None


def test_a_calculators_own_batch_call_is_used() -> None:
    calculator = WithBatch()
    evaluator = evaluator_for(calculator)
    results = evaluator.evaluate([bulk("Cu"), bulk("NaCl", "rocksalt", 5.6)], ["stress", "energy"])
    assert evaluator.batched
    assert len(calculator.calls) == 1
    assert [float(result["energy"]) for result in results] == [1.0, 2.0]
    np.testing.assert_array_equal(results[0]["stress"], [1, 2, 3, 0, 0, 0])
    assert isinstance(evaluator_for(calculator, batched=False), LoopEvaluator)
    calculator.keep = 1
    with pytest.raises(EquivProbeError, match=r"1 results from WithBatch\.calculate_batch; expected 2"):
        evaluator.evaluate([bulk("Cu")] * 2, ["energy"])


class ThirdParty(Evaluator):
    name, batched = "third party, batched", True

    def __init__(self, calculator: Calculator) -> None:
        if hasattr(calculator, "refusal"):
            raise calculator.refusal

    def evaluate(self, structures: list[Atoms], properties: list[str]) -> list[dict]:
        raise AttributeError("while evaluating")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> type[Calculator]:
    monkeypatch.setattr(f"{register_evaluator.__module__}._EVALUATORS", dict(_EVALUATORS))
    monkeypatch.setitem(sys.modules, "third_party", SimpleNamespace(ThirdParty=ThirdParty))
    register_evaluator(f"{Noisy.__module__}.Noisy", "third_party:ThirdParty")
    return Noisy


def test_a_third_partys_evaluator_is_found(registered: type[Calculator]) -> None:
    class Renamed(registered):
        pass

    for calculator in (registered(), Renamed()):
        evaluator = evaluator_for(calculator)
        assert isinstance(evaluator, ThirdParty)
        with pytest.raises(AttributeError, match="while evaluating"):
            evaluator.evaluate([bulk("Cu")], ["energy"])


def test_a_changed_calculate_is_not_bypassed(registered: type[Calculator]) -> None:
    class WithDispersion(registered):
        def calculate(self, *args: object) -> None:
            super().calculate(*args)
            self.results["energy"] -= 1.0

    patched = registered()
    patched.calculate = lambda *_: None
    for calculator, why in ((WithDispersion(), "WithDispersion.calculate"), (patched, "was replaced")):
        evaluator = evaluator_for(calculator)
        assert isinstance(evaluator, LoopEvaluator)
        assert why in evaluator.note


@pytest.mark.parametrize(
    "refusal", [CannotBatchError("its model is quantised"), AttributeError("no x"), ImportError("no y")]
)
def test_an_evaluator_that_declines_leaves_a_loop_with_the_reason(
    registered: type[Calculator], refusal: Exception
) -> None:
    calculator = registered()
    calculator.refusal = refusal
    evaluator = evaluator_for(calculator)
    assert isinstance(evaluator, LoopEvaluator)
    assert str(refusal) in evaluator.note


def test_a_malformed_registration_is_refused() -> None:
    for calculator, evaluator in (("Calc", "m:E"), ("m.Calc", "m.E")):
        with pytest.raises(EquivProbeError):
            register_evaluator(calculator, evaluator)


def test_a_loop_says_why() -> None:
    other = type("MACECalculator", (Calculator,), {"__module__": "mace.calculators.mace", "calculate": None})
    assert "MaceEvaluator does not fit the installed package" in evaluator_for(other()).note
    tblite = type("TBLite", (Calculator,), {"__module__": "tblite.ase", "calculate": None})
    assert "one structure at a time" in evaluator_for(tblite()).note
    assert "EMT" in evaluator_for(EMT()).note
    assert "asked for" in evaluator_for(EMT(), batched=False).note


@pytest.mark.slow
def test_choosing_imports_no_model_package() -> None:
    script = (
        "import sys; from ase.calculators.emt import EMT; from equiv_probe_ase.evaluators import evaluator_for;"
        "evaluator_for(EMT()); print({'chgnet', 'sevenn', 'schnetpack', 'orb_models', 'mace'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
