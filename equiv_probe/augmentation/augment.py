"""Random-rotation augmentation as hooks: inputs are rotated, outputs rotated back, and the user's code sees neither.

For a loss that does not depend on the frame, ``ℓ(ρ(g)⁻¹ f(ρ(g) x), y) = ℓ(f(ρ(g) x), ρ(g) y)``: training on the
model's outputs rotated back, with untouched labels, *is* training on rotated data with rotated labels.

>>> import torch, equiv_probe as ep
>>> model = torch.nn.Linear(3, 3)
>>> schema = ep.Schema(inputs={"input": ep.point}, outputs={"0": ep.vector})
>>> handle = ep.augment(model, schema)
>>> positions = torch.randn(8, 5, 3)
>>> bool((model(positions) == model(positions)).all())  # rotated anew at every call
False
>>> handle.remove()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.live.capture import Call, cloned
from equiv_probe.live.hook import CallRotation, Hook
from equiv_probe.live.isolation import capturing_graph, isolated, measuring, needs_gradient
from equiv_probe.live.live_orbit import LiveOrbit
from equiv_probe.live.outputs import read_outputs, write_outputs
from equiv_probe.orbit.memory_layout import laid_out_as
from equiv_probe.rotations.drawing import RotationSource
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.rotations.resolve import PlanLike, rotation_plan
from equiv_probe.schema.grid_plans import fitting_plan, one_of, require_fit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.live.adapters import Adapter
    from equiv_probe.schema.schema import Schema
    from equiv_probe.schema.structures import Structures


ONE = RotationPlan("haar", replicates=1)


def augment(
    model: nn.Module,
    schema: Schema | None = None,
    *,
    center: str | Tensor = "centroid",
    seed: int = 0,
    improper: bool = False,
    adapter: Adapter | None = None,
    plan: PlanLike | None = None,
) -> Augmentation:
    """Rotate every structure by a fresh Haar rotation on its way into the model, and its output back, in train mode.

    Where a grid without interpolation rotates along, it is one of the cube's rotations (by 180°, where a box is no
    cube). Of grids that are interpolated, the output is zero outside of the ball that the box holds.

    Works with forces that are differentiated inside the model or outside of it. Do not use it on a module that is
    recomputed under activation checkpointing: each recomputation would be rotated anew.

    Args:
        model: any module; hooks of the same kind as the probe's.
        schema: representations; None infers them at the first training call, with one more forward pass.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        seed: of the augmentation's own generator; ranks of a distributed run draw their own rotations.
        improper: rotate by rotations and, half of the time, improper ones.
        adapter: for batches that are not made of tensors, tuples and dicts.
        plan: whose rotations are drawn, one for each structure, such as ``"box"``; None as said above.

    Returns:
        A handle with ``remove()``, which is also a context manager.
    """
    return Augmentation(model, schema, center, seed, improper=improper, adapter=adapter, plan=plan)


class Augmentation(CallRotation):
    """The handle of :func:`augment`; arguments as there."""

    def __init__(
        self,
        model: nn.Module,
        schema: Schema | None,
        center: str | Tensor,
        seed: int,
        *,
        improper: bool,
        adapter: Adapter | None,
        plan: PlanLike | None = None,
    ) -> None:
        self.model, self.seed, self.improper, self.plan = model, seed, improper, rotation_plan(plan)
        self.rotations: Tensor | None = None
        """The rotations of the latest training call, ``(U, 3, 3)``."""
        self._live = LiveOrbit(model, schema, center, adapter=adapter)
        self._source = RotationSource(seed)
        self._rotated: tuple[Structures, Tensor, list[tuple[dict[str, Any], dict[str, Any]]]] | None = None
        before, after = Hook(self._before, self), Hook(self._after)
        self._handles: list[Any] = [
            before.on(model.register_forward_pre_hook(before, with_kwargs=True)),
            after.on(model.register_forward_hook(after, with_kwargs=True, prepend=True)),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: the generator's state."""
        return {"generator": self._source.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`; the model must be on its device."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        self._source.restore(state["generator"], device)

    def __enter__(self) -> Augmentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if module is not self.model or measuring() or capturing_graph():
            return None
        self._rotated = None
        if not self._live.network.training:
            return None
        inputs, rebuild = self._live.split(args, kwargs)
        if not self._live.knows(inputs):
            self._resolve(args, kwargs)
        schema = self._live.schema
        assert schema is not None
        structures = self._live.structures(inputs)
        with torch.no_grad():
            plan = one_of(self.plan or fitting_plan(ONE, schema, inputs))
            require_fit(plan, schema, inputs)
            g = self._source.draw(plan, inputs, structures.count)[0, 0]
            if self.improper or plan.improper:
                coin = torch.rand(len(g), 1, 1, generator=self._source.generator(g.device), device=g.device)
                g = torch.where(coin < 0.5, -g, g)
        self.rotations = g
        rotated = structures.rotate(inputs, schema, g[None])
        given = {**inputs, **{n: laid_out_as(v[0], inputs[n]) for n, v in rotated.items()}}
        made = rebuild(given)
        # Dicts are copies: the caller's keeps its own positions, and is shown what the model writes.
        own = [v for v in (*args, *kwargs.values()) if isinstance(v, dict)]
        new = [v for v in (*made[0], *made[1].values()) if isinstance(v, dict)]
        self._rotated = structures, g, list(zip(own, new, strict=False))
        return made

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], raw: Any) -> Any:
        del args, kwargs
        if self._rotated is None or module is not self.model or measuring():
            return None
        rotated, self._rotated = self._rotated, None
        structures, g, dicts = rotated
        schema = self._live.schema
        assert schema is not None
        outputs = {name: value[None] for name, value in read_outputs(raw, schema).items()}
        back = {name: value[0] for name, value in structures.rotate_back(outputs, schema, g[None]).items()}
        for own, new in dicts:
            kept = {name: own[name] for name in schema.inputs if name in own}
            written = {name: value for name, value in new.items() if name not in own or own[name] is not value}
            own.update({**written, **kept, **{name: v for name, v in back.items() if name in new}})
            if raw is new:
                return own
        return write_outputs(raw, back, list(schema.outputs))

    def _resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the schema, with one look at what the model returns if need be."""
        schema = self._live.schema
        if schema is not None and schema.inputs and schema.outputs:
            self._live.resolve(self._live.keep(args, kwargs), None)
            return
        with isolated(self._live.network), torch.inference_mode(False):
            self._live.network.eval()
            call = self._live.keep(args, kwargs)
            self._live.resolve(call, self._look(call))

    def _look(self, call: Call) -> Any:
        """The model's output for a call; with gradients only if the model needs them."""
        for needed in (False, True):
            inputs = {name: cloned(value) for name, value in call.inputs.items()}
            for value in inputs.values():
                if needed and isinstance(value, torch.Tensor) and value.is_floating_point():
                    value.requires_grad_()
            args, kwargs = call.rebuild(inputs)
            try:
                with torch.set_grad_enabled(needed):
                    return self._live.network(*args, **kwargs)
            except RuntimeError as error:
                if needed or not needs_gradient(error):
                    raise
        raise AssertionError  # the second look returns or raises
