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

from typing import TYPE_CHECKING, Any

from equiv_probe.deprecation import renamed
from equiv_probe.landscape.differentiable_orbit import (
    against,
    first_output,
    live_orbit,
    of_evaluate,
    require_matching_lists,
)
from equiv_probe.landscape.orbit_parts import BatchPart, Part
from equiv_probe.landscape.orbit_step import StepPart
from equiv_probe.landscape.orbit_sum import OrbitSum
from equiv_probe.live.outputs import read_outputs
from equiv_probe.live.random_state import RandomState, generators_of
from equiv_probe.live.reachable import modules_of
from equiv_probe.probe.probe import Probe
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor, nn

    from equiv_probe.estimation.losses import AnyLoss
    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.live.adapters import Adapter
    from equiv_probe.schema.schema import Schema


class OrbitLoss(OrbitSum):
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
        stacked: whether a dense batch may hold several copies; None tries it once and compares.

    Raises:
        EquivProbeError: see the message; also for forces that are derivatives without a graph of the weights, as many
            force fields give them outside training.
    """

    @renamed(stack="stacked")
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
        stacked: bool | None = None,
    ) -> None:
        batches = inputs if isinstance(inputs, list) else [inputs]
        lists = {"targets": targets, "weights": weights, "mask": mask}
        require_matching_lists(batches if isinstance(inputs, list) else None, **lists)
        live, modules = live_orbit(model, batches[0], schema, adapter, center=center, stacked=stacked)
        state = live.copies.start = RandomState.now(generators_of(modules))
        parts: list[Part] = []
        for k, batch in enumerate(batches):
            call = live.keep((batch,), {})
            outputs = read_outputs(first_output(live, call, modules), live.known_schema)
            plan = rotation_plan(plan) or fitting_plan(RotationPlan(), live.known_schema, call.inputs, outputs)
            require_fit(plan, live.known_schema, call.inputs, outputs)
            own = {name: one[k] if isinstance(one, list) else one for name, one in lists.items()}
            given = against(own.pop("targets"), loss, **own, coefficients=coefficients)
            generator = generator or (plan.generator() if per_structure else None)
            count = live.structures(call.inputs).count if per_structure else None
            rotations = draw(plan, generator or plan.generator(), count).to(next(iter(outputs.values())).device)
            judged = given if objectives is None else of_evaluate(objectives)
            parts.append(BatchPart(live, call, rotations, plan, objectives=judged, modules=modules, state=state))
        super().__init__(parts, parameters, chunk, modules, per_structure=per_structure)

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
        and the leave-one-out means, with other outputs in the network's place.

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
        rotations = rotation_plan(plan) or RotationPlan()
        parts: list[Part] = [
            StepPart(probe, one, rotations, name=name, generator=generator, per_structure=per_structure)
            for one in steps
        ]
        found = cls.__new__(cls)  # of steps, not of data
        modules = [model, *(module for one in steps for module in modules_of(one))]
        OrbitSum.__init__(found, parts, parameters, 1, modules, per_structure=per_structure)
        return found
