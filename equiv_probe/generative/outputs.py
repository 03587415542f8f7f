"""What a sampler's runs return: end points as tensors by name, or the way to say which tensors they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.generative.layout import DECLARE_FLAT
from equiv_probe.live.outputs import all_outputs, read_outputs
from equiv_probe.representations.representation import CartesianTensor, point
from equiv_probe.schema.usual_names import usual

if TYPE_CHECKING:
    from torch import Tensor

    from equiv_probe.generative.layout import Layout
    from equiv_probe.representations.representation import Representation
    from equiv_probe.schema.schema import Schema
    from equiv_probe.schema.structures import Structures

END_POINTS = "end points"
"""What a sampler's output is called if it is one tensor."""


@dataclass
class OutputReader:
    """Reads what a sampler returns for the initial noise ``(..., N, 3)`` or grids.

    Its ``schema`` holds the outputs as far as they are declared, and after the first run all of them.
    """

    schema: Schema
    noise: Tensor
    structures: Structures
    layout: Layout | None = None

    def __post_init__(self) -> None:
        self._declared = list(self.schema.outputs)
        self._resolved = False

    def read(self, output: Any, *, path: bool = False) -> dict[str, Tensor]:
        """What a run returned as detached float64 tensors ``(T, *S)`` by name."""
        steps = [self._usual(self._first(one)) for one in (_steps(output) if path else [output])]
        if not steps:
            raise EquivProbeError("a path without a point", "at least the end point", "path=False")
        if not self._resolved:
            self.schema, self._resolved = _resolve(steps[-1], self.schema), True
        names = list(self.schema.outputs)
        lone = isinstance(steps[-1], torch.Tensor)
        if lone and self.structures.layout != "one" and steps[-1].shape[1:] == self.noise.shape:
            found = f"end points of shape {tuple(steps[-1].shape)} from noise of shape {tuple(self.noise.shape)}"
            raise EquivProbeError(found, "the last point of the path alone", "path=True; or return path[-1]")
        if lone:
            self._require_usual(steps[-1], self.schema.outputs[names[0]])
        read = [read_outputs({names[0]: one} if lone else one, self.schema) for one in steps]
        if any(one[name].shape != read[-1][name].shape for one in read for name in names):
            raise EquivProbeError("a path of points of several shapes", "one shape at all times", "path=False")
        return {name: torch.stack([one[name].detach().cpu().double().clone() for one in read]) for name in names}

    def _usual(self, output: Any) -> Any:
        """Tensors of places or vectors in the declared layout as ``(..., N, 3)``."""
        layout = self.layout
        if layout is None:
            return output

        def usual_one(name: str, value: Any) -> Any:
            is_flat = isinstance(value, torch.Tensor) and layout.fits(tuple(value.shape))
            if not is_flat or not _is_rank_one(self.schema.outputs.get(name, point)):
                return value
            return layout.usual(value) if layout.of_noise or value.shape != self.noise.shape else value

        if isinstance(output, Mapping):
            return {name: usual_one(name, value) for name, value in output.items()}
        if isinstance(output, (tuple, list)) and not hasattr(output, "_fields"):
            names = self._declared if self._declared != [END_POINTS] else []
            named = [*names, *("" for _ in output)]
            return type(output)(usual_one(name, value) for name, value in zip(named, output, strict=False))
        return usual_one(next(iter(self._declared), ""), output)

    def _require_usual(self, value: Tensor, rep: Representation) -> None:
        flat = value.numel() == self.noise.numel() and self.noise.shape[-1:] != value.shape[-1:]
        if flat and _is_rank_one(rep) and not self.schema.inputs["noise"].is_whole:
            raise EquivProbeError(
                f"end points of shape {tuple(value.shape)} from noise of shape {tuple(self.noise.shape)}",
                "atoms on an axis of their own, or the layout declared",
                f'{DECLARE_FLAT}, "B 3 N" where the last axis counts atoms',
            )

    def _first(self, output: Any) -> Any:
        """Of a tuple that is longer than what was declared, the first entries."""
        declared = self._declared
        by_place = isinstance(output, (tuple, list)) and not hasattr(output, "_fields")
        if not (by_place and 0 < len(declared) < len(output)) or set(declared) <= set(map(str, range(len(output)))):
            return output
        return output[0] if declared == [END_POINTS] else output[: len(declared)]


def _is_rank_one(rep: Representation) -> bool:
    return isinstance(rep, CartesianTensor) and rep.rank == 1


def _steps(output: Any) -> list[Any]:
    """A path as a list of what the sampler would return at each time."""
    if isinstance(output, torch.Tensor):
        return list(output.unbind(0))
    if isinstance(output, Mapping):
        return [dict(zip(output, one, strict=True)) for one in zip(*output.values(), strict=True)]
    if isinstance(output, (list, tuple, Iterator)):
        return list(output)
    raise EquivProbeError(f"a path of type {type(output).__name__}", "a tensor (T, ...), or one entry for each time")


def _resolve(output: Any, schema: Schema) -> Schema:
    """The representations of an output: as declared, of one tensor a point, by their usual names, or else an error."""
    if isinstance(output, torch.Tensor):
        noise = schema.inputs["noise"]
        declared = next(iter(schema.outputs.items()), (END_POINTS, noise if noise.is_whole else point))
        return replace(schema, outputs=dict([declared]))
    values = {n: v for n, v in all_outputs(output, list(schema.outputs)).items() if isinstance(v, torch.Tensor)}
    if schema.outputs and set(schema.outputs) <= set(values):
        return schema
    found = {name: usual(name, tuple(value.shape)) for name, value in values.items() if value.is_floating_point()}
    if not found:
        raise EquivProbeError(
            f"an output of type {type(output).__name__}",
            "end points as tensors: one, a tuple, or a dict",
            "ep.audit_sampler(lambda noise: sampler(noise).pos, ...)",
        )
    if isinstance(output, (list, tuple)) and _molecules(list(found), values):
        raise EquivProbeError(
            f"a list of {len(found)} tensors (N, 3), one for each sample",
            "end points of all samples in one tensor",
            "ep.audit_sampler(lambda noise: torch.cat(sampler(noise)), ..., batch=batch), or torch.stack",
        )
    if missing := sorted(set(schema.outputs) - set(values)):
        raise EquivProbeError(
            f"end points {sorted(values)}",
            "representations by name" if missing == [END_POINTS] else f"{missing} among them",
            f'audit_sampler(..., outputs={{"{next(iter(found))}": ep.point}})',
        )
    unknown = [name for name, rep in found.items() if rep is None]
    if unknown:
        raise EquivProbeError(
            f"end points {sorted(values)}",
            f"how {unknown} rotate",
            'audit_sampler(..., outputs={"pos": ep.point, "<name>": ep.scalar})',
        )
    return replace(schema, outputs={name: rep for name, rep in found.items() if rep is not None})


def _molecules(names: list[str], values: Mapping[str, Tensor]) -> bool:
    """Whether all of several tensors are places of atoms, ``(N, 3)``."""
    return len(names) > 1 and all(values[name].ndim == 2 and values[name].shape[1] == 3 for name in names)
