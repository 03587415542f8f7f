"""What a calculator can do, in which precision, and on which device."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError, in_one_line
from equiv_probe_ase.evaluators import evaluator_for
from equiv_probe_ase.evaluators.engine import ATOMS_PER_CALL, GPU_ATOMS_PER_CALL, Engine
from equiv_probe_ase.evaluators.loop import with_wrapped
from equiv_probe_ase.structures.control_copies import ControlCopies
from equiv_probe_ase.structures.quantities import Quantity, applies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

    from equiv_probe_ase.evaluators import Evaluator
    from equiv_probe_ase.structures.loading import Structure

    Results = dict[str, NDArray[np.float64]]

FEW_BITS = 16
"""Digits in base two that neither rounding errors nor numbers that somebody wrote down need."""


def trial(
    evaluator: Evaluator, chosen: Mapping[str, Quantity], structures: Sequence[Structure]
) -> tuple[dict[str, Quantity], Results]:
    """What a calculator really gives: some list properties that they never compute.

    The first of the smallest few structures that can be evaluated at all, and has the property, decides.

    Returns:
        The quantities that it gave or that could not be tried, and the values that it gave.
    """
    smallest = sorted(structures, key=lambda s: len(s.atoms))
    crystals = [structure for structure in smallest if structure.atoms.pbc.all()]  # only they have a stress
    tried: set[str] = set()
    given: Results = {}
    for structure in (*smallest[:5], *crystals[:5]):
        fresh = [n for n, q in chosen.items() if n not in tried and applies(q, structure.atoms, asked=False)]
        # What was given before comes along: it tells a structure that fails from a property that is not there.
        found = _given(evaluator, structure.atoms, [*given, *fresh]) if fresh else {}
        if found:
            tried.update(fresh)
            given = found | given
    return {name: quantity for name, quantity in chosen.items() if name in given or name not in tried}, given


def _given(evaluator: Evaluator, atoms: Atoms, names: Sequence[str]) -> Results:
    """As many of the properties as an evaluator gives, together or one by one."""
    found: Results = {}
    for together in (names, *([name] for name in names)):
        try:
            found |= evaluator.evaluate([atoms], together)[0]
        except (Exception, SystemExit):  # the reason comes up again, and is reported, when the structure is measured
            continue
        if len(found) == len(names):
            break
    return found


def left_out(evaluator: Evaluator, dropped: Mapping[str, Quantity], structures: Sequence[Structure]) -> dict[str, str]:
    """Why properties that a calculator lists cannot be read; nothing of those that it never computes."""
    found = {}
    smallest = sorted((one for one in structures if len(one.atoms)), key=lambda one: len(one.atoms))
    for name, quantity in dropped.items():
        structure = next((one for one in smallest if applies(quantity, one.atoms, asked=False)), None)
        try:
            if structure is not None:
                evaluator.evaluate([structure.atoms], [name])
        except NotImplementedError:  # of ASE too: properties that are listed and not computed
            continue
        except (Exception, SystemExit) as error:
            found[name] = in_one_line(error)
    return found


def at_deformed(evaluator: Evaluator, sample: Results, structures: Sequence[Structure]) -> Results:
    """The same properties at a deformed copy of the smallest structure, whose digits say how numbers are stored.

    In a perfect crystal forces are rounding errors of larger numbers, and those need few digits. Where nothing can be
    deformed or evaluated, the sample itself.
    """
    for structure in sorted(structures, key=lambda s: len(s.atoms))[:5]:
        copies = ControlCopies(structure.atoms, (0, structure.seed))
        if not (copies.deforms and len(structure.atoms)):
            continue
        generic = copies.deformed()
        generic.rotate(33.0, (1, 2, 3), rotate_cell=True)  # along an axis two atoms have but two different forces
        found = _given(evaluator, generic, list(sample))
        if found:
            return found
    return sample


def engine_for(calculator: Calculator, *, batched: bool, atoms_per_call: int | None) -> Engine:
    """An engine for a calculator.

    Args:
        calculator: not copied.
        batched: False calls it once per structure even if its model takes batches.
        atoms_per_call: most atoms in one model pass; None takes what was measured to be fast on the CPU, and as many as
            fit elsewhere.

    Raises:
        EquivProbeError: no atoms in a pass.
    """
    if atoms_per_call is not None and not atoms_per_call > 0:
        raise EquivProbeError(f"atoms_per_call={atoms_per_call}", "a positive number")
    evaluator = evaluator_for(calculator, batched=batched)
    on_gpu = any(p.device.type != "cpu" for module in _modules(calculator) for p in module.parameters())
    suits = GPU_ATOMS_PER_CALL if on_gpu else evaluator.cpu_atoms_per_call or ATOMS_PER_CALL
    return Engine(evaluator, atoms_per_call or suits)


def _modules(calculator: object) -> list[torch.nn.Module]:
    """The torch modules that a calculator, or one that it wraps, holds alone or in lists."""
    held = [value for current in with_wrapped(calculator) for value in vars(current).values()]
    single = [v for value in held for v in (value if isinstance(value, list | tuple) else [value])]
    return [value for value in single if isinstance(value, torch.nn.Module)]


def weights_digest(calculator: object) -> str:
    """A digest of parameters and buffers of the torch modules that a calculator holds; empty if it holds none."""
    digest = hashlib.sha256()
    parameters = [
        item for module in _modules(calculator) for item in (*module.named_parameters(), *module.named_buffers())
    ]
    for name, parameter in parameters:
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16] if parameters else ""


def draws_anew(calculator: object) -> bool:
    """Whether it, or one that it wraps, draws rotations of its own at every call, as a TwirledCalculator may."""
    return any(getattr(current, "redraw", False) is True for current in with_wrapped(calculator))


def model_precision(calculator: object, results: Mapping[str, NDArray[np.float64]] | None = None) -> torch.dtype:
    """The precision a calculator works in.

    From its own ``dtype``, from the parameters of a torch module it holds, else from its results at one structure:
    numbers that are all exactly representable in float32 were computed in it.
    """
    declared = [getattr(current, "dtype", None) for current in with_wrapped(calculator)]
    own = next((dtype for dtype in declared if isinstance(dtype, torch.dtype)), None)
    if own is not None:
        return own
    floats = [p.dtype for module in _modules(calculator) for p in module.parameters() if p.is_floating_point()]
    if floats:
        return floats[0]
    for name in ("forces", "energies", "energy"):
        values = (results or {}).get(name)
        if values is not None and len(np.unique(values)) >= 6:  # one number may be a float32 by chance
            return stored_precision(values)
    few = np.concatenate([np.ravel(values) for values in (results or {}).values()] or [np.zeros(0)])
    # As of one atom: one number that needs more digits than rounding errors or round numbers do tells as much.
    needs_digits = bool((np.frexp(few)[0] * 2**FEW_BITS % 1 != 0).any())
    return stored_precision(few) if needs_digits else torch.float64


def stored_precision(values: NDArray[np.float64]) -> torch.dtype:
    """The precision that numbers were rounded to last: float32 if all of them are exactly representable in it."""
    return torch.float32 if np.array_equal(values.astype(np.float32), values) else torch.float64
