"""Calculators by name: presets, ``module:callable?key=value`` and ``path/to/file.py:callable?key=value``."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.calculators.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from ase.calculators.calculator import Calculator


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
            found: Calculator = _from_callable(name, argument, device=device, dtype=dtype, keywords=keywords)
            return found
        if Path(head).is_file():  # structures, most likely
            raise EquivProbeError(f"the file {spec} as calculator", "a calculator, then structures", f"emt {spec}")
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
    for attempt in (made, None):
        if isinstance(made, BaseCalculator) or (hasattr(made, "calculate") and not isinstance(made, type)):
            break
        if attempt is None or not callable(made) or hasattr(made, "forward"):  # a network is not a factory
            raise EquivProbeError(f"a {type(made).__name__} as calculator", "an ASE calculator, its name, or a factory")
        made = made()
    return made


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
) -> Any:
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
        return made
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
    return made


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
