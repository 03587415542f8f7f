"""The short names of calculators, and how each is made: device, precision and file as its package wants them."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase.calculators.calculator import Calculator


@dataclass(frozen=True)
class Preset:
    """A calculator by a short name.

    Args:
        name: as typed; ``name:<argument>`` where it takes a file.
        make: called with the argument (or None), device, dtype name and further keywords.
        package: that must be installed.
        about: one line for ``equiv-probe doctor``.
        argument: what follows the colon, or empty.
        extra: of this package's that installs it.
    """

    name: str
    make: Callable[..., Calculator]
    package: str
    about: str
    argument: str = ""
    extra: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is there; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None


def _only(dtype: str | None, allowed: str, name: str) -> None:
    if dtype not in {None, allowed}:
        raise EquivProbeError(f"--dtype {dtype} for {name}", f"{allowed}, the only precision it works in")


def _only_cpu(device: str | None, name: str) -> None:
    if device not in {None, "cpu"}:
        raise EquivProbeError(f"--device {device} for {name}", "cpu, the only device it works on")


def _chgnet(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator

    _only(dtype, "float32", "chgnet")
    return CHGNetCalculator(use_device=device or "cpu", **{"verbose": False, **keywords})


def _sevennet(model: str, file_type: str = "checkpoint") -> Callable[..., Calculator]:
    def make(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
        from sevenn.calculator import SevenNetCalculator

        _only(dtype, "float32", "SevenNet")
        return SevenNetCalculator(path or model, file_type=file_type, device=device or "auto", **keywords)

    return make


def _xtb(method: str) -> Callable[..., Calculator]:
    def make(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
        from tblite.ase import TBLite

        _only(dtype, "float64", method)
        _only_cpu(device, method)
        return TBLite(method=method, **{"verbosity": 0, **keywords})

    return make


def _ase(module: str, name: str) -> Callable[..., Calculator]:
    def make(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
        _only(dtype, "float64", name)
        _only_cpu(device, name)
        cls = getattr(importlib.import_module(module), name)
        unknown = keywords.keys() - cls.default_parameters.keys()
        if unknown:  # which ASE would take, and never look at
            raise EquivProbeError(f"{min(unknown)}= for {name}", f"one of {', '.join(cls.default_parameters)}")
        return cls(**keywords)

    return make


def _orb(path: str | None, device: str | None, dtype: str | None, model: str | None = None, **keywords: Any) -> Any:
    """An Orb checkpoint; which architecture it is, is read off the file name unless ``?model=orb-v2`` says."""
    import torch
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.calculator import ORBCalculator

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
    return ORBCalculator(loaded, device=device or "cpu", **keywords)


def _mace(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    from mace.calculators import MACECalculator

    return MACECalculator(model_paths=path, device=device or "cpu", default_dtype=dtype or "float64", **keywords)


def _metatomic(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A model exported for metatomic (PET, SOAP-BPNN, PET-MAD); its precision is that of the export."""
    from metatomic_ase import MetatomicCalculator

    calculator = MetatomicCalculator(path, device=device, **keywords)
    _only(dtype, calculator.model().capabilities().dtype, str(path))
    return calculator


def _schnetpack(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A SchNetPack model, in eV and Å unless ``?energy_unit=…&position_unit=…`` says otherwise."""
    import torch
    from schnetpack.interfaces import SpkCalculator
    from schnetpack.transform import ASENeighborList

    cutoff = keywords.pop("cutoff", 5.0)
    defaults = {
        "neighbor_list": ASENeighborList(cutoff=cutoff),
        "energy_unit": "eV",
        "position_unit": "Ang",
        "device": device or "cpu",
        "dtype": getattr(torch, dtype or "float32"),
    }
    return SpkCalculator(path, **{**defaults, **keywords})


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("chgnet", _chgnet, "chgnet", "CHGNet 0.3.0, weights bundled; crystals", extra="chgnet"),
        Preset("7net-0", _sevennet("7net-0"), "sevenn", "SevenNet-0, weights bundled; crystals", extra="sevenn"),
        Preset("7net-l3i5", _sevennet("7net-l3i5"), "sevenn", "SevenNet-l3i5, weights bundled", extra="sevenn"),
        Preset("sevenn", _sevennet(""), "sevenn", "a SevenNet checkpoint", "<file>", "sevenn"),
        Preset("gfn2-xtb", _xtb("GFN2-xTB"), "tblite", "GFN2-xTB, exact physics", extra="tblite"),
        Preset("gfn1-xtb", _xtb("GFN1-xTB"), "tblite", "GFN1-xTB, exact physics", extra="tblite"),
        Preset("orb", _orb, "orb_models", "an Orb checkpoint", "<checkpoint>", "orb"),
        Preset("mace", _mace, "mace", "a MACE model", "<file>", "mace"),
        Preset("metatomic", _metatomic, "metatomic_ase", "PET, SOAP-BPNN, PET-MAD, …", "<file.pt>", "metatomic"),
        Preset("schnetpack", _schnetpack, "schnetpack", "a SchNetPack model", "<file>", "schnetpack"),
        Preset(
            "emt", _ase("ase.calculators.emt", "EMT"), "ase", "effective medium theory: Al Cu Ag Au Ni Pd Pt C N O H"
        ),
        Preset("lj", _ase("ase.calculators.lj", "LennardJones"), "ase", "Lennard-Jones"),
    )
}
