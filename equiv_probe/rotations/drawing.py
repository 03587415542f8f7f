"""Drawing a plan's rotations: by a generator of their own, for each structure on its own, on every rank others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.rotations.plan import RotationPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def rank() -> int:
    """This process's number among those that train together, so that each draws its own rotations."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def draw(plan: RotationPlan, generator: torch.Generator, structures: int | None) -> Tensor:
    """A plan's rotations on the generator's device, ``(R, n, 3, 3)``, or ``(R, n, U, 3, 3)`` for U structures."""
    if structures is None or not plan.is_random:
        shared = plan.rotations(generator).to(generator.device, non_blocking=True)
        return shared if structures is None else shared[:, :, None].expand(-1, -1, structures, -1, -1)
    if structures == 0:
        raise EquivProbeError("an empty batch", "at least one structure")
    return plan.draws(structures, generator).movedim(0, 2)


class RotationSource:
    """Rotations from a generator of its own, which lives where the tensors do, so that nothing needs copying.

    Args:
        seed: of the generator; every rank of a distributed run has another.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: torch.Generator | None = None

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator; a new one where the device has changed."""
        if self._generator is None or self._generator.device.type != device.type:
            self._generator = own_generator(self.seed, rank(), device)
        return self._generator

    def draw(
        self, plan: RotationPlan, inputs: Mapping[str, Any], structures: int | None, first: Tensor | None = None
    ) -> Tensor:
        """A plan's rotations for one call, where its inputs are; as :func:`draw`.

        ``first`` are rotations ``(U, 3, 3)`` in the place of the first replicate's, where they are given already.
        """
        device = next((v.device for v in inputs.values() if isinstance(v, torch.Tensor)), torch.device("cpu"))
        rotations = draw(plan, self.generator(device), structures)
        if device.type != "mps":  # which has no float64
            rotations = rotations.to(device, non_blocking=True)
        return rotations if first is None else torch.cat([first[None, None].to(rotations), rotations[1:]])

    def state(self) -> Tensor | None:
        """The state for a checkpoint."""
        return None if self._generator is None else self._generator.get_state()

    def restore(self, state: Tensor | None, device: torch.device) -> None:
        """Undo :meth:`state`."""
        if state is not None:
            self._generator = own_generator(self.seed, rank(), device)
            self._generator.set_state(state)


def own_generator(seed: int, process: int, device: torch.device) -> torch.Generator:
    """A generator that nobody else draws from: on the GPU for tensors there, so that rotations need no copying."""
    return _generator(seed, device, process, 3)


def source(seed: int, measurement: int, device: torch.device) -> torch.Generator:
    """A generator for one measurement of this process, by the measurement's number: there is no state to keep."""
    return _generator(seed, device, rank(), 4, measurement)


def _generator(seed: int, device: torch.device, *key: int) -> torch.Generator:
    state = RotationPlan("haar", seed=seed).generator(*key).initial_seed()
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(state)
