"""The orbit of one captured call of a live module: read, rotated, evaluated, and compared with what it should be."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.estimation.measurement import measure
from equiv_probe.estimation.objectives import label_free
from equiv_probe.estimation.orbit import Moments, Orbit
from equiv_probe.live.call_reader import CallReader
from equiv_probe.live.capture import wide
from equiv_probe.live.copies import Copies, close
from equiv_probe.live.cutting import CannotCut, chosen_structures, cut_dense
from equiv_probe.live.isolation import isolated
from equiv_probe.live.outputs import read_outputs
from equiv_probe.live.sub_batches import sub_batch
from equiv_probe.live.wrappers import network
from equiv_probe.orbit.chunking import in_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from equiv_probe.estimation.measurement import Measurement
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.live.capture import Call
    from equiv_probe.live.sub_batches import SubBatch
    from equiv_probe.rotations.plan import RotationPlan
    from equiv_probe.schema.schema import Schema


class LiveOrbit:
    """How to evaluate a module at rotated copies of its calls.

    Args:
        module: the module whose calls were captured, wrapped or not.
        schema: representations; None infers them from the first call.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        adapter: of a framework's batches.
        stacked: whether a dense batch ``(B, N, 3)`` may become one of ``C·B`` structures. None finds out: two copies
            are evaluated together and one by one, once, and must agree.
        chunk: copies in one pass, at most; halved when memory runs out.
    """

    def __init__(
        self,
        module: nn.Module,
        schema: Schema | None = None,
        center: str | Tensor = "centroid",
        *,
        adapter: Adapter | None = None,
        stacked: bool | None = None,
        chunk: int = 64,
    ) -> None:
        self.reader = CallReader(network(module), schema, center, adapter)
        self.copies = Copies(self.reader, stacked, chunk)
        self.reader.evaluate = self.copies.at
        # What others ask of a live module, wherever it is at home.
        self.split, self.keep, self.dicts = self.reader.split, self.reader.keep, self.reader.dicts
        self.resolve, self.knows, self.structures = self.reader.resolve, self.reader.knows, self.reader.structures
        self.repeats_rotated_alike = self.reader.repeats_rotated_alike
        self.rotated_back, self.attached = self.copies.rotated_back, self.copies.attached
        self.copies_at_once = self.copies.copies_at_once
        self._cuts: bool | None = None

    @property
    def network(self) -> nn.Module:
        """The module without its wrappers."""
        return self.reader.network

    @property
    def schema(self) -> Schema | None:
        """The representations, once they are known."""
        return self.reader.schema

    @property
    def known_schema(self) -> Schema:
        """The representations, after the first call."""
        return self.reader.known_schema

    @property
    def adapter(self) -> Adapter:
        """What reads the calls, from the first one on."""
        return self.reader.adapter

    def part(self, call: Call, raw: Any, seed: int, number: int) -> SubBatch | None:
        """A few structures of a large batch, drawn at random; None where they cannot be had. Waits for the device.

        At the first call they are evaluated alone, and must get what they got in the batch.

        Args:
            call: the captured call.
            raw: the network's own output.
            seed: of the draw.
            number: of the draw.
        """
        structures, outputs = self.structures(call.inputs), read_outputs(raw, self.known_schema)
        index, center = structures.index, self.reader.center
        unknown = any(value.is_meta for value in outputs.values())  # without numbers to compare
        if self._cuts is False or unknown or (isinstance(center, torch.Tensor) and center.ndim > 1):
            return None
        try:
            if structures.layout == "index" and index is not None:  # whose count is an upper bound
                structures = replace(structures, count=int(index.max()) + 1)
            elif structures.layout != "leading":
                return None
            chosen = chosen_structures(structures.count, seed, number)
            dense = structures.layout == "leading"
            inputs = (cut_dense if dense else self.adapter.cut)(call.inputs, structures, chosen)
            found = sub_batch(call, inputs, structures, outputs, chosen)
            if self._cuts is None:
                self._cuts = self._cut_is_right(call, found, outputs)
        except (CannotCut, RuntimeError, ValueError, IndexError, KeyError, TypeError):
            return None  # of a batch that only its owner can take apart the whole is measured
        return found if self._cuts else None

    def _cut_is_right(self, call: Call, part: SubBatch, outputs: Mapping[str, Tensor]) -> bool:
        """Whether structures alone get what they get in their batch; with dropout, in eval mode."""

        def same(wanted: Mapping[str, Tensor]) -> bool:
            found = self.copies.at(part.call, {})
            return all(found[n].shape == v.shape and close(v, found[n]) for n, v in part.of(wanted).items())

        with isolated(self.network), torch.no_grad():
            if same(outputs):
                return True
            was_training = self.network.training
            self.network.eval()
            return was_training and same(self.copies.at(call, {}))

    def measure(
        self,
        call: Call,
        raw: Any,
        plan: RotationPlan,
        rotations: Tensor,
        *,
        evaluate: Evaluate = label_free,
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Measurement]:
        """Losses of every structure, by name; nothing waits for the device.

        Args:
            call: the captured call.
            raw: the network's own output.
            plan: the plan that drew the rotations.
            rotations: ``(R, n, U, 3, 3)``.
            evaluate: what the orbit is compared with.
            known: rotated-back predictions of the first rotations, ``(C, *S)``, which need no evaluation.
        """
        schema, structures = self.resolve(call, raw), self.structures(call.inputs)
        about = {name: wide(value.detach()) for name, value in read_outputs(raw, schema).items()}
        objectives = evaluate(call.inputs, about, structures, schema)
        flat = rotations.flatten(0, 1)
        done = len(next(iter(known.values()))) if known else 0
        moments = Moments(about, plan.weights, len(rotations))
        kept: list[dict[str, Tensor]] = []
        chunks: Iterator[dict[str, Tensor]] = in_chunks(
            lambda a, b: self.rotated_back(call, structures, flat[done + a : done + b]),
            len(flat) - done,
            self.copies_at_once(structures, call.inputs),
        )
        for values in chain([dict(known)] if known else [], chunks):
            wider = {name: wide(value) for name, value in values.items()}
            moments.add(wider)
            if not objectives.squared:
                kept.append(wider)
        whole = None
        if kept:
            joined = {name: torch.cat([one[name] for one in kept]) for name in about}
            whole = {name: v.reshape(*rotations.shape[:2], *v.shape[1:]) for name, v in joined.items()}
        orbit = Orbit(schema, plan, flat, moments.weights, *moments.result(), values=whole)
        found = {name: measure(orbit, one, live=True) for name, one in objectives.parts.items()}
        return {**found, **objectives.total(found)}
