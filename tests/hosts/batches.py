"""A package's models by the names that ``equiv-probe audit`` takes, in batches and one structure at a time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from equiv_probe_ase.calculators.by_name import make_calculator
from equiv_probe_ase.evaluators import LoopEvaluator, evaluator_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def structures(*, boxed: bool = False, copies: int = 2, salt: str = "NaCl") -> list[Any]:
    """Ethanol, free or in a box, and two sizes of a rattled rock salt of these two elements, each at some rotations."""
    from ase.build import bulk, molecule
    from scipy.spatial.transform import Rotation

    ethanol = molecule("CH3CH2OH")
    if boxed:
        ethanol.set_cell([12, 13, 14])
        ethanol.pbc = True
    found = []
    cell = bulk(salt, "rocksalt", 5.64)
    for seed, atoms in enumerate((ethanol, cell * (2, 2, 2), cell)):
        atoms.rattle(0.05, seed=seed)
        for rotate in Rotation.random(copies, random_state=seed).as_matrix():
            copy = atoms.copy()
            copy.set_cell(copy.cell.array @ rotate.T)
            copy.positions = copy.positions @ rotate.T
            found.append(copy)
    return found


def deviations(found: Sequence[Any], expected: Sequence[Any]) -> dict[str, float]:
    """By property: the largest difference, relative to the largest component of all structures."""
    worst = {}
    for name in expected[0]:
        pairs = [(one[name], other[name]) for one, other in zip(found, expected, strict=True)]
        size = max(float(np.abs(other).max()) for _, other in pairs)
        worst[name] = max(float(np.abs(one - other).max()) for one, other in pairs) / size
    return worst


def batch_is_loop(
    spec: str,
    given: Sequence[Any],
    *,
    tolerance: float,
    network: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Any:
    """A batch says what single calls say, to a relative tolerance; the calculator. Seconds and deviations are printed.

    Args:
        spec: as on the command line.
        given: structures, the first two of which are rotated copies of one.
        tolerance: of :func:`deviations`.
        network: of a calculator, whose calls are counted; None does not count.
        options: device and dtype.
    """
    calculator = make_calculator(spec, **options)
    batch, loop = evaluator_for(calculator), LoopEvaluator(calculator)
    assert batch.batched, batch.note
    crystals = [atoms for atoms in given if atoms.pbc.all()]
    forces = ["energy", "forces"]
    for some, names in ((given, ["energy"]), (crystals, [*forces, "stress"]), (given, forces)):
        together, alone = (_evaluated(one, some, names, network and network(calculator)) for one in (batch, loop))
        worst = deviations(together[0], alone[0])
        print(f"{spec}, {len(some)} structures: batch {together[1]}; loop {alone[1]}; largest deviations {worst}")
        assert worst.keys() == set(names)
        assert all(value <= tolerance for value in worst.values()), worst
    # Negative control: the second structure is a rotated copy of the first, with its energy but not its forces.
    assert deviations(together[0][:1], alone[0][1:2])["forces"] > 1e3 * tolerance
    return calculator


def _evaluated(evaluator: Any, given: Sequence[Any], names: list[str], network: Any) -> tuple[list[Any], str]:
    """Results, and in words how many calls and seconds they took."""
    for _ in range(2):
        evaluator.evaluate(given, names)  # what is compiled or loaded at the first call
    with counted(network) as calls:
        began = time.perf_counter()
        found = evaluator.evaluate(given, names)
        seconds = time.perf_counter() - began
    return found, f"{len(calls)} calls, {seconds:.3f} s" if network is not None else f"{seconds:.3f} s"


@contextmanager
def counted(network: Any) -> Iterator[list[None]]:
    """A list that grows by one at every call of a module."""
    calls: list[None] = []
    if network is None:
        yield calls
        return
    handle = network.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()
