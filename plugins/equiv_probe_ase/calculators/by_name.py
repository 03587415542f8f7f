"""Calculators by name: presets, ``module:callable?key=value`` and ``path/to/file.py:callable?key=value``."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from equiv_probe.errors import EquivProbeError, in_one_line, missing_file, nearest
from equiv_probe_ase.calculators.loading import load
from equiv_probe_ase.calculators.presets import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ase.calculators.calculator import Calculator

WEIGHTS = {".pt", ".pth", ".pt2", ".ckpt", ".model", ".pkl", ".pb"}
A_NETWORK = "a calculator that calls it; or measure the network itself, with ep.Probe(network) or ep.twirl"


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
        close = nearest(name.lower(), PRESETS)
        if argument:
            if close and Path(argument).exists():
                raise EquivProbeError(f"calculator {spec!r}", f"a preset; did you mean {close}:{argument}?")
            found: Calculator = _from_callable(head, device=device, dtype=dtype, keywords=keywords)
            return found
        if Path(head).is_file():
            raise _only_a_file(spec)
        raise EquivProbeError(
            f"calculator {spec!r}",
            f"a preset ({', '.join(p.typed for p in PRESETS.values())}), module:callable?key=value or file.py:callable",
            (f"did you mean {PRESETS[close].typed}? " if close else "")
            + "equiv-probe doctor shows which presets are usable",
        )
    if not preset.installed:
        raise EquivProbeError(
            f"no {preset.package}", f"{preset.package} for the preset {name!r}", preset.how_to_install
        )
    if preset.argument and not argument:
        raise EquivProbeError(f"{spec!r}", preset.typed)
    if preset.takes_file and not Path(argument).exists():
        raise missing_file(argument, preset.typed)
    if dtype not in {None, "float32", "float64"}:
        raise EquivProbeError(f"--dtype {dtype}", "float32 or float64")
    with _explained(spec, device, dtype):
        return preset.make(argument or None, device, dtype, **keywords)


@contextlib.contextmanager
def _explained(spec: str, device: str | None, dtype: str | None) -> Iterator[None]:
    """What a package raises on a wrong option, device or checkpoint, as an error that names what was asked for."""
    try:
        yield
    except EquivProbeError:
        raise
    except Exception as error:  # packages raise anything
        options = "".join(f" --{key} {value}" for key, value in (("device", device), ("dtype", dtype)) if value)
        reason = in_one_line(error, 300)
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
            fix = A_NETWORK if hasattr(made, "forward") else ""
            raise EquivProbeError(
                f"a {type(made).__name__} as calculator", "an ASE calculator, its name, or a factory", fix
            )
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


def _only_a_file(spec: str) -> EquivProbeError:
    """A file where a calculator should be named: Python, weights, or else structures most likely."""
    path = Path(spec.partition("?")[0])
    names: list[str] = []
    if path.suffix == ".py":
        with contextlib.suppress(SyntaxError):
            defined = ast.parse(path.read_bytes()).body
            names = [node.name for node in defined if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        fix = " or ".join(f"{path}:{name}" for name in names[:3]) or f"{path}:name"
        return EquivProbeError(f"the file {path} as calculator", "the name in it of what makes one", fix)
    if path.suffix in WEIGHTS:
        typed = ", ".join(name + f":{path}" for name, one in PRESETS.items() if one.takes_file)
        return EquivProbeError(
            f"the file {path} as calculator",
            f"what reads it, too: {typed}",
            "for a model of your own, file.py:callable",
        )
    return EquivProbeError(f"the file {spec} as calculator", "a calculator, then structures", f"emt {spec}")


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(value.lower(), value)


def _loaded(where: str) -> Any:
    """What ``module:name`` stands for; of no such module, the preset that may have been meant."""
    try:
        return load(where)
    except EquivProbeError as error:
        name, _, argument = where.partition(":")
        close = nearest(name.lower(), PRESETS)
        if not (close and isinstance(error.__cause__, ModuleNotFoundError) and error.__cause__.name == name):
            raise
        raise EquivProbeError(error.found, error.expected, f"did you mean {close}:{argument}?") from error


def _from_callable(where: str, *, device: str | None, dtype: str | None, keywords: dict[str, Any]) -> Any:
    with _explained(where, device, dtype):
        made = _loaded(where)
    if hasattr(made, "calculate") and not isinstance(made, type):  # a calculator that is already made
        if keywords or device or dtype:
            raise EquivProbeError(f"{where}, a calculator that is already made", "no options for it")
        return made
    accepted = inspect.signature(made).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    for key, value in (("device", device), ("dtype", dtype)):
        if value is not None:
            if key not in accepted and not open_ended:
                raise EquivProbeError(f"--{key} {value}", f"a {where} that takes {key}=", f"leave --{key} out")
            keywords.setdefault(key, value)
    with _explained(where, device, dtype):
        made = made(**keywords)
    if not hasattr(made, "calculate"):
        fix = A_NETWORK if hasattr(made, "forward") else ""
        raise EquivProbeError(f"{where}, which made a {type(made).__name__}", "an ASE calculator", fix)
    return made
