"""The labels that PyG's graphs carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.objectives import Objectives, label_free, labelled
from equiv_probe.messages import logger

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.schema.schema import Named, Schema
    from equiv_probe.schema.structures import Structures


class Labels:
    """What the outputs of a call are compared with: the labels in its graphs.

    Args:
        targets: as for :func:`equiv_probe_pyg.attach`.
        loss: as for :func:`equiv_probe_pyg.attach`.
    """

    def __init__(self, targets: Mapping[str, str] | str | None, loss: AnyLoss | Mapping[str, AnyLoss]) -> None:
        self._targets, self._loss = targets, loss
        self.found: dict[str, str] | None = None
        """The label of each output, from the first measurement on."""

    def __call__(
        self, inputs: Named, outputs: Mapping[str, Tensor], structures: Structures, schema: Schema
    ) -> Objectives:
        """The losses of one call; see :data:`equiv_probe.estimation.objectives.Evaluate`."""
        if self.found is None:
            self.found = self._find(inputs, outputs)
        # A call without labels (a prediction, a test set) is measured without.
        present = {output: name for output, name in self.found.items() if name in inputs or self._targets is not None}
        evaluate = labelled(present, self._loss) if present else label_free
        return evaluate(inputs, outputs, structures, schema)

    def _find(self, inputs: Named, outputs: Mapping[str, Tensor]) -> dict[str, str]:
        if isinstance(self._targets, Mapping):
            return dict(self._targets)
        if isinstance(self._targets, str):
            if len(outputs) != 1:
                raise EquivProbeError(
                    f"targets={self._targets!r} and outputs {sorted(outputs)}",
                    "the label of each output",
                    'attach(model, targets={"<output>": "<attribute>"})',
                )
            return {next(iter(outputs)): self._targets}
        found = {name: name for name, value in outputs.items() if _labels(inputs.get(name), value)}
        only = next(iter(outputs)) if len(outputs) == 1 else None
        if only is not None and not found and _labels(inputs.get("y"), outputs[only]):
            found = {only: "y"}
        if found:
            line = ", ".join(f'"{output}": "{name}"' for output, name in found.items())
            logger.info(f"equiv_probe takes labels from the graphs\n  to declare it: targets={{{line}}}")
        return found


def _labels(label: Any, value: Tensor) -> bool:
    """Whether a tensor could be the label of an output: as many numbers."""
    return isinstance(label, torch.Tensor) and label.is_floating_point() and label.numel() == value.numel()
