"""Calculators by name: presets, ``module:callable?key=value`` and ``path/to/file.py:callable?key=value``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from equiv_probe.errors import EquivProbeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

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


def make_calculator(spec: str, *, device: str | None = None, dtype: str | None = None) -> Calculator:
    """Make a calculator from its name.

    Args:
        spec: a preset (``chgnet``, ``7net-0``, ``gfn2-xtb``, ``orb:<checkpoint>``, …) or ``module:callable?key=value``;
            every form takes ``?key=value&key=value`` for further keywords.
        device: ``"cpu"``, ``"cuda"``, …; None leaves it to the package.
        dtype: ``"float32"`` or ``"float64"``; None leaves it to the package.

    Raises:
        EquivProbeError: unknown name, a package that is not installed, or an option the calculator does not take.
    """
    head, _, query = spec.partition("?")
    keywords = {key: _literal(value) for key, value in parse_qsl(query, keep_blank_values=True)}
    name, _, argument = head.partition(":")
    preset = PRESETS.get(head) or PRESETS.get(name)
    if preset is None or (argument and not preset.argument):
        if argument:
            return _from_callable(name, argument, device=device, dtype=dtype, keywords=keywords)
        raise EquivProbeError(
            f"calculator {spec!r}",
            f"a preset ({', '.join(p.name + (':' + p.argument if p.argument else '') for p in PRESETS.values())}), "
            "module:callable?key=value or file.py:callable",
            "equiv-probe doctor shows which presets are usable",
        )
    if not preset.installed:
        how = f"pip install 'equiv-probe[{preset.extra}]'" if preset.extra else f"pip install {preset.package}"
        raise EquivProbeError(f"no {preset.package}", f"{preset.package} for the preset {name!r}", how)
    if preset.argument and not argument:
        raise EquivProbeError(f"{spec!r}", f"{preset.name}:{preset.argument}")
    if argument and not Path(argument).exists():
        raise EquivProbeError(f"no file {argument}", f"{preset.name}:{preset.argument}")
    if dtype not in {None, "float32", "float64"}:
        raise EquivProbeError(f"--dtype {dtype}", "float32 or float64")
    with _explained(spec, device, dtype):
        return preset.make(argument or None, device, dtype, **keywords)


@contextmanager
def _explained(spec: str, device: str | None, dtype: str | None) -> Iterator[None]:
    """What a package raises on a wrong option, device or checkpoint, as an error that names what was asked for."""
    try:
        yield
    except EquivProbeError:
        raise
    except Exception as error:  # packages raise anything
        options = "".join(f" --{key} {value}" for key, value in (("device", device), ("dtype", dtype)) if value)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise EquivProbeError(f"{spec}{options}, of which no calculator could be made ({reason})") from error


def as_calculator(given: Calculator | str | Callable[[], Calculator]) -> Calculator:
    """A calculator as it is, one made by name, or one made by a factory.

    Raises:
        EquivProbeError: something else, or what :func:`make_calculator` raises.
    """
    from ase.calculators.calculator import BaseCalculator

    made: Any = make_calculator(given) if isinstance(given, str) else given
    if not isinstance(made, BaseCalculator) and not hasattr(made, "calculate"):
        if not callable(made):
            raise EquivProbeError(f"a {type(made).__name__} as calculator", "an ASE calculator, its name, or a factory")
        made = made()
    calculator: Calculator = made
    return calculator


def spec_fingerprint(spec: str) -> str:
    """A digest of the file that a calculator's name refers to (checkpoint or Python file); empty if to none."""
    head = spec.partition("?")[0]
    for part in (head, head.partition(":")[2], head.rpartition(":")[0]):
        if part and Path(part).is_file():
            with Path(part).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return ""


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def _from_callable(
    module: str, attribute: str, *, device: str | None, dtype: str | None, keywords: dict[str, Any]
) -> Calculator:
    with _explained(f"{module}:{attribute}", device, dtype):
        loaded = _load_file(Path(module)) if module.endswith(".py") else _load_module(module)
    made: Any = loaded
    for part in attribute.split("."):
        if not hasattr(made, part):
            raise EquivProbeError(f"no {attribute!r} in {module}", "a class or function that makes a calculator")
        made = getattr(made, part)
    if hasattr(made, "calculate") and not isinstance(made, type):  # a calculator that is already made
        if keywords or device or dtype:
            raise EquivProbeError(f"{module}:{attribute}, a calculator that is already made", "no options for it")
        ready: Calculator = made
        return ready
    accepted = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    for key, value in (("device", device), ("dtype", dtype)):
        if value is not None:
            if key not in accepted and not open_ended:
                raise EquivProbeError(
                    f"--{key} {value}", f"a {module}:{attribute} that takes {key}=", f"leave --{key} out"
                )
            keywords.setdefault(key, value)
    with _explained(f"{module}:{attribute}", device, dtype):
        made = made(**keywords)
    if not hasattr(made, "calculate"):
        raise EquivProbeError(f"{module}:{attribute}, which made a {type(made).__name__}", "an ASE calculator")
    calculator: Calculator = made
    return calculator


