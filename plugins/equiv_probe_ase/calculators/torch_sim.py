"""Any model of torch-sim as a calculator that takes batches: ``torchsim:module:callable``."""

from __future__ import annotations

import inspect
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes

from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.evaluators.engine import GPU_ATOMS_PER_CALL
from equiv_probe_ase.evaluators.evaluator import PER_ATOM, in_groups, split_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ase import Atoms

GIVEN = ("energy", "forces", "stress", "energies", "stresses", "charges", "magmoms", "dipole")
"""Outputs of a torch-sim model that ASE has a name for: the same name."""


class TorchSimCalculator(Calculator):  # type: ignore[misc]
    """One or many structures through a torch-sim model, which does its own batching.

    Structures of one kind of periodicity go through the model together: a torch-sim state has one. On a GPU torch-sim's
    ``BinningAutoBatcher`` packs them into passes that fit into memory; it finds out how much fits at the first call.

    Args:
        model: a ``torch_sim.models.interface.ModelInterface``.
        max_memory_scaler: atoms, or atoms times density in 1000/Å³ (as the model's ``memory_scales_with`` says), that
            go into one pass; None measures it on a GPU, and puts all into one pass on a CPU.
    """

    def __init__(self, model: Any, max_memory_scaler: float | None = None) -> None:
        super().__init__()
        missing = [name for name in ("device", "dtype", "compute_forces", "parameters") if not hasattr(model, name)]
        if missing:
            found = f"a {type(model).__name__} without {missing[0]}"
            raise EquivProbeError(found, "a ModelInterface of torch-sim")
        self.model: Any = model
        self.max_memory_scaler = max_memory_scaler
        self._limits: dict[str, float] = {}
        floats = {model.dtype, *(p.dtype for p in model.parameters() if p.is_floating_point())}
        self.dtype: torch.dtype = min(floats, key=lambda dtype: torch.finfo(dtype).bits)
        per_output = {"forces": model.compute_forces, "stress": model.compute_stress}
        self.implemented_properties = ["energy", "free_energy", *(name for name, has in per_output.items() if has)]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate one structure, all that the model gives."""
        super().calculate(atoms, properties, system_changes)
        self.results = self.calculate_batch([self.atoms], properties)[0]

    def calculate_batch(self, structures: Sequence[Atoms], properties: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Evaluate structures together, in order; all that the model gives, whatever is asked for.

        Raises:
            EquivProbeError: the installed torch-sim has no such periodicity, as 0.3 has no slabs.
        """
        del properties
        return in_groups(structures, lambda atoms: tuple(atoms.pbc), self._evaluated)

    def _evaluated(self, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
        from torch_sim.io import atoms_to_state

        state = atoms_to_state(list(structures), self.model.device, self.model.dtype)
        wanted = structures[0].pbc
        if not (np.broadcast_to(np.asarray(state.pbc), 3) == wanted).all():
            raise EquivProbeError(
                f"periodicity {'/'.join(map(str, wanted))}",
                "all or none, which is what the installed torch-sim knows",
                "atoms.pbc = True with vacuum between the slabs, or a newer torch-sim-atomistic",
            )
        found: dict[int, dict[str, Any]] = {}
        for part, indices in self._passes(state):
            if hasattr(self.model, "setup_from_system_idx"):  # MACE's memory of its last batch knows no sizes
                self.model.setup_from_system_idx(part.atomic_numbers, part.system_idx)
            sizes = [len(structures[i]) for i in indices]
            found |= zip(indices, self._results(self.model(part), sizes), strict=True)
        return [found[i] for i in range(len(structures))]

    def _passes(self, state: Any) -> Iterable[tuple[Any, Sequence[int]]]:
        """States that fit into memory, each with the places of its structures."""
        # Without a cell there is no density.
        scales_with = self.model.memory_scales_with if np.asarray(state.pbc).any() else "n_atoms"
        limit = self._limits.get(scales_with, self.max_memory_scaler)
        if limit is None and self.model.device.type == "cpu":
            return [(state, range(state.n_systems))]
        from torch_sim.autobatching import BinningAutoBatcher, calculate_memory_scaler

        parts = state.split()
        if limit is not None:  # what does not fit is for the model to say
            limit = max(limit, *(calculate_memory_scaler(one, scales_with) for one in parts), 0.0)
        most = GPU_ATOMS_PER_CALL // min(one.n_atoms for one in parts) + 1
        batcher = BinningAutoBatcher(
            self.model,
            memory_scales_with=scales_with,
            max_memory_scaler=limit,
            max_atoms_to_try=most,  # of these structures: more never come in one call
            return_indices=True,
        )
        with redirect_stdout(sys.stderr):  # it prints what it tries
            self._limits[scales_with] = batcher.load_states(parts)
        passes: Iterable[tuple[Any, Sequence[int]]] = batcher
        return passes

    def _results(self, outputs: dict[str, torch.Tensor], sizes: Sequence[int]) -> list[dict[str, Any]]:
        known = {name: outputs[name] for name in GIVEN if outputs.get(name) is not None}
        for name, values in known.items():
            expected = sum(sizes) if name in PER_ATOM else len(sizes)
            if len(values) != expected:
                raise EquivProbeError(
                    f"{name} of shape {tuple(values.shape)} from {type(self.model).__name__}",
                    f"{expected} in the first dimension",
                )
        rows = split_batch(known, sizes)
        return [row | {"free_energy": row["energy"]} for row in rows]


def from_callable(make: Callable[..., Any], device: str | None, dtype: str | None, **keywords: Any) -> Any:
    """A calculator from what makes a torch-sim model; forces and stress are computed unless an option says no.

    Args:
        make: a class or function; an option is passed on if it takes one of that name.
        device: such as ``"cuda"``; None leaves it to the callable.
        dtype: ``"float32"`` or ``"float64"``; None leaves it to the callable.
        keywords: for the callable; ``max_memory_scaler`` is for :class:`TorchSimCalculator`.
    """
    takes = inspect.signature(make).parameters
    scaler = keywords.pop("max_memory_scaler", None)
    keywords = {name: True for name in ("compute_forces", "compute_stress") if name in takes} | keywords
    options = {"device": device and torch.device(device), "dtype": dtype and getattr(torch, dtype)}
    for name, value in options.items():
        if value is not None:
            if name not in takes:
                raise EquivProbeError(f"--{name} {value}", f"a callable that takes {name}=", f"leave --{name} out")
            keywords[name] = value
    return TorchSimCalculator(make(**keywords), scaler)
