"""``L_equiv`` as a term of a training loss: two independent rotations of the batch, differentiable, unbiased.

With augmentation a squared-error training loss is ``L_total = L_mean + L_equiv`` already. The penalty changes the
weight of one of its parts: ``L_total + λ L_equiv = L_mean + (1 + λ) L_equiv``. It needs no labels.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3, bias=False).double()
>>> x = torch.randn(64, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
>>> schema = ep.Schema(inputs={"pos": ep.vector}, outputs={"forces": ep.vector})
>>> loss = (model(x) - 2 * x).square().mean() + ep.equivariance_penalty(model, x, 0.1, schema=schema)
>>> loss.backward()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.measurement import measure
from equiv_probe.estimation.objectives import label_free
from equiv_probe.landscape.differentiable_orbit import by_replicate, first_output, live_orbit, orbit_of
from equiv_probe.live.capture import Call
from equiv_probe.live.isolation import leave_out, measuring, unobserved
from equiv_probe.live.outputs import read_outputs
from equiv_probe.live.random_state import RandomState, generators_of
from equiv_probe.rotations.drawing import draw
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import require_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from equiv_probe.live.adapters import Adapter
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.schema.schema import Schema

PAIR = RotationPlan("haar", replicates=2)


class EquivariancePenalty:
    r"""The squared-error ``L_equiv`` of a model on a batch, to be added to its training loss.

    With independent Haar rotations g, g' of every structure, ``E ½‖h_g − h_g'‖² = E_g‖h_g − Tf‖² = L_equiv``, and the
    gradient is unbiased likewise; the mean is over atoms and components, as in ``mse_loss``, and the sum over outputs.

    Cost: two further forward passes and their part of the backward pass, where plain training has one of each: a step
    takes about three times as long, and twice with ``prediction=``, and 5 ms more on a CPU for rotating and averaging;
    see ``tests/benchmarks/bench_penalty.py``. What is compiled runs eagerly here, and what is wrapped for data-parallel
    training without its wrapper: the penalty belongs into one ``backward()`` with a loss of the wrapped model's own.

    Args:
        model: called as ``model(batch)``; a module, or a function of modules. Its mode and its buffers are those of the
            training: batch norm, for one, counts the batch once more with every pass. All passes have the same dropout,
            so that it is no asymmetry; not that of a ``prediction=``, whose noise the penalty then includes.
        schema: representations; None infers them at the first call, and prints what was assumed.
        plan: of R ≥ 2 replicates; None is two Haar rotations. More make the estimate more precise.
        outputs: names, or coefficients by name; None is all outputs of the schema, with one each.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        adapter: of the batches; None finds that of a plugin.
        stacked: whether a dense batch may hold several copies; None tries it once, and compares.
    """

    @renamed(stack="stacked")
    def __init__(
        self,
        model: Callable[[Any], Any],
        schema: Schema | None = None,
        *,
        plan: PlanLike | None = None,
        outputs: Mapping[str, float] | Iterable[str] | None = None,
        center: str | Tensor = "centroid",
        adapter: Adapter | None = None,
        stacked: bool | None = None,
    ) -> None:
        self._model = model
        self.plan = rotation_plan(plan) or PAIR
        if self.plan.R < 2 or not self.plan.is_random:
            raise EquivProbeError(f"the plan {self.plan}", "two independent rotations or more", 'RotationPlan("haar")')
        self._outputs = outputs if outputs is None or isinstance(outputs, Mapping) else dict.fromkeys(outputs, 1.0)
        self._schema, self._adapter, self._center, self._stacked = schema, adapter, center, stacked
        self._live: LiveOrbit | None = None
        self._generators: list[Any] = []

    def __call__(
        self, batch: Any, weight: float = 1.0, *, generator: torch.Generator | None = None, prediction: Any = None
    ) -> Tensor:
        """The penalty, ``()``, in the precision of the outputs, at least single, with its graph.

        In a step that a probe or :meth:`OrbitLoss.of_step` runs again it is zero: what they decompose is the loss
        without the penalty.

        Args:
            batch: what the model is called with: a tensor, tuple or dict, or a framework's batch.
            weight: λ.
            generator: source of the rotations; None is torch's global one, where the batch is.
            prediction: the model's output for this very batch, with its graph, in the place of the first rotation's:
                one further pass instead of two. Then the data's own frame is one of the two: the penalty is unbiased
                only if the batch was rotated at random, each structure on its own.
        """
        live, call = self._call(batch, prediction)
        plan, schema, structures = self.plan, live.known_schema, live.structures(call.inputs)
        device = next(v.device for v in call.inputs.values() if isinstance(v, torch.Tensor))
        if generator is None:
            cuda = device.type == "cuda"
            generator = torch.cuda.default_generators[device.index or 0] if cuda else torch.default_generator
        rotations = draw(plan, generator, structures.count).to(device, non_blocking=True)
        if measuring():  # the rotations were drawn, so that whatever is drawn after them is the same
            leave_out()
            return torch.zeros((), device=device)
        rotations = live.repeats_rotated_alike(call.inputs, rotations)
        known = [] if prediction is None else [self._known(prediction, schema)]
        flat = rotations[len(known) :].flatten(0, 1)
        with unobserved(), self._from_one_state(live):
            chunk = live.copies_at_once(structures, call.inputs)
            # Where nobody asks for gradients, models whose forces are derivatives still need them inside.
            evaluate = live.attached if torch.is_grad_enabled() else live.rotated_back
            rows = [*known, *(evaluate(call, structures, flat[a : a + chunk]) for a in range(0, len(flat), chunk))]
        # Under autocast, as mean squared errors are: a scaled loss does not fit into half precision.
        dtype = torch.promote_types(rows[-1][next(iter(schema.outputs))].dtype, torch.float32)
        orbit = orbit_of(by_replicate(rows, schema, rotations), schema, plan, rotations)
        objectives = label_free(call.inputs, orbit.identity, structures, schema)
        total = torch.zeros((), dtype=next(iter(orbit.identity.values())).dtype, device=device)
        for name, factor in self._factors(schema).items():
            measured = measure(orbit, objectives.parts[name], live=True)
            total = total + factor * (measured.estimate.equiv * measured.weight).sum() / measured.weight.sum()
        return (weight * total).to(dtype)

    @contextmanager
    def _from_one_state(self, live: LiveOrbit) -> Iterator[None]:
        """The same random state for every pass, so that dropout is no asymmetry; and for what comes after them."""
        live.copies.start = RandomState.now(self._generators)
        try:
            yield
        finally:
            live.copies.start.restore()
            live.copies.start = None

    def _call(self, batch: Any, prediction: Any) -> tuple[LiveOrbit, Call]:
        """The call of a batch, whose tensors keep their graph; with the first one, the schema is resolved."""
        if self._live is None:
            self._live, modules = live_orbit(
                self._model, batch, self._schema, self._adapter, center=self._center, stacked=self._stacked
            )
            self._generators = generators_of(modules)
        live = self._live
        call = Call(*live.split((batch,), {}), differentiated=frozenset(), dicts=())
        if live.schema is None or not live.knows(call.inputs):
            kept = live.keep((batch,), {})
            raw = first_output(live, kept, [live.network]) if prediction is None else prediction
            schema = live.resolve(kept, raw)
            require_fit(self.plan, schema, kept.inputs, read_outputs(raw, schema))
        return live, call

    def _known(self, prediction: Any, schema: Schema) -> dict[str, Tensor]:
        if self.plan.n != 1:
            raise EquivProbeError(
                f"prediction= beside the plan {self.plan}",
                "single rotations",
                'plan=RotationPlan("haar", replicates=2)',
            )
        return {name: value[None] for name, value in read_outputs(prediction, schema).items()}

    def _factors(self, schema: Schema) -> Mapping[str, float]:
        wanted = dict.fromkeys(schema.outputs, 1.0) if self._outputs is None else self._outputs
        unknown = sorted(set(wanted) - set(schema.outputs))
        if unknown:
            raise EquivProbeError(f"outputs {unknown}", f"some of {list(schema.outputs)}", "outputs={...}")
        return wanted


@renamed(stack="stacked")
def equivariance_penalty(
    model: Callable[[Any], Any],
    batch: Any,
    weight: float = 1.0,
    *,
    schema: Schema | None = None,
    plan: PlanLike | None = None,
    outputs: Mapping[str, float] | Iterable[str] | None = None,
    generator: torch.Generator | None = None,
    prediction: Any = None,
    center: str | Tensor = "centroid",
    stacked: bool = False,
) -> Tensor:
    """``weight · ½‖h_g − h_g'‖²`` of a batch: ``weight`` times an unbiased, differentiable estimate of ``L_equiv``.

    The one-line form of :class:`EquivariancePenalty`, which see for arguments and cost. In a training loop make that
    once, if the schema is to be inferred, or copies stacked on a GPU.

    Args:
        model: as above.
        batch: what it is called with.
        weight: λ.
        schema: representations; None infers them, by a further pass at every call.
        plan: None is two Haar rotations for each structure.
        outputs: names, or coefficients by name.
        generator: source of the rotations; None is torch's global one, where the batch is.
        prediction: the model's output for a randomly rotated batch, to be used as one of the two.
        center: of rotation.
        stacked: whether copies of a dense batch go through the model together.
    """
    penalty = EquivariancePenalty(model, schema, plan=plan, outputs=outputs, center=center, stacked=stacked)
    return penalty(batch, weight, generator=generator, prediction=prediction)
