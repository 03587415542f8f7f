"""Which inputs, outputs and targets of a model carry which representation, and how that was found out.

Evidence, strongest first: what the user declared, the names of the tensors, their shapes. What is only guessed carries
its reason and the line that would declare it; what is ambiguous is an error that shows that line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from equiv_probe.messages import logger
from equiv_probe.representations.spelling import representation
from equiv_probe.rotations.drawing import rank
from equiv_probe.schema.inference import Assumption, infer

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation

Named = dict[str, Any]
"""Tensors by name, in the model's own order."""


@dataclass(frozen=True)
class Schema:
    """Which inputs, outputs and targets of a model carry which representation, by name.

    Args:
        inputs: of every input that rotates; inputs that are not named are passed on as they are. Representations may
            be given as strings here and below, such as ``"vector"`` or ``"tensor(2)"``.
        outputs: of every output to be measured; outputs that are not named are ignored.
        targets: of targets that rotate otherwise than the output of the same name.
        batch: the input that holds, per node, the index of its structure (PyG's ``batch``), for the centroids.
        mask: the input ``(..., N)`` that is true where a dense batch holds an atom, for the centroids.
        assumptions: what was inferred, for print; made by :meth:`infer`.

    Raises:
        EquivProbeError: a string that names no representation.

    >>> print(Schema(inputs={"pos": "point"}, outputs={"energy": "scalar", "forces": "vector"}))
    Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
    """

    inputs: Mapping[str, Representation]
    outputs: Mapping[str, Representation]
    targets: Mapping[str, Representation] = field(default_factory=dict)
    batch: str | None = None
    mask: str | None = None
    assumptions: tuple[Assumption, ...] = ()

    def __post_init__(self) -> None:
        for side in ("inputs", "outputs", "targets"):
            group = {name: representation(rep) for name, rep in getattr(self, side).items()}
            object.__setattr__(self, side, group)

    @classmethod
    def infer(cls, inputs: Any, outputs: Any, declared: Schema | None = None) -> Schema:
        """Infer a schema from one evaluation.

        Args:
            inputs: of the model: tensor, tuple or dict.
            outputs: of the model for them.
            declared: a schema that already says part of it; what it says stands.

        Raises:
            EquivProbeError: nothing rotates, or a tensor could carry several representations.
        """
        known = declared or cls({}, {})
        given = named(inputs, list(known.inputs)), named(outputs, list(known.outputs))
        found_inputs, found_outputs, assumptions = infer(*given, known.inputs, known.outputs)
        return cls(found_inputs, found_outputs, known.targets, known.batch, known.mask, assumptions)

    def target(self, name: str) -> Representation:
        """How the target of output ``name`` rotates."""
        return self.targets.get(name, self.outputs[name])

    def announce(self) -> None:
        """Say, once per run and schema, what was assumed, why, and the line that would declare it."""
        if self.assumptions and self not in _ANNOUNCED and rank() == 0:
            _ANNOUNCED.append(self)
            lines = [*(f"  {assumption}" for assumption in self.assumptions), f"  to declare it: {self}"]
            logger.info("\n".join(["equiv_probe assumes", *lines]))

    def __str__(self) -> str:
        def line(group: Mapping[str, Representation]) -> str:
            return "{" + ", ".join(f'"{name}": ep.{rep}' for name, rep in group.items()) + "}"

        parts = [f"inputs={line(self.inputs)}", f"outputs={line(self.outputs)}"]
        parts += [f"targets={line(self.targets)}"] if self.targets else []
        parts += [f'{key}="{value}"' for key, value in (("batch", self.batch), ("mask", self.mask)) if value]
        return f"Schema({', '.join(parts)})"


_ANNOUNCED: list[Schema] = []


def named(values: Any, names: list[str] | None = None) -> Named:
    """View a tensor, tuple or dict as tensors by name; places become ``"0"``, ``"1"``, … or take ``names`` in order."""
    if isinstance(values, Mapping):
        return dict(values)
    items = list(values) if isinstance(values, (tuple, list)) else [values]
    labels = names if names and len(names) == len(items) else [str(i) for i in range(len(items))]
    return dict(zip(labels, items, strict=True))


def unnamed(values: Named, like: Any) -> Any:
    """Undo :func:`named`: put values back into the kind of container that ``like`` is."""
    if isinstance(like, Mapping):
        return values
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*values.values())
    if isinstance(like, (tuple, list)):
        return type(like)(values.values())
    return next(iter(values.values()))
