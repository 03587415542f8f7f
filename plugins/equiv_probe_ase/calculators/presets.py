"""The short names of calculators, and how each is made: device, precision and file as its package wants them."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.calculators.loading import load, of_torch_sim

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase.calculators.calculator import Calculator

FILES_OWN = "the precision of its file"


@dataclass(frozen=True)
class Preset:
    """A calculator by a short name.

    Args:
        name: as typed; ``name:<argument>`` where it takes one.
        make: called with the argument (or None), device, dtype name and further keywords.
        package: that must be installed.
        about: one line for ``equiv-probe doctor``.
        argument: what follows the colon, or empty.
        install: what ``pip install`` is given to have it.
    """

    name: str
    make: Callable[..., Calculator]
    package: str
    about: str
    argument: str = ""
    install: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def takes_file(self) -> bool:
        """Whether what follows the colon must be there."""
        return self.argument.startswith(("file", "checkpoint")) and "name" not in self.argument

    @property
    def typed(self) -> str:
        """As it is typed."""
        return self.name + (f":<{self.argument}>" if self.argument else "")

    @property
    def how_to_install(self) -> str:
        """The command that installs it."""
        return f"pip install '{self.install or self.package}'"


@dataclass(frozen=True)
class Loader:
    """A package's own loader, called with what it calls file, device and precision.

    Args:
        where: of the loader, ``module:callable``.
        argument: its name of the file, or empty.
        device: its name of the device, or empty if it takes none.
        dtype: its name of the precision, or empty if it takes none.
        only: the only precision, where it takes none.
        defaults: further keywords.
    """

    where: str
    argument: str = ""
    device: str = "device"
    dtype: str = ""
    only: str = FILES_OWN
    defaults: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Of the loader, without its module."""
        return self.where.rpartition(":")[2]

    def __call__(self, argument: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
        """The calculator."""
        options = dict(self.defaults)
        given = (("device", self.device, device, "cpu"), ("dtype", self.dtype, dtype, self.only))
        for option, name, value, only in given:
            if name and value:
                options[name] = value
            elif value not in {None, only}:
                raise EquivProbeError(
                    f"--{option} {value} for {self.where.rpartition(':')[2]}", only, f"leave --{option} out"
                )
        if self.argument and argument:
            options[self.argument] = argument
        return load(self.where)(**{**options, **keywords})


CPU = ("device", "cpu")


def _ase(where: str) -> Callable[..., Calculator]:
    make = Loader(where, device="", only="float64")

    def checked(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
        known = load(where).default_parameters
        if unknown := sorted(keywords.keys() - known.keys()):  # which ASE would take, and never look at
            raise EquivProbeError(f"{unknown[0]}= for {make.name}", f"one of {', '.join(known)}")
        return make(None, device, dtype, **keywords)

    return checked


def _matgl(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A potential that matgl saved; stress in ASE's unit, where matgl's calculator gives GPa."""
    make = Loader("matgl.ext.ase:PESCalculator", device="", defaults=(("stress_unit", "eV/A3"),))
    potential = load("matgl:load_model")(path)
    return make(None, None, dtype, potential=potential.to(device or "cpu"), **keywords)


def _metatomic(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """An exported model; compiled operators that it needs lie beside it, or in a package that brings them."""
    beside = Path(str(path)).parent / "extensions"  # where `mtt export` puts them
    if beside.is_dir():
        keywords.setdefault("extensions_directory", str(beside))
    with suppress(ImportError):
        importlib.import_module("sphericart.torch")  # those of SOAP-BPNN
    return Loader("metatomic_ase:MetatomicCalculator", "model")(path, device, dtype, **keywords)


def _nequip(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A package or a checkpoint, which takes batches, or what ``nequip-compile`` made of it for ASE, which does not."""
    compiled = Path(str(path)).suffix in {".pt2", ".pth"}
    loader, argument = ("from_compiled_model", "compile_path") if compiled else ("_from_saved_model", "model_path")
    make = Loader(f"nequip.integrations.ase:NequIPCalculator.{loader}", argument, defaults=(CPU,))
    return make(path, device, dtype, **keywords)


def _aimnet(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    within = load("aimnet.calculators:AIMNet2Calculator")(path, device=device or "cpu")
    return Loader("aimnet.calculators:AIMNet2ASE", device="", only="float32")(
        None, None, dtype, base_calc=within, **keywords
    )


def _torchani(name: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    model = load(f"torchani.models:{name}")(**keywords)
    return model.to(device or "cpu").to(load(f"torch:{dtype or 'float32'}")).ase()


def _orb(path: str | None, device: str | None, dtype: str | None, model: str | None = None, **keywords: Any) -> Any:
    """An Orb checkpoint; which architecture it is, is read off the file name unless ``?model=orb-v2`` says."""
    import torch
    from orb_models.forcefield import pretrained

    assert path is not None  # the preset has an argument
    stem = Path(path).name.lower().replace("_", "-")
    known = sorted(pretrained.ORB_PRETRAINED_MODELS, key=len, reverse=True)
    name = model or next((entry for entry in known if entry in stem), None)
    if name not in known:
        raise EquivProbeError(
            f"checkpoint {path}", f"a file named after one of {', '.join(sorted(known))}", "?model=orb-v2"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    full = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    precision = {None: "float32-highest", "float32": "float32-highest", "float64": "float64"}[dtype]
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:  # published in half precision; loaded strictly in single
        torch.save(full, file.name)
        loaded = pretrained.ORB_PRETRAINED_MODELS[name](
            weights_path=file.name, device=device or "cpu", precision=precision, compile=False
        )
    parts = loaded if isinstance(loaded, tuple) else (loaded,)  # since 0.6 with what makes its graphs
    within = "inference.calculator" if isinstance(loaded, tuple) else "calculator"
    return load(f"orb_models.forcefield.{within}:ORBCalculator")(*parts, device=device or "cpu", **keywords)


def _schnetpack(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A SchNetPack model, in eV and Å unless ``?energy_unit=…&position_unit=…`` says otherwise."""
    import torch
    from schnetpack.interfaces import SpkCalculator

    from equiv_probe_ase.evaluators.schnetpack_neighbors import FastNeighborList

    cutoff = keywords.pop("cutoff", 5.0)
    defaults = {
        "neighbor_list": FastNeighborList(cutoff=cutoff),
        "energy_unit": "eV",
        "position_unit": "Ang",
        "device": device or "cpu",
        "dtype": getattr(torch, dtype or "float32"),
    }
    return SpkCalculator(path, **{**defaults, **keywords})


_XTB = "tblite.ase:TBLite"
_SEVENNET = "sevenn.calculator:SevenNetCalculator"
_QUIET = ("verbosity", 0)


def _presets() -> tuple[Preset, ...]:
    chgnet = Loader(
        "chgnet.model.dynamics:CHGNetCalculator",
        device="use_device",
        only="float32",
        defaults=(("use_device", "cpu"), ("verbose", False)),
    )
    xtb2, xtb1 = (
        Loader(_XTB, device="", only="float64", defaults=(("method", method), _QUIET))
        for method in ("GFN2-xTB", "GFN1-xTB")
    )
    seven0, seven5, seven = (
        Loader(_SEVENNET, "model", only="float32", defaults=(*model, ("device", "auto")))
        for model in ((("model", "7net-0"),), (("model", "7net-l3i5"),), ())
    )
    mace = Loader(
        "mace.calculators:MACECalculator",
        "model_paths",
        dtype="default_dtype",
        defaults=(CPU, ("default_dtype", "float64")),
    )
    fairchem = Loader(  # its default merges experts and compiles for one composition, in reduced precision on a GPU
        "fairchem.core:FAIRChemCalculator.from_model_checkpoint",
        "name_or_path",
        only="float32",
        defaults=(CPU, ("inference_settings", "batch")),
    )
    mattersim = Loader(
        "mattersim.forcefield:MatterSimCalculator.from_checkpoint", "load_path", only="float32", defaults=(CPU,)
    )
    deepmd = Loader("deepmd.calculator:DP", "model", device="")
    return (
        Preset("chgnet", chgnet, "chgnet", "CHGNet 0.3.0, weights bundled; crystals", "", "equiv-probe[chgnet]"),
        Preset("7net-0", seven0, "sevenn", "SevenNet-0, weights bundled; crystals", "", "equiv-probe[sevenn]"),
        Preset("7net-l3i5", seven5, "sevenn", "SevenNet-l3i5, weights bundled", "", "equiv-probe[sevenn]"),
        Preset("sevenn", seven, "sevenn", "a SevenNet checkpoint", "file", "equiv-probe[sevenn]"),
        Preset("gfn2-xtb", xtb2, "tblite", "GFN2-xTB, exact physics", "", "equiv-probe[tblite]"),
        Preset("gfn1-xtb", xtb1, "tblite", "GFN1-xTB, exact physics", "", "equiv-probe[tblite]"),
        Preset("orb", _orb, "orb_models", "an Orb checkpoint", "checkpoint", "equiv-probe[orb]"),
        Preset("mace", mace, "mace", "a MACE model", "file", "equiv-probe[mace]"),
        Preset(
            "metatomic", _metatomic, "metatomic_ase", "PET, SOAP-BPNN, PET-MAD, …", "file.pt", "equiv-probe[metatomic]"
        ),
        Preset("schnetpack", _schnetpack, "schnetpack", "a SchNetPack model", "file", "equiv-probe[schnetpack]"),
        Preset("nequip", _nequip, "nequip", "NequIP, Allegro: packaged, compiled, or a checkpoint", "file", "nequip"),
        Preset("fairchem", fairchem, "fairchem", "UMA, eSEN", "checkpoint or name", "fairchem-core"),
        Preset("matgl", _matgl, "matgl", "M3GNet, TensorNet, CHGNet, …, saved by matgl", "folder or name", "matgl"),
        Preset("mattersim", mattersim, "mattersim", "a MatterSim checkpoint", "checkpoint or name", "mattersim"),
        Preset("deepmd", deepmd, "deepmd", "a DeePMD model", "file", "deepmd-kit[torch]"),
        Preset("aimnet", _aimnet, "aimnet", "an AIMNet2 model", "checkpoint or name", "aimnet[ase]"),
        Preset("torchani", _torchani, "torchani", "ANI1x, ANI2x, …, downloaded by torchani", "name", "torchani"),
        Preset(
            "torchsim",
            of_torch_sim,
            "torch_sim",
            "any ModelInterface of torch-sim, in its batches",
            "module:callable",
            "equiv-probe[torchsim]",
        ),
        Preset("emt", _ase("ase.calculators.emt:EMT"), "ase", "effective medium theory: Al Cu Ag Au Ni Pd Pt C N O H"),
        Preset("lj", _ase("ase.calculators.lj:LennardJones"), "ase", "Lennard-Jones"),
    )


PRESETS: dict[str, Preset] = {preset.name: preset for preset in _presets()}
