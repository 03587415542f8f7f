"""The interface of the layer that evaluates many structures, and the one place that brings results to ASE's form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from ase.calculators.calculator import PropertyNotImplementedError
from ase.stress import full_3x3_to_voigt_6_stress

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.structures.copying import copied

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from numpy.typing import NDArray

T = TypeVar("T")
PER_ATOM = frozenset({"forces", "energies", "stresses", "charges", "magmoms"})
"""Property names whose first axis runs over the atoms; every other property is one value per structure."""
SYMMETRIC = 1e-5
"""Of the largest component: less of an antisymmetric part is rounding."""


class Evaluator(ABC):
    """Evaluates structures with one calculator. Everything given in one call goes through the model in one pass.

    How many structures fit into a call is for the caller to decide: an evaluator neither chunks nor catches
    out-of-memory errors.
    """

    name: str
    """What a report calls it, for example ``"CHGNet, batched"``."""
    batched: bool
    """Whether several structures share a model pass."""
    note: str = ""
    """Why it is a loop, or empty."""
    cpu_atoms_per_call: int | None = None
    """About how many atoms of a dense crystal in one call are fastest on the CPU, as measured; None: not known.

    More atoms are never wrong, but once the tensors outgrow the allocator's cache (32 MiB each with glibc) every
    operation pays for fresh pages, and a larger batch becomes slower than a smaller one.
    """

    @abstractmethod
    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """Return the requested properties of every structure, as the calculator itself would give them.

        Nothing is moved: cells and positions reach the model as they are. Constraints do not act on the results (what
        is asked is what the model says, not what ASE lets move).

        Args:
            structures: at least one; any mix of sizes, compositions and boundary conditions; left unchanged.
            properties: ASE property names.

        Returns:
            One dict per structure with exactly ``properties``, float64, in ASE's units: energy and free_energy ``()``
            eV; energies ``(N,)`` eV; forces ``(N, 3)`` eV/Å; stress ``(6,)`` and stresses ``(N, 6)`` eV/Å³ in Voigt
            order xx yy zz yz xz xy, or ``(3, 3)`` and ``(N, 3, 3)`` where the model gives matrices that are not
            symmetric; dipole ``(3,)`` e·Å; charges ``(N,)`` e; magmom ``()`` and magmoms ``(N,)`` μB.

        Raises:
            MissingPropertyError: a requested property is not produced.
        """


class GraphEvaluator(Evaluator):
    """Makes a graph of every structure, as the calculator would, and gives all of them to the model together."""

    batched = True
    in_voigt = False
    """Whether the calculator makes six numbers of a stress: the symmetric part of the model's matrix."""

    def __init__(self, calculator: Calculator) -> None:
        self.calculator: Any = calculator

    @abstractmethod
    def graph(self, atoms: Atoms) -> Any:
        """What the calculator makes of a structure; it may keep or change what it is given."""

    @abstractmethod
    def outputs(self, graphs: Sequence[Any], asked: set[str]) -> dict[str, torch.Tensor]:
        """One pass over all graphs.

        Returns:
            By ASE's names, in ASE's units, what was asked for or more: structures along the first axis, or the atoms of
            all structures one after another. Where the graphs do not have what was asked for, it is left out.
        """

    def evaluate(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, NDArray[np.float64]]]:
        """See `Evaluator.evaluate`."""
        sizes, source = [len(atoms) for atoms in structures], type(self.calculator).__name__
        with gradients_enabled():
            columns = self.outputs([self.graph(copied(atoms)) for atoms in structures], set(properties))
        rows = split_batch(columns, sizes)
        pairs = zip(rows, sizes, strict=True)
        return [ase_results(row, properties, n, source, in_voigt=self.in_voigt) for row, n in pairs]


def in_groups(
    structures: Sequence[Atoms], key: Callable[[Atoms], Hashable], evaluate: Callable[[list[Atoms]], Iterable[T]]
) -> list[T]:
    """Evaluate structures of equal keys together; results in the order of the structures."""
    alike: dict[Hashable, list[int]] = {}
    for i, atoms in enumerate(structures):
        alike.setdefault(key(atoms), []).append(i)
    found: dict[int, T] = {}
    for chosen in alike.values():
        found |= zip(chosen, evaluate([structures[i] for i in chosen]), strict=True)
    return [found[i] for i in range(len(structures))]


