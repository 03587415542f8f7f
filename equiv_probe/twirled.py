"""A model averaged over rotations at test time: the nearest equivariant model, as a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from equiv_probe.capture import Call, read_outputs, wide, write_outputs
from equiv_probe.errors import EquivProbeError
from equiv_probe.jackknife import jackknife
from equiv_probe.live_orbit import LiveOrbit
from equiv_probe.rotations import RotationPlan
from equiv_probe.turning import RotationSource

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.adapters import Adapter
    from equiv_probe.schema import Schema


class Twirled(nn.Module):
    r"""``Tf(x) ≈ Σ w ρ_out(g)⁻¹ f(ρ_in(g) x)``: called as the model is, and differentiable as the model is.

    Args:
        model: the model; part of this module, so that it moves, saves and trains with it.
        schema: representations; None infers them at the first call.
        plan: the rotations, R·n of them; None is one icosahedral replicate, 60 rotations, which removes every angular
            degree up to 5.
        mode: ``"fixed"`` turns by the plan's own rotations at every call, the same for every structure: a
            deterministic, smooth function, fit for dynamics and minimisation. ``"random"`` draws anew at every call
            and for every structure: unbiased, so that its mean over calls is the exact twirl.
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
        plan: RotationPlan | None = None,
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
        self.plan, self.mode, self.std = plan or RotationPlan("icosahedral", replicates=1), mode, std
        self._live = [LiveOrbit(model, schema, center, adapter=adapter)]  # a list: not a submodule of its own
        self._source = RotationSource(self.plan.seed)

    @property
    def schema(self) -> Schema | None:
        """The representations, once they are known."""
        return self._live[0].schema

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's answer, averaged; outputs that the schema does not name are the unturned model's."""
        live = self._live[0]
        # Containers of its own for a model that writes into them.
        inputs, rebuild = live.split(args, kwargs)
        own, own_kwargs = rebuild(inputs)
        raw = self.model(*own, **own_kwargs)
        live.resolve(live.keep(args, kwargs), raw)
        schema = live.schema
        assert schema is not None
        structures = live.structures(inputs)
        rotations = self._rotations(inputs, structures.count)
        call = Call(inputs, rebuild, frozenset(), ())
        weights = self.plan.weights
        means: list[dict[str, Tensor]] = []
        squares: list[dict[str, Tensor]] = []
        about: dict[str, Tensor] = {}
        for replicate in rotations:
            first: dict[str, Tensor] = {}
            second: dict[str, Tensor] = {}
            for g, w in zip(replicate, weights.tolist(), strict=True):
                for name, value in live.attached(call, structures, g[None]).items():
                    h = wide(value[0])
                    away = (h - about.setdefault(name, h.detach())).square() if self.std else h
                    first[name] = first[name] + w * h if name in first else w * h
                    second[name] = second[name] + w * away if name in second else w * away
            means.append(first)
            squares.append(second)
        likes = {name: torch.stack([m[name] for m in means]) for name in schema.outputs}
        plain = read_outputs(raw, schema)
        answer = {name: value.mean(0).to(plain[name].dtype) for name, value in likes.items()}
        result = write_outputs(raw, answer, list(schema.outputs))
        if not self.std:
            return result
        second_moments = {name: torch.stack([s[name] for s in squares]) for name in schema.outputs}
        return result, {name: orbit_std(likes[name], second_moments[name], about[name]) for name in schema.outputs}

    def _rotations(self, inputs: dict[str, Any], structures: int) -> Tensor:
        if self.mode == "fixed":
            return self.plan.rotations()
        return self._source.draw(self.plan, inputs, structures)


def orbit_std(means: Tensor, squares: Tensor, about: Tensor) -> Tensor:
    """Standard deviation of the orbit, element by element, ``(*S)``.

    Args:
        means: replicate means ``m_r``, ``(R, *S)``.
        squares: replicate means of ``(h − about)²``, ``(R, *S)``.
        about: any value near the orbit, ``(*S)``: it keeps the difference of squares from cancelling.

    Returns:
        Without bias in its square if R ≥ 2; with one replicate, the spread about that replicate's own mean.
    """
    off = means - about
    if len(means) < 2:
        return (squares[0] - off[0].square()).clamp_min(0).sqrt()
    left_out = (off.sum(0) - off) / (len(off) - 1)
    found = jackknife(squares, off.mean(0).square(), left_out.square(), squares.new_ones(len(squares)))
    return found.equiv.clamp_min(0).sqrt()
