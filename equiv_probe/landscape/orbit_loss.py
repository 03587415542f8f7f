"""The decomposed loss as a function of the weights, on fixed data under fixed rotations.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3, bias=False).double()
>>> x = torch.randn(8, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> loss = ep.analysis.OrbitLoss(model, x, 2 * x, schema, center="origin")
>>> total, mean, equiv = loss()
>>> gradient, = torch.autograd.grad(equiv, loss.parameters.values())
>>> print(f"{abs(ep.decompose(ep.twirl(model, x, schema, center='origin'), 2 * x).equiv - equiv.item()):.6f}")
0.000000
>>> round(float(gradient.diagonal().sum()), 12) == 0  # L_equiv does not depend on the trace
True
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.errors import EquivProbeError
from equiv_probe.landscape.gradients import parameters_of
from equiv_probe.landscape.orbit_objectives import against, as_evaluated, require_lists_alike
from equiv_probe.landscape.orbit_parts import BatchPart, Decomposed, Function, Part, answered
from equiv_probe.landscape.orbit_pieces import Piece
from equiv_probe.landscape.orbit_step import StepPart
from equiv_probe.live.adapter_choice import adapter_for
from equiv_probe.live.adapters import CallAdapter, InputAdapter
from equiv_probe.live.capture import read_outputs
from equiv_probe.live.generators import generators_of
from equiv_probe.live.isolation import RandomState, isolated
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.reachable import modules_of
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.probe.probe import Probe
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.schema.schema import Schema


class OrbitLoss:
    """``L_total = L_mean + L_equiv`` of a model on fixed data under fixed rotations, as a function of its weights.

    Called without arguments it returns the three, as 0-d float64 tensors with their graph (without, under
    ``torch.no_grad()``), at the weights that the model has now. Their values are those of
    ``ep.decompose(ep.twirl(model, inputs, schema, plan), targets, loss)``. The model is evaluated in the mode it is in,
    with the random state of the construction: in train mode with the same dropout for every rotation (of pieces with
    one of their own, and with their own batch statistics). Its buffers and the random state are left as they were.

    Args:
        model: called as ``model(inputs)``; a module, or a function of modules.
        inputs: tensor, tuple or dict, one structure or a dense batch, or a batch of a framework's that has an adapter;
            or a list of such batches, which need not fit in memory together.
        targets: a tensor, a dict by output, the name of an input, or a dict of such names; a list of these for a list
            of batches. None: of squared error ``L_equiv`` alone; the others, and their gradients, are NaN.
        schema: representations; None infers them and prints what was assumed.
        plan: None is four tetrahedral replicates, 48 rotations.
        loss: as for :func:`equiv_probe.decompose`.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        weights: of the loss elements, likewise a list for a list of batches.
        mask: true where an element counts, likewise.
        coefficients: of each output's loss in the sum over outputs.
        objectives: the losses of a call in the place of targets and loss, as for :class:`equiv_probe.Probe`.
        per_structure: rotate every structure by rotations of its own, which is more precise, rather than all alike.
        chunk: structures of a dense batch whose graph is held at a time by :meth:`accumulate`; halved when memory runs
            out.
        parameters: by name; None is the model's.
        generator: source of the rotations; None uses the plan's seed.
        adapter: of the batches.
        stack: whether a dense batch may hold several copies; None tries it once and compares.

    Raises:
        EquivProbeError: see the message; also for forces that are derivatives without a graph of the weights, as many
            force fields give them outside training.
    """

    def __init__(
        self,
        model: Callable[[Any], Any],
        inputs: Any,
        targets: Any = None,
        schema: Schema | None = None,
        plan: PlanLike | None = None,
        *,
        loss: AnyLoss | Mapping[str, AnyLoss] = "mse",
        center: str | Tensor = "centroid",
        weights: Any = None,
        mask: Any = None,
        coefficients: Mapping[str, float] | None = None,
        objectives: Evaluate | None = None,
        per_structure: bool = False,
        chunk: int = 1024,
        parameters: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        adapter: Adapter | None = None,
        stack: bool | None = None,
    ) -> None:
        module = model if isinstance(model, nn.Module) else Function(model)
        modules = [module] if module is model else [module, *modules_of(model)]
        batches = inputs if isinstance(inputs, list) else [inputs]
        require_lists_alike(batches if isinstance(inputs, list) else None, targets=targets, weights=weights, mask=mask)
        if adapter is None:
            adapter = adapter_for(module, (batches[0],), {})
            if type(adapter) is CallAdapter and schema is not None and not isinstance(batches[0], Mapping):
                adapter = InputAdapter(module, list(schema.inputs))
        live = LiveOrbit(module, schema, center, adapter=adapter, stack=stack)
        state = live.start = RandomState.now(generators_of(modules))
        parts: list[Part] = []
        for k, batch in enumerate(batches):
            call = live.keep((batch,), {})
            raw = answered(live, call, modules)
            outputs = read_outputs(raw, live.known_schema)
            plan = rotation_plan(plan) or fitting_plan(RotationPlan(), live.known_schema, call.inputs, outputs)
            require_fit(plan, live.known_schema, call.inputs, outputs)
            own = [one[k] if isinstance(one, list) else one for one in (targets, weights, mask)]
            given = against(own[0], loss, weights=own[1], mask=own[2], coefficients=coefficients)
            count = live.structures(call.inputs).count if per_structure else None
            if per_structure and generator is None:
                generator = plan.generator()
            rotations = draw(plan, generator or plan.generator(), count).to(next(iter(outputs.values())).device)
            parts.append(
                BatchPart(
                    live,
                    call,
                    rotations,
                    plan,
                    objectives=given if objectives is None else as_evaluated(objectives),
                    modules=modules,
                    state=state,
                )
            )
        named = parameters_of(modules) if parameters is None else None
        self._begin(parts, named or dict(parameters or {}), chunk, modules)
        self.per_structure = per_structure

    @classmethod
    def of_step(
        cls,
        model: nn.Module,
        step: Callable[[], Any] | list[Callable[[], Any]],
        plan: PlanLike | None = None,
        *,
        name: str | None = None,
        schema: Schema | None = None,
        center: str | Tensor = "centroid",
        per_structure: bool = False,
        parameters: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        adapter: Adapter | None = None,
    ) -> OrbitLoss:
        """The loss of a user's own step, by replay with the graph kept.

        Every evaluation runs the step with the same random state, once as it is and once for every rotation, their mean
        and the leave-one-out means, with other answers in the network's place.

        Args:
            model: the network whose symmetry is in question, called by the step any number of times.
            step: a closure that returns its loss, or a mapping or tuple of losses; or a list of these, of equal weight.
            plan: as above.
            name: of the loss; None is ``"loss"``, or else the first.
            schema: representations, as for :class:`equiv_probe.Probe`.
            center: of rotation.
            per_structure: as above; every call of the network must then see the same structures.
            parameters: by name; None is those of the network and of all other modules that the step names.
            generator: source of the rotations; None uses the plan's seed.
            adapter: of the network's calls.
        """
        steps = step if isinstance(step, list) else [step]
        probe = Probe(model, schema, every=None, full=None, center=center, adapter=adapter)
        parts: list[Part] = [
            StepPart(
                probe,
                one,
                rotation_plan(plan) or RotationPlan(),
                name=name,
                generator=generator,
                per_structure=per_structure,
            )
            for one in steps
        ]
        found = cls.__new__(cls)
        modules = [model, *(module for one in steps for module in modules_of(one))]
        found._begin(parts, dict(parameters) if parameters is not None else parameters_of(modules), 1, modules)
        found.per_structure = per_structure
        return found

    def _begin(
        self, parts: list[Part], parameters: Mapping[str, Tensor], chunk: int, modules: Sequence[nn.Module]
    ) -> None:
        self._parameters, self.chunk, self._modules = parameters, chunk, modules
        self._parts: list[tuple[Part, int, int]] = [(part, 0, part.count) for part in parts]
        self._replicates: Sequence[int] | None = None
        self._weigh()

    def _weigh(self) -> None:
        """Sum up the weights by loss, of which the loss is a mean."""
        weights: dict[str, Any] = {}
        for part, start, stop in self._parts:
            for name, values in part.weights.items():
                weights[name] = weights.get(name, 0.0) + values[start:stop].sum()
        self._weight = weights

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Those that require a gradient now, by name, each once."""
        return {name: value for name, value in self._parameters.items() if value.requires_grad}

    @property
    def structures(self) -> int:
        """How many structures (or whole batches, where they cannot be parted) the loss is a mean over."""
        return sum(stop - start for _, start, stop in self._parts)

    @property
    def replicates(self) -> int:
        """How many replicates the estimate is made from."""
        return len(self._chosen(self._parts[0][0]))

    def _chosen(self, part: Part) -> Sequence[int]:
        return range(part.replicates) if self._replicates is None else self._replicates

    def __call__(self) -> Decomposed:
        """The three losses now, ``()`` each."""
        found = [self._part(part, start, stop) for part, start, stop in self._parts]
        return Decomposed(*(torch.stack(list(values)).sum(0) for values in zip(*found, strict=True)))

    def _part(self, part: Part, start: int, stop: int) -> Decomposed:
        """The share of some structures in the three losses."""
        return self._summed(part, part.sums(start, stop, self._chosen(part)))

    def _summed(self, part: Part, sums: Mapping[str, Decomposed]) -> Decomposed:
        scaled = [
            [value * (part.factors[name] / self._weight[name]) for value in values] for name, values in sums.items()
        ]
        return Decomposed(*(torch.stack(values).sum(0) for values in zip(*scaled, strict=True)))

    def pieces(self, structures: int | None = None) -> Iterator[Piece]:
        """Functions whose values add up to the loss, each of some structures under all rotations.

        Args:
            structures: of a dense batch, in a piece, at most; None is :attr:`chunk`.
        """
        size = self.chunk if structures is None else structures
        for part, start, stop in self._parts:
            for a in range(start, stop, size):
                yield Piece(self, part, a, min(a + size, stop))

    def accumulate(self, of: Callable[[Decomposed], Sequence[Tensor]]) -> list[Tensor]:
        """Sum over pieces of something that is linear in the loss: gradients, Hessian-vector products.

        A piece whose graph does not fit in memory is halved, down to one structure (for batches that cannot be parted,
        down to the batch).

        Args:
            of: from the losses of a piece to tensors, of the same shapes for all pieces.

        >>> model = torch.nn.Linear(3, 3, bias=False).double()
        >>> import equiv_probe as ep
        >>> schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
        >>> x = torch.ones(6, 5, 3).double()
        >>> loss = ep.analysis.OrbitLoss(model, x, x, schema, chunk=4)
        >>> by_pieces, = loss.accumulate(lambda piece: torch.autograd.grad(piece.mean, loss.parameters.values()))
        >>> at_once, = torch.autograd.grad(loss().mean, loss.parameters.values())
        >>> torch.allclose(by_pieces, at_once)
        True
        """
        sums: list[Tensor] | None = None
        # What is checkpointed is evaluated again in a backward pass, batch norm and all.
        with isolated(*self._modules):
            for part, start, stop in self._parts:
                rows = in_chunks(
                    lambda a, b, part=part, start=start: list(of(self._part(part, start + a, start + b))),  # type: ignore[misc]
                    stop - start,
                    self.chunk,
                )
                for row in rows:
                    sums = row if sums is None else [one + more for one, more in zip(sums, row, strict=True)]
        assert sums is not None
        return sums

    def blocks(self, count: int, over: str = "rotations") -> list[OrbitLoss]:
        """Independent estimates of the same loss, each from a part of the rotations or of the structures.

        Args:
            count: how many.
            over: ``"rotations"``: each from at least two replicates of its own, on all data; ``"structures"``: each
                from its own structures, rotated by rotations of their own.

        Raises:
            EquivProbeError: there are too few replicates or structures, or structures share their rotations.
        """
        if over not in {"rotations", "structures"}:
            raise EquivProbeError(f"over={over!r}", '"rotations" or "structures"')
        if over == "structures" and not self.per_structure:
            raise EquivProbeError(
                "structures that all rotate by the same rotations: their estimates are not independent",
                "rotations of its own for every structure",
                "OrbitLoss(..., per_structure=True)",
            )
        have, need = (self.replicates, 2 * count) if over == "rotations" else (self.structures, count)
        if count < 2 or have < need:
            what = "replicates" if over == "rotations" else "structures"
            raise EquivProbeError(
                f"{count} blocks of {have} {what}",
                f"at least two blocks, and {need} {what} for so many",
                "RotationPlan(..., replicates=8)" if over == "rotations" else "more data, or fewer blocks",
            )
        bounds = [have * k // count for k in range(count + 1)]
        pairs = list(pairwise(bounds))
        if over == "rotations":
            chosen = list(self._chosen(self._parts[0][0]))
            return [self._with(self._parts, chosen[a:b]) for a, b in pairs]
        units = iter([(part, k) for part, start, stop in self._parts for k in range(start, stop)])
        return [self._with(_ranges(list(islice(units, b - a))), self._replicates) for a, b in pairs]

    def _with(self, parts: list[tuple[Part, int, int]], replicates: Sequence[int] | None) -> OrbitLoss:
        found = OrbitLoss.__new__(OrbitLoss)
        found._parts, found._replicates = parts, replicates
        found._parameters, found.chunk, found.per_structure = self._parameters, self.chunk, self.per_structure
        found._modules = self._modules
        found._weigh()
        return found


def _ranges(units: list[tuple[Part, int]]) -> list[tuple[Part, int, int]]:
    """Single structures joined to ranges."""
    found: list[tuple[Part, int, int]] = []
    for part, k in units:
        if found and found[-1][0] is part and found[-1][2] == k:
            found[-1] = part, found[-1][1], k + 1
        else:
            found.append((part, k, k + 1))
    return found
