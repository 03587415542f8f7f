"""Calculators by name: what resolves to what, and errors that say how to put it right."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import equiv_probe as ep
from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.calculators.presets import PRESETS, Loader
from equiv_probe_ase.plugin import plugin

OWN = """
from ase.calculators.lj import LennardJones

class Factory:
    @staticmethod
    def make(epsilon=1.0, dtype="float32", label=None):
        calculator = LennardJones(epsilon=epsilon)
        calculator.given = (epsilon, dtype, label)
        return calculator

def no_calculator():
    return 3

def open_ended(**keywords):
    calculator = LennardJones()
    calculator.given = keywords
    return calculator
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "my_model.py").write_text(OWN)
    return tmp_path / "my_model.py"


def test_presets_of_ase() -> None:
    assert isinstance(make_calculator("emt"), EMT)
    lennard_jones = make_calculator("lj?epsilon=0.5&smooth=true")
    assert isinstance(lennard_jones, LennardJones)
    assert (lennard_jones.parameters["epsilon"], lennard_jones.parameters["smooth"]) == (0.5, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "package", "cls"),
    [("chgnet", "chgnet", "CHGNetCalculator"), ("7net-0", "sevenn", "SevenNetCalculator")],
)
def test_presets_with_bundled_weights(spec: str, package: str, cls: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    calculator = make_calculator(spec, device="cpu")
    assert type(calculator).__name__ == cls
    salt = bulk("NaCl", "rocksalt", 5.64)
    salt.calc = calculator
    assert -8 < salt.get_potential_energy() < -5  # eV: two atoms of about 3.4 eV each in PBE


def test_xtb() -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    water = molecule("H2O")
    water.calc = make_calculator("gfn2-xtb")
    assert water.get_potential_energy() == pytest.approx(-138.0, abs=0.5)  # GFN2-xTB: −5.07 Hartree
    water.calc = make_calculator("gfn2-xtb?charge=1")
    assert water.get_potential_energy() > -130  # ionised


def test_a_module_and_a_callable() -> None:
    assert isinstance(make_calculator("ase.calculators.emt:EMT"), EMT)
    assert make_calculator("ase.calculators.lj:LennardJones?sigma=2.5").parameters["sigma"] == 2.5


def test_a_file_and_a_callable(own: Path) -> None:
    made = make_calculator(f"{own}:Factory.make?epsilon=2&label=a b", dtype="float64")
    assert made.given == (2, "float64", "a b")
    assert make_calculator(f"{own}:Factory.make").given == (1.0, "float32", None)  # left to the callable
    given = make_calculator(f"{own}:open_ended?flag=false&none=none", device="cpu").given
    assert given == {"flag": False, "none": None, "device": "cpu"}


def test_a_module_in_the_current_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    assert make_calculator("my_model:open_ended").given == {}


def missing(package: str) -> str:
    """A preset whose package is not here, or skip."""
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    return package


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("nequix", {}, r"calculator 'nequix'.*chgnet.*Fix: did you mean nequip:<file>\? equiv-probe doctor"),
        ("emt", {"dtype": "float32"}, r"--dtype float32 for EMT; expected float64"),
        ("emt", {"device": "cuda"}, r"--device cuda for EMT; expected cpu"),
        ("gfn2-xtb", {"dtype": "float32"}, r"--dtype float32"),
        ("chgnet", {"dtype": "float64"}, r"--dtype float64 for CHGNetCalculator"),
        ("orb", {}, r"'orb'; expected orb:<checkpoint>"),
        ("orb:nowhere.pt", {}, r"no file nowhere.pt"),
        ("nowhere:calculator", {}, r"module 'nowhere', which cannot be imported"),
        ("nowhere.py:calculator", {}, r"no file nowhere.py"),
        ("ase.calculators.emt:EMTT", {}, r"no 'EMTT' in ase.calculators.emt"),
        ("ase.calculators.emt:EMTT", {}, r"Fix: did you mean EMT\?"),
        ("ase.calculators.emt:EMT", {"device": "cuda:7"}, None),
    ],
)
def test_errors_name_what_was_found(spec: str, options: dict[str, str], message: str | None) -> None:
    preset = PRESETS.get(spec.partition(":")[0])
    if preset is not None and not preset.installed:
        pytest.skip(f"{preset.package} is not installed")
    if message is None:  # EMT takes any keyword: it is its own mistake to ignore one
        assert isinstance(make_calculator(spec, **options), EMT)
        return
    with pytest.raises(ep.EquivProbeError, match=message):
        make_calculator(spec, **options)


def test_what_lacks_a_part_is_told_which(own: Path) -> None:
    """A misspelt file, Python without a name in it, weights without their package, a network."""
    near = own.with_name("my_modle.py")
    with pytest.raises(ep.EquivProbeError, match=rf"no file {near}.*did you mean {own}\?"):
        make_calculator(f"{near}:open_ended")
    with pytest.raises(ep.EquivProbeError, match=rf"the name in it.*Fix: {own}:\w+ or {own}:\w+"):
        make_calculator(str(own))
    weights = own.with_name("best.pt")
    weights.touch()
    with pytest.raises(ep.EquivProbeError, match=rf"what reads it, too.*mace:{weights}"):
        make_calculator(str(weights))
    with pytest.raises(ep.EquivProbeError, match=r"made a Linear; expected an ASE calculator.*ep.Probe\(network\)"):
        make_calculator("torch.nn:Linear?in_features=3&out_features=3")


