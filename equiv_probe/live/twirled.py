"""A model averaged over rotations at test time: the nearest equivariant model, as a module."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation.jackknife import jackknife
from equiv_probe.estimation.orbit import Moments
from equiv_probe.live.capture import Call, wide
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.outputs import all_outputs, read_outputs, write_outputs
from equiv_probe.live.random_frames import rotated_along
from equiv_probe.orbit.chunking import in_chunks
from equiv_probe.representations.grids import Grid, filled_outside
from equiv_probe.rotations.drawing import RotationSource
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, require_fit

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.live.adapters import Adapter, Rebuild
    from equiv_probe.schema.schema import Schema
    from equiv_probe.schema.structures import Structures

DEFAULT = RotationPlan("icosahedral", replicates=1)


class Twirled(nn.Module):
    r"""``Tf(x) ≈ Σ w ρ_out(g)⁻¹ f(ρ_in(g) x)``: called as the model is, and differentiable as the model is.

    Args:
        model: the model; part of this module, so that it moves, saves and trains with it.
        schema: representations; None infers them at the first call.
        plan: the rotations, R·n of them; None is one icosahedral replicate, 60 rotations, which removes every angular
            degree up to 5; for grids without interpolation, the rotations of the cube. Outside of the ball of a grid
            that is interpolated, the output is the unrotated model's.
        mode: ``"fixed"`` rotates by the plan's own rotations at every call, the same for every structure: a
            deterministic, smooth function, fit for dynamics and minimisation. ``"random"`` draws anew at every call
            and for every structure: unbiased, so that its mean over calls is the exact twirl. With
            ``RotationPlan("haar", 1)`` it costs what the model costs: the random frame of every step of a sampler. In
            :func:`equiv_probe.audit_sampler` these frames rotate with the rest of the noise.
        std: return ``(outputs, std)``, where std has, for each output by name, the standard deviation of the orbit,
            component by component, without bias in its square if R ≥ 2.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        adapter: for batches that are not made of tensors, tuples and dicts.

    >>> import equiv_probe as ep
    >>> model = torch.nn.Linear(3, 3, bias=False, dtype=torch.float64)
    >>> schema = ep.Schema(inputs={"input": ep.vector}, outputs={"0": ep.vector})
    >>> x = torch.randn(5, 3, dtype=torch.float64)
    >>> torch.allclose(ep.Twirled(model, schema)(x), model.weight.trace() / 3 * x)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        schema: Schema | None = None,
        plan: PlanLike | None = None,
        mode: Literal["fixed", "random"] = "fixed",
        *,
        std: bool = False,
        center: str | Tensor = "centroid",
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        if mode not in {"fixed", "random"}:
            raise EquivProbeError(f"mode={mode!r}", '"fixed" or "random"')
        self.model = model
        self.plan, self.mode, self.std = rotation_plan(plan) or DEFAULT, mode, std
        self._chosen = plan is not None
        self._live = [LiveOrbit(model, schema, center, adapter=adapter)]  # a list: not a submodule of its own
        self._source = RotationSource(self.plan.seed)
        self._fixed: Tensor | None = None

    @property
    def schema(self) -> Schema | None:
        """The representations, once they are known."""
        return self._live[0].schema

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, averaged; outputs that the schema does not name are the unrotated model's."""
        live = self._live[0]
        inputs, rebuild = live.split(args, kwargs)
        raw = None
        if not live.knows(inputs):
            raw = self._unrotated(inputs, rebuild)
            live.resolve(live.keep(args, kwargs), raw)
        schema = live.known_schema
        outside = any(isinstance(rep, Grid) and rep.ball for rep in schema.outputs.values())
        if raw is None and outside:
            raw = self._unrotated(inputs, rebuild)
        plain = None if raw is None else read_outputs(raw, schema)
        if not self._chosen:
            fitted = fitting_plan(self.plan, schema, inputs, plain)
            self.plan, self._fixed = fitted, self._fixed if fitted == self.plan else None
        require_fit(self.plan, schema, inputs, plain)
        structures = live.structures(inputs)
        rotations = self._rotations(inputs, structures.count)
        moments, dtypes, latest = self._moments(Call(inputs, rebuild, frozenset(), ()), structures, rotations)
        if raw is None:
            raw = latest if _whole(latest, schema) else self._unrotated(inputs, rebuild)
        sizes, about, means, squares = moments.result()
        share = sizes / sizes.sum()
        averaged = {
            name: torch.einsum("r,r...->...", share.to(value), value).to(dtypes[name]) for name, value in means.items()
        }
        if outside and plain is not None:
            averaged = filled_outside(averaged, schema.outputs, plain)
        result = write_outputs(raw, averaged, list(schema.outputs))
        if not self.std:
            return result
        return result, {
            name: orbit_std(means[name], squares[name], about[name], sizes, self.plan.population) for name in means
        }

    def _unrotated(self, inputs: dict[str, Any], rebuild: Rebuild) -> Any:
        """The model's own output; containers of its own for a model that writes into them."""
        args, kwargs = rebuild(inputs)
        return self.model(*args, **kwargs)

    def _moments(
        self, call: Call, structures: Structures, rotations: Tensor
    ) -> tuple[Moments, dict[str, torch.dtype], Any]:
        """Moments of the orbit, the model's precision by output, and the output for the last copies as it came."""
        live, flat = self._live[0], rotations.flatten(0, 1)
        evaluate = live.attached if torch.is_grad_enabled() else live.rotated_back
        chunks = in_chunks(
            lambda a, b: evaluate(call, structures, flat[a:b]),
            len(flat),
            live.copies_at_once(structures, call.inputs),
        )
        moments: Moments | None = None
        dtypes: dict[str, torch.dtype] = {}
        latest: list[Any] = [None]
        live.copies.on_output = partial(latest.__setitem__, 0)
        try:
            for values in chunks:
                if moments is None:
                    dtypes = {name: value.dtype for name, value in values.items()}
                    about = {name: wide(value[0].detach()) for name, value in values.items()}
                    moments = Moments(about, self.plan.weights, len(rotations))
                moments.add({name: wide(value) for name, value in values.items()})
        finally:
            live.copies.on_output = None
        assert moments is not None
        return moments, dtypes, latest[0]

    def _rotations(self, inputs: dict[str, Any], structures: int) -> Tensor:
        if self.mode == "random":
            return rotated_along(self._source.draw(self.plan, inputs, structures))
        device = next((v.device for v in inputs.values() if isinstance(v, torch.Tensor)), torch.device("cpu"))
        if self._fixed is None or self._fixed.device != device:
            with temporarily_clear_interpreter_stack():  # kept: it must not be of a vmap or jvp that will be over
                self._fixed = self.plan.rotations().to(device, torch.float32 if device.type == "mps" else torch.float64)
        return self._fixed


