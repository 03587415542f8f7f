"""A callable with its input and schema, evaluated at rotated copies of the input."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.orbit.input_centers import InputCenters
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.orbit.rounding import perturbed, perturbed_weights
from equiv_probe.representations.representation import Fixed
from equiv_probe.schema.batch_layout import atoms_of, beside, resolve_batch
from equiv_probe.schema.grid_plans import exact_grids
from equiv_probe.schema.inference import require_nothing_hidden
from equiv_probe.schema.schema import Schema, named, unnamed
from equiv_probe.schema.translation import settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from equiv_probe.representations.representation import Representation


class RotatedModel:
    """A callable with its input and schema: evaluates rotated copies and rotates the outputs back."""

    def __init__(
        self,
        predict: Callable[[Any], Any],
        inputs: Any,
        schema: Schema | None,
        center: str | Tensor = "centroid",
        *,
        precision: torch.dtype | None = None,
        stacked: bool = False,
    ) -> None:
        self.predict, self.like, self.stacked, self.precision = predict, inputs, stacked, precision
        self.evaluations = 0
        self.is_about_centroid = isinstance(center, str) and center == "centroid"
        self.floating: dict[str, torch.dtype] = {}
        """Outputs that are floating-point numbers as the model gives them, and in which precision."""
        self.varying: set[str] = set()
        """Outputs that were not the same to the last bit at all rotations, before they are rotated back."""
        self._own: dict[str, Tensor] = {}
        self._perturbing: torch.Generator | None = None
        given = named(inputs, list(schema.inputs) if schema else None)
        self.arrays = {name for name, value in given.items() if isinstance(value, np.ndarray)}
        tensors = {name: torch.as_tensor(v) if name in self.arrays else v for name, v in given.items()}
        self.inputs = tensors
        if schema is None:
            first = _tensors(named(predict(inputs)))
            self.evaluations += 1
            schema = resolve_batch(Schema.infer(unnamed(tensors, inputs), first), tensors)
            if center != "origin":
                schema = settled(schema, tensors, self._named_outputs)
            schema.announce()
        else:
            require_nothing_hidden(tensors, schema.inputs, {*schema.outputs, *schema.targets})
        self.schema = schema
        for name in (*schema.inputs, schema.batch, schema.mask):
            if name is not None and name not in tensors:
                raise EquivProbeError(
                    f"inputs {sorted(tensors)}", f"the schema's input {name!r}", "Schema(inputs={...})"
                )
        for name, representation in schema.inputs.items():
            if representation.event_shape and tensors[name].numel() == 0:
                raise EquivProbeError(
                    f"an empty input {name!r} of shape {tuple(tensors[name].shape)}", "a structure with atoms"
                )
        if schema.mask is None and any(rep.is_affine for rep in schema.inputs.values()):
            self.schema = schema = replace(schema, mask=resolve_batch(schema, tensors).mask)
        points = next((tensors[name] for name, rep in schema.inputs.items() if rep.is_affine), None)
        self._atoms = atoms_of(points, tensors[schema.mask] if schema.mask else None)
        self.centers = InputCenters.of(self.inputs, self.schema, center)
        self._own = self.unrotated()
        self.identity = {n: self.schema.outputs[n].within(v[0]) for n, v in self._own.items()}

    def _named_outputs(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """All outputs for some inputs, by name."""
        self.evaluations += 1
        return _tensors(named(self._predict({n: v.clone() if torch.is_tensor(v) else v for n, v in tensors.items()})))

    def unrotated(self) -> dict[str, Tensor]:
        """Raw outputs at the input itself, to the last bit, ``(1, *S)`` by output; at what of a grid is in its ball."""
        return next(in_chunks(lambda _a, _b: self._call(None), 1, 1))

    def rotated_back(self, rotations: Tensor, displaced: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """``h_g`` for rotations ``(C, 3, 3)``, ``(C, *S)`` by output; of inputs to which something is added first."""
        found = {}
        for name, value in self.at(self.rotated(rotations, displaced=displaced), len(rotations)).items():
            known = displaced is not None or name in self.varying
            if not known and (value.device.type == "meta" or not self.is_own(name, value)):
                self.varying.add(name)
            representation = self.schema.outputs[name]
            back = representation.rotate_back(value, rotations, self.centers.about(value[0], representation))
            held = self.held(value[0], representation) if representation.is_affine else None
            found[name] = back if held is None else torch.where(held, back, self._own[name])
        return found

    def unmoved(self, name: str) -> Tensor:
        """The raw output at the input itself, ``(*S)``."""
        return self._own[name][0]

    def is_own(self, name: str, values: Tensor) -> bool:
        """Whether raw outputs ``(C, *S)`` are, to the last bit, what the unrotated input gave."""
        own = self._own[name]
        return values.shape[1:] == own.shape[1:] and bool(((values == own) | (values.isnan() & own.isnan())).all())

    def held(self, value: Tensor, rep: Representation) -> Tensor | None:
        """Where values of atoms are no padding, broadcastable against them; None where there is no mask of them."""
        return beside(self._atoms, value, rep)

    def rotated(
        self,
        rotations: Tensor | None,
        *,
        back_again: bool = False,
        displaced: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Copies of the inputs that rotate, ``(C, …)``: rotated, or there and back in the model's precision.

        What is ``displaced`` has these numbers added to it before it is rotated, in their precision.
        """
        rotated = {}
        for name, representation in self.schema.inputs.items():
            value = self.inputs[name]
            if isinstance(representation, Fixed) or not representation.moves(value):
                continue
            value = value.detach()
            if rotations is None:
                rotated[name] = representation.within(value)[None].clone()
                continue
            low = value.to(self.precision) if back_again and self.precision and value.is_floating_point() else value
            low = low + displaced[name] if displaced and name in displaced else low
            center = self.centers.about(low, representation)
            copies = representation.rotate(low[None].expand(len(rotations), *low.shape), rotations, center)
            if back_again:
                copies = representation.rotate_back(copies, rotations, center)
            if back_again and self._perturbing is not None:
                copies = perturbed(copies, self._perturbing)
            if representation.is_affine and (held := self.held(low, representation)) is not None:
                copies = torch.where(held, copies, low)  # padding stays where it is, as it does in rotated data
            # A copy even of what does not change: the model may write into its input, and that is the caller's.
            rotated[name] = copies.to(value.dtype, copy=True)
        return rotated

    def _call(self, rotations: Tensor | None, *, back_again: bool = False) -> dict[str, Tensor]:
        """Raw outputs at rotated inputs, or at one unrotated copy, ``(C, *S)`` in float64."""
        return self.at(self.rotated(rotations, back_again=back_again), 1 if rotations is None else len(rotations))

    def at(self, copies: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """Raw outputs ``(C, *S)`` in float64 at copies of some inputs, ``(C, …)`` by name, the others as they are."""
        self.evaluations += count
        if self.stacked:
            return self._outputs(self._predict({**self.inputs, **copies}), count)
        each = [
            self._outputs(
                self._predict(
                    {**self.inputs, **{name: laid_out_as(v[k], self.inputs[name]) for name, v in copies.items()}}
                ),
                None,
            )
            for k in range(count)
        ]
        return {name: torch.stack([one[name] for one in each]) for name in each[0]}

    def _predict(self, tensors: dict[str, Any]) -> Any:
        given = {name: v.numpy() if name in self.arrays else v for name, v in tensors.items()}
        return self.predict(unnamed(given, self.like))

    def _outputs(self, raw: Any, lead: int | None) -> dict[str, Tensor]:
        """The outputs that the schema names, detached, in float64, checked."""
        outputs = _tensors(named(raw, list(self.schema.outputs)))
        missing = [name for name in self.schema.outputs if name not in outputs]
        if missing:
            raise EquivProbeError(f"outputs {sorted(outputs)}", f"the schema's {missing}", "Schema(outputs={...})")
        found = {}
        for name in self.schema.outputs:
            value = outputs[name].detach()
            if value.is_floating_point():
                self.floating[name] = value.dtype
            if lead is not None and value.shape[:1] != (lead,):
                raise EquivProbeError(
                    f"output {name!r} of shape {tuple(value.shape)} from a stacked call of {lead} rotations",
                    f"a leading axis of {lead}",
                    "stacked=False calls with one copy at a time",
                )
            found[name] = value if value.device.type == "mps" else value.double()
        return found

    def floors(self, count: int, rotations: Tensor, chunk: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Predictions at round trips ``(F, *S)``, and at the very same input again ``(1, *S)``.

        What is interpolated makes the round trip as output too. Where a grid makes it to the last bit, inputs and
        weights are perturbed by their rounding, with other draws in every trip; see :mod:`equiv_probe.orbit.rounding`.
        """
        exact = bool(exact_grids(self.schema))
        step = chunk if self.stacked and not exact else 1
        self._perturbing = torch.Generator().manual_seed(0) if exact else None

        def trip(a: int, b: int) -> dict[str, Tensor]:
            if self._perturbing is None:
                found = self._call(rotations[a:b], back_again=True)
            else:
                with perturbed_weights(self.predict, self._perturbing):
                    found = self._call(rotations[a:b], back_again=True)
            for name, rep in self.schema.outputs.items():
                if rep.interpolates:
                    found[name] = rep.rotate_back(rep.rotate(found[name], rotations[a:b]), rotations[a:b])
            return found

        try:
            trips = list(in_chunks(trip, count, step))
        finally:
            self._perturbing = None
        again = self.unrotated()
        again = {name: self.schema.outputs[name].within(value) for name, value in again.items()}
        return {name: torch.cat([part[name] for part in trips]) for name in again}, again


def _tensors(values: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy arrays and numbers as tensors; a Python float is float64 whatever torch's default dtype."""
    return {
        name: torch.as_tensor(np.asarray(value)) if isinstance(value, (np.ndarray, np.generic, float)) else value
        for name, value in values.items()
    }