def test_a_loader_is_called_with_its_packages_own_names(own: Path) -> None:
    make = Loader(f"{own}:open_ended", "path", device="where", only="float64", defaults=(("where", "cpu"), ("seed", 0)))
    assert make("model.pt", None, None).given == {"path": "model.pt", "where": "cpu", "seed": 0}
    assert make("a", "cuda", "float64", seed=3).given == {"path": "a", "where": "cuda", "seed": 3}
    with pytest.raises(ep.EquivProbeError, match=r"--dtype float32 for open_ended; expected float64.*leave --dtype"):
        make("model.pt", None, "float32")
    with pytest.raises(ep.EquivProbeError, match=r"--device cuda.*leave --device out"):
        Loader(f"{own}:open_ended", device="")(None, "cuda", None)
    with pytest.raises(ep.EquivProbeError, match="the precision of its file"):
        Loader(f"{own}:open_ended")(None, None, "float64")
    assert Loader(f"{own}:open_ended", dtype="precision")(None, None, "float32").given == {"precision": "float32"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("metatomc", "metatomic"), ("Mace", "mace"), ("torch-sim", "torchsim"), ("fairchm", "fairchem")],
)
def test_a_misspelt_preset_is_asked_about(typed: str, meant: str, own: Path) -> None:
    with pytest.raises(ep.EquivProbeError, match=rf"did you mean {meant}:<"):
        make_calculator(typed)
    with pytest.raises(ep.EquivProbeError, match=rf"did you mean {meant}:{own}\?"):
        make_calculator(f"{typed}:{own}")
    # What is no file may be a module's name.
    with pytest.raises(ep.EquivProbeError, match=rf"cannot be imported.*did you mean {meant}:calculator\?"):
        make_calculator(f"{typed}:calculator")


def test_every_preset_says_how_it_is_had() -> None:
    for status in plugin.presets():
        preset = PRESETS[status.name.partition(":")[0]]
        assert status.usable == (importlib.util.find_spec(preset.package) is not None)
        assert status.missing == ("" if status.usable else preset.how_to_install)
        assert preset.how_to_install.startswith("pip install '")
    assert {"metatomic:<file.pt>", "fairchem:<checkpoint or name>", "torchsim:<module:callable>"} <= {
        status.name for status in plugin.presets()
    }


def test_options_that_a_callable_does_not_take(own: Path) -> None:
    with pytest.raises(ep.EquivProbeError, match=r"--device cuda.*leave --device out"):
        make_calculator(f"{own}:Factory.make", device="cuda")
    with pytest.raises(ep.EquivProbeError, match="an ASE calculator"):
        make_calculator(f"{own}:no_calculator")
    with pytest.raises(ep.EquivProbeError, match="epsilonn"):
        make_calculator(f"{own}:Factory.make?epsilonn=2")


def test_a_wrong_precision_says_which_there_are() -> None:
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    with pytest.raises(ep.EquivProbeError, match="float16"):
        make_calculator(f"orb:{__file__}?model=orb-v2", dtype="float16")


def test_a_preset_whose_package_is_missing_says_how_to_install_it() -> None:
    missing("mace")
    with pytest.raises(ep.EquivProbeError, match=r"pip install 'equiv-probe\[mace\]'"):
        make_calculator("mace:model.pt")


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    pytest.importorskip("chgnet", reason="CHGNet is not installed")
    with pytest.raises(ep.EquivProbeError, match=r"--device cuda"):
        make_calculator("chgnet", device="cuda")


def orb_checkpoint(data: Path) -> Path:
    (path,) = (data.parent / "weights" / "orb_d3_xs_v2").glob("*.pt")
    return path


def test_an_orb_checkpoint_in_half_precision(shared_data: Path) -> None:
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    calculator = make_calculator(f"orb:{orb_checkpoint(shared_data)}", device="cpu")
    assert {p.dtype for p in calculator.model.parameters()} == {torch.float32}
    salt = bulk("NaCl", "rocksalt", 5.64)
    salt.calc = calculator
    assert -8 < salt.get_potential_energy() < -5
    assert np.isfinite(salt.get_forces()).all()


def test_checkpoints_cannot_run_code(tmp_path: Path) -> None:
    """A pickle that would make a file when it is loaded is refused, and makes none."""
    pytest.importorskip("orb_models", reason="orb-models is not installed")
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (trap,))

    torch.save({"weight": Trap()}, tmp_path / "orb-v2.pt")
    with pytest.raises(ep.EquivProbeError, match=r"orb-v2\.pt"):
        make_calculator(f"orb:{tmp_path / 'orb-v2.pt'}")
    assert not trap.exists()
