"""Which evaluator serves which calculator, decided by class name so that no model package is imported for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators.evaluator import CannotBatchError, Evaluator
from equiv_probe_ase.evaluators.loop import BatchMethodEvaluator, LoopEvaluator

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

_WHERE = "equiv_probe_ase.evaluators"
_EVALUATORS = {
    "aimnet.calculators.aimnet2ase.AIMNet2ASE": f"{_WHERE}.aimnet:AimnetEvaluator",
    "chgnet.model.dynamics.CHGNetCalculator": f"{_WHERE}.chgnet:CHGNetEvaluator",
    "deepmd.calculator.DP": f"{_WHERE}.deepmd:DeepmdEvaluator",
    "fairchem.core.calculate.ase_calculator.FAIRChemCalculator": f"{_WHERE}.fairchem:FairchemEvaluator",
    "mace.calculators.mace.MACECalculator": f"{_WHERE}.mace:MaceEvaluator",
    "matgl.ext.ase.PESCalculator": f"{_WHERE}.matgl:MatglEvaluator",
    "mattersim.forcefield.potential.MatterSimCalculator": f"{_WHERE}.mattersim:MatterSimEvaluator",
    "metatomic_ase._calculator.MetatomicCalculator": f"{_WHERE}.metatomic:MetatomicEvaluator",
    "nequip.integrations.ase.NequIPCalculator": f"{_WHERE}.nequip:NequIPEvaluator",
    "orb_models.forcefield.calculator.ORBCalculator": f"{_WHERE}.orb:OrbEvaluator",
    "orb_models.forcefield.inference.calculator.ORBCalculator": f"{_WHERE}.orb:OrbEvaluator",
    "schnetpack.interfaces.ase_interface.SpkCalculator": f"{_WHERE}.schnetpack:SpkEvaluator",
    "sevenn.calculator.SevenNetCalculator": f"{_WHERE}.sevenn:SevenNetEvaluator",
    "torchani.ase.Calculator": f"{_WHERE}.torchani:TorchANIEvaluator",
}

_LOOPS = {
    "tblite.ase.TBLite": "tblite solves one structure at a time",
}


def register_evaluator(calculator: str, evaluator: str) -> None:
    """Let a batched evaluator serve a calculator class and those of its subclasses that do not override ``calculate``.

    Args:
        calculator: ``"module.ClassName"``, by the module that defines the class, not one that re-exports it.
        evaluator: ``"importable.path:EvaluatorClass"``, imported when the first such calculator is met and called with
            the calculator. Its constructor may raise `CannotBatchError`, AttributeError or ImportError to decline.

    Raises:
        EquivProbeError: a name is not of that form.
    """
    if "." not in calculator:
        raise EquivProbeError(f"calculator={calculator!r}", "'module.ClassName'")
    if evaluator.count(":") != 1:
        raise EquivProbeError(f"evaluator={evaluator!r}", "'importable.path:EvaluatorClass'")
    _EVALUATORS[calculator] = evaluator


def evaluator_for(calculator: Calculator, *, batched: bool = True) -> Evaluator:
    """Return the evaluator that needs the fewest model passes for this calculator.

    In this order: the calculator's own ``calculate_batch``; a registered evaluator of its class or of the nearest
    ancestor; a loop. A subclass (or an instance) that replaces ``calculate`` may compute something else than its
    ancestor, so the ancestor's evaluator does not serve it.

    Args:
        calculator: any ASE calculator.
        batched: ``False`` asks for the loop, which calls the calculator exactly as a user would.

    Returns:
        The evaluator; `Evaluator.note` says why when it is a loop.
    """
    if not batched:
        return LoopEvaluator(calculator, "one call per structure was asked for")
    if callable(getattr(calculator, "calculate_batch", None)):
        return BatchMethodEvaluator(calculator)
    known, reason = _registered_name(calculator)
    if known is None:
        return LoopEvaluator(calculator, reason)
    module, _, attribute = known.partition(":")
    try:
        evaluator: Evaluator = getattr(import_module(module), attribute)(calculator)
    except CannotBatchError as why:
        return LoopEvaluator(calculator, str(why))
    except (AttributeError, ImportError) as why:
        changed = f"{attribute} does not fit the installed package ({type(why).__name__}: {why})"
        return LoopEvaluator(calculator, changed)
    return evaluator


def _registered_name(calculator: Calculator) -> tuple[str | None, str]:
    """Return the import path of the evaluator for a calculator, or None and why there is none."""
    replaced = {"calculate", "get_property"} & vars(calculator).keys()
    if replaced:
        return None, f"{', '.join(sorted(replaced))} was replaced on this calculator object"
    for cls in type(calculator).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name in _EVALUATORS:
            return _EVALUATORS[name], ""
        if name in _LOOPS:
            return None, _LOOPS[name]
        if {"calculate", "get_property"} & vars(cls).keys():
            return None, f"no batched evaluation is known for {name}.calculate; register_evaluator adds one"
    return None, f"no batched evaluation is known for {type(calculator).__name__}"