def _whole(raw: Any, schema: Schema) -> bool:
    """Whether an output holds nothing but what the schema names, so that the unrotated model need not be asked."""
    return all(
        name in schema.outputs or value is None for name, value in all_outputs(raw, list(schema.outputs)).items()
    )


def orbit_std(means: Tensor, squares: Tensor, about: Tensor, sizes: Tensor, population: int | None) -> Tensor:
    """Standard deviation of the orbit, element by element, ``(*S)``.

    Args:
        means: of groups of replicates, ``(G, *S)``.
        squares: group means of ``(h − about)²``, ``(G, *S)``.
        about: any value near the orbit, ``(*S)``: it keeps the difference of squares from cancelling.
        sizes: replicates in each group, ``(G,)``.
        population: of which the replicates are a sample without replacement, or None.

    Returns:
        Without bias in its square if G ≥ 2; with one replicate, the spread about that replicate's own mean.
    """
    off = means - about
    if len(means) < 2:
        return (squares[0] - off[0].square()).clamp_min(0).sqrt()
    share = (sizes / sizes.sum()).to(off).reshape(-1, *(1,) * (off.ndim - 1))
    mean = (share * off).sum(0)
    left_out = (mean - share * off) / (1 - share)
    return jackknife(squares, mean.square(), left_out.square(), sizes, population).equiv.clamp_min(0).sqrt()
