"""Which inputs, outputs and targets of a model carry which representation, and how that was found out.

Evidence, strongest first: what the user declared, the names of the tensors, their shapes. What is only guessed carries
its reason and the line that would declare it; what is ambiguous is an error that shows that line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from equiv_probe.errors import EquivProbeError
from equiv_probe.messages import logger
from equiv_probe.representations.fixed import Fixed
from equiv_probe.representations.spelling import representation
from equiv_probe.rotations.drawing import rank
from equiv_probe.schema.inference import Assumption, infer

if TYPE_CHECKING:
    from equiv_probe.representations.representation import Representation

REST = "*"
"""In place of an input's name: all that are not named."""
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
        rest: ``ep.fixed``: no input rotates that is not named, and none is asked about; ``inputs={..., "*": ep.fixed}``
            says the same. None infers what the others are.

    Raises:
        EquivProbeError: a string that names no representation, or a rest that rotates.

    >>> print(Schema(inputs={"pos": "point"}, outputs={"energy": "scalar", "forces": "vector"}))
    Schema(inputs={"pos": ep.point}, outputs={"energy": ep.scalar, "forces": ep.vector})
    """

    inputs: Mapping[str, Representation]
    outputs: Mapping[str, Representation]
    targets: Mapping[str, Representation] = field(default_factory=dict)
    batch: str | None = None
    mask: str | None = None
    assumptions: tuple[Assumption, ...] = ()
    rest: Representation | None = None

    def __post_init__(self) -> None:
        if REST in self.inputs:
            object.__setattr__(self, "rest", self.inputs[REST])
            object.__setattr__(self, "inputs", {name: rep for name, rep in self.inputs.items() if name != REST})
        if self.rest is not None:
            object.__setattr__(self, "rest", representation(self.rest))
            if not isinstance(self.rest, Fixed):
                raise EquivProbeError(f"rest={self.rest}", "ep.fixed: what rotates is named", "rest=ep.fixed")
        for side in ("inputs", "outputs", "targets"):
            group = {name: representation(rep) for name, rep in getattr(self, side).items()}
            object.__setattr__(self, side, group)

    @classmethod
    def of(cls, given: Schema | Mapping[str, Any]) -> Schema:
        """A schema from what a file or a command line says: ``{"inputs": {"pos": "point"}, "outputs": {...}}``.

        Raises:
            EquivProbeError: another key.
        """
        known = {"inputs", "outputs", "targets", "batch", "mask", "rest"}
        if isinstance(given, Schema):
            return given
        if not isinstance(given, Mapping) or not set(given) <= known:
            raise EquivProbeError(f"schema={given!r}", f"a mapping with some of {sorted(known)}", "ep.Schema(...)")
        inputs, outputs, targets = (given.get(key) or {} for key in ("inputs", "outputs", "targets"))
        return cls(inputs, outputs, targets, batch=given.get("batch"), mask=given.get("mask"), rest=given.get("rest"))

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
        pending = given[0] if known.rest is None else {name: v for name, v in given[0].items() if name in known.inputs}
        found_inputs, found_outputs, assumptions = infer(pending, given[1], known.inputs, known.outputs)
        return replace(known, inputs=found_inputs, outputs=found_outputs, assumptions=assumptions)

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
        parts += [] if self.rest is None else [f"rest=ep.{self.rest}"]
        return f"Schema({', '.join(parts)})"


_ANNOUNCED: list[Schema] = []


def named(values: Any, names: list[str] | None = None) -> Named:
    """View a tensor, tuple or dict as tensors by name.

    Places become ``"0"``, ``"1"``, … or take ``names`` in order; those of a NamedTuple are called what its fields are.
    """
    if isinstance(values, Mapping):
        return dict(values)
    items = list(values) if isinstance(values, (tuple, list)) else [values]
    labels = list(getattr(values, "_fields", map(str, range(len(items)))))
    if names and len(names) == len(items) and not set(names) <= set(labels):
        labels = names
    return dict(zip(labels, items, strict=True))


def shown(name: str) -> str:
    """An output's name for people: that of a place in a tuple, which nobody named, says what it is.

    >>> shown("train/0"), shown("forces")
    ('train/output 0', 'forces')
    """
    before, slash, own = name.rpartition("/")
    return f"{before}{slash}output {own}" if own.isdigit() else name


def unnamed(values: Named, like: Any) -> Any:
    """Undo :func:`named`: put values back into the kind of container that ``like`` is."""
    if isinstance(like, Mapping):
        return values
    if isinstance(like, tuple) and hasattr(like, "_fields"):
        return type(like)(*values.values())
    if isinstance(like, (tuple, list)):
        return type(like)(values.values())
    return next(iter(values.values()))