def _load_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a script's own module next to it
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EquivProbeError(f"module {name!r}, which cannot be imported ({error})", "an importable module") from error
    finally:
        sys.path.remove(str(Path.cwd()))


def _load_file(path: Path) -> ModuleType:
    if not path.exists():
        raise EquivProbeError(f"no file {path}", "a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # a path that ends in .py always has one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def _only(dtype: str | None, allowed: str, name: str) -> None:
    if dtype not in {None, allowed}:
        raise EquivProbeError(f"--dtype {dtype} for {name}", f"{allowed}, the only precision it works in")


def _only_cpu(device: str | None, name: str) -> None:
    if device not in {None, "cpu"}:
        raise EquivProbeError(f"--device {device} for {name}", "cpu, the only device it works on")


def _chgnet(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
    from chgnet.model.dynamics import CHGNetCalculator

    _only(dtype, "float32", "chgnet")
    calculator: Calculator = CHGNetCalculator(use_device=device or "cpu", **{"verbose": False, **keywords})
    return calculator


def _sevennet(model: str, file_type: str = "checkpoint") -> Callable[..., Calculator]:
    def make(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
        from sevenn.calculator import SevenNetCalculator

        _only(dtype, "float32", "SevenNet")
        calculator: Calculator = SevenNetCalculator(
            path or model, file_type=file_type, device=device or "auto", **keywords
        )
        return calculator

    return make


def _xtb(method: str) -> Callable[..., Calculator]:
    def make(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
        from tblite.ase import TBLite

        _only(dtype, "float64", method)
        _only_cpu(device, method)
        calculator: Calculator = TBLite(method=method, **{"verbosity": 0, **keywords})
        return calculator

    return make


def _ase(module: str, name: str) -> Callable[..., Calculator]:
    def make(_: None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
        _only(dtype, "float64", name)
        _only_cpu(device, name)
        calculator: Calculator = getattr(importlib.import_module(module), name)(**keywords)
        return calculator

    return make


def _orb(
    path: str | None, device: str | None, dtype: str | None, model: str | None = None, **keywords: Any
) -> Calculator:
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
    calculator: Calculator = ORBCalculator(loaded, device=device or "cpu", **keywords)
    return calculator


def _mace(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
    from mace.calculators import MACECalculator

    calculator: Calculator = MACECalculator(
        model_paths=path, device=device or "cpu", default_dtype=dtype or "float64", **keywords
    )
    return calculator


def _schnetpack(path: str | None, device: str | None, dtype: str | None, **keywords: Any) -> Calculator:
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
    calculator: Calculator = SpkCalculator(path, **{**defaults, **keywords})
    return calculator


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
        Preset("schnetpack", _schnetpack, "schnetpack", "a SchNetPack model", "<file>", "schnetpack"),
        Preset(
            "emt", _ase("ase.calculators.emt", "EMT"), "ase", "effective medium theory: Al Cu Ag Au Ni Pd Pt C N O H"
        ),
        Preset("lj", _ase("ase.calculators.lj", "LennardJones"), "ase", "Lennard-Jones"),
    )
}