def described(evaluator: Evaluator) -> str:
    """What a report says of an evaluator: its name, and why it is a loop."""
    return evaluator.name + (f" ({evaluator.note})" if evaluator.note else "")


class MissingPropertyError(EquivProbeError, PropertyNotImplementedError):  # type: ignore[misc]
    """Raised when a requested property is not produced: ASE's own error too, since ASE's callers look for that one."""


class CannotBatchError(Exception):
    """Raised when a batched evaluator is constructed for a calculator that it cannot serve; the message says why."""


@contextmanager
def gradients_enabled() -> Iterator[None]:
    """Let autograd forces work inside a caller's ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def ase_results(
    raw: Mapping[str, Any], properties: Sequence[str], n_atoms: int, source: str, *, in_voigt: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Pick the requested properties of one structure, in ASE's shapes and float64, as copies.

    Args:
        raw: results by property name, as a calculator stores them; stress may be ``(6,)``, ``(3, 3)``, ``(9,)`` or
            ``(1, 6)``.
        properties: the names asked for.
        n_atoms: number of atoms ``N``.
        source: the calculator's name, for the error.
        in_voigt: whether the calculator makes six numbers of a stress, even of one that is not symmetric.

    Raises:
        MissingPropertyError: a property is missing or None.
        EquivProbeError: a property is not of the shape its name promises.
    """
    missing = [name for name in properties if raw.get(name) is None]
    if missing:
        produced = sorted(name for name, value in raw.items() if value is not None)
        raise MissingPropertyError(
            f"no {', '.join(missing)} in the results of {source}",
            f"one of what it produces: {', '.join(produced) or 'nothing'}",
            "pass properties=[...] with these only",
        )
    return {name: _in_ase_shape(name, raw[name], n_atoms, source, in_voigt=in_voigt) for name in properties}


def split_batch(outputs: Mapping[str, torch.Tensor], sizes: Sequence[int]) -> list[dict[str, NDArray[Any]]]:
    """Cut batched model outputs into structures: ``(ΣN, …)`` for per-atom names, ``(B, …)`` for the others."""
    columns = {}
    for name, values in outputs.items():
        array = values.detach().cpu().numpy()
        ends = np.cumsum(sizes)[:-1]
        columns[name] = np.split(array, ends) if name in PER_ATOM else array.reshape(len(sizes), *array.shape[1:])
    return [{name: column[i] for name, column in columns.items()} for i in range(len(sizes))]


def _in_ase_shape(name: str, value: Any, n_atoms: int, source: str, *, in_voigt: bool) -> NDArray[np.float64]:
    array = np.array(value, dtype=np.float64)
    if name == "stress":
        array = array.squeeze()
    if name in {"stress", "stresses"} and array.shape[-1:] == (9,):
        array = array.reshape(*array.shape[:-1], 3, 3)
    if name in {"stress", "stresses"} and array.shape[-2:] == (3, 3) and (in_voigt or _is_symmetric(array)):
        array = np.asarray(full_3x3_to_voigt_6_stress(array), dtype=np.float64)
    tensor = (3, 3) if array.shape[-2:] == (3, 3) else (6,)
    if name in {"energy", "free_energy", "magmom"} and array.size == 1:
        array = array.reshape(())
    expected = {
        "energy": (),
        "free_energy": (),
        "forces": (n_atoms, 3),
        "stress": tensor,
        "stresses": (n_atoms, *tensor),
    }
    wanted = expected.get(name, (n_atoms, *array.shape[1:]) if name in PER_ATOM else array.shape)
    if array.shape != wanted:
        raise EquivProbeError(f"{name} of shape {array.shape} in the results of {source}", f"shape {wanted}")
    return array


def _is_symmetric(matrices: NDArray[np.float64]) -> bool:
    """Whether what matrices ``(..., 3, 3)`` have of an antisymmetric part is rounding, in single precision too.

    Those of NaN, as of molecules that have no stress, are as symmetric as the model's own call makes them.
    """
    antisymmetric = np.abs(matrices - matrices.swapaxes(-1, -2)).max(initial=0.0)
    return not bool(antisymmetric > SYMMETRIC * np.abs(matrices).max(initial=0.0))
