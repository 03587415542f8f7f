"""Convolutions, pooling and padding of voxels as they would be if they respected the rotations of the cube."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.overrides import TorchFunctionMode

from equiv_probe.representations.grids import grid
from equiv_probe.rotations.designs import group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    Pads = list[tuple[int, int]]


_OPTIONS = ("stride", "padding")
_ARGUMENTS = {
    "conv3d": ("input", "weight", "bias", *_OPTIONS, "dilation", "groups"),
    "conv_transpose3d": ("input", "weight", "bias", *_OPTIONS, "output_padding", "groups", "dilation"),
    "max_pool3d": ("input", "kernel_size", *_OPTIONS, "dilation", "ceil_mode"),
    "avg_pool3d": ("input", "kernel_size", *_OPTIONS, "ceil_mode", "count_include_pad", "divisor_override"),
    "pad": ("input", "pad", "mode", "value"),
}
"""Of torch's functions, in their order."""


def averaged(value: Tensor) -> Tensor:
    """The mean of a tensor ``(…, D, D, D)`` over the 24 rotations of the cube, one by one: kernels are large."""
    wide = value.reshape(1, -1, *value.shape[-3:])
    parts = (grid().rotate(wide, rotation[None]) for rotation in group("octahedral"))
    return (sum(parts, torch.zeros_like(wide)) / 24).reshape(value.shape)


class Symmetric(TorchFunctionMode):
    """Evaluates operations on voxels with symmetric kernels, or with windows counted from both ends of the box.

    Args:
        kernels: average those of convolutions over the 24 rotations, as is right for scalar channels.
        windows: average over both ends from which windows may be counted, where they do not fit the box.
    """

    def __init__(self, *, kernels: bool = False, windows: bool = False) -> None:
        super().__init__()
        self.kernels, self.windows = kernels, windows
        self.changed: dict[str, None] = {}
        """What was evaluated otherwise, in words, in the order of the calls."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        name = getattr(func, "__name__", "")
        if name not in _ARGUMENTS:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(_ARGUMENTS[name], args, strict=False)), **(kwargs or {})}
        if "weight" in given and self.kernels:
            self._make_symmetric(name, given)
        if self.windows and given["input"].ndim == 5:
            treated = self._padding if name == "pad" else self._pooling if "pool" in name else self._convolution
            return treated(func, name, given)
        return func(**given)

    def _make_symmetric(self, name: str, given: dict[str, Any]) -> None:
        """Average the kernel; one that is flat is first written as a cube, with zeros."""
        weight, padding = given["weight"], given.get("padding", 0)
        lacking = [max(weight.shape[2:]) - size for size in weight.shape[2:]]
        if any(lacking):
            if name != "conv3d" or any(one % 2 for one in lacking) or isinstance(padding, str):
                return
            wider = [d * one // 2 for d, one in zip(_three(given.get("dilation", 1)), lacking, strict=True)]
            given["padding"] = [own + one for own, one in zip(_three(padding), wider, strict=True)]
        cube = F.pad(weight, _flat([(one // 2, one // 2) for one in lacking]))
        given["weight"] = averaged(cube)
        if not torch.allclose(given["weight"], cube):
            self.changed[f"a {name} with a kernel of {_shown(weight.shape[2:])}"] = None

    def _convolution(self, func: Any, name: str, given: dict[str, Any]) -> Tensor:
        x, kernel = given["input"], given["weight"].shape[2:]
        stride, padding = _three(given.get("stride", 1)), given.pop("padding", 0)
        words = f"a {name} (kernel {_shown(kernel)}, stride {_shown(stride)})"
        if name == "conv_transpose3d":  # what is called padding is cut off here
            more = _three(given.pop("output_padding", 0))
            pads = [(-p, one - p) for p, one in zip(_three(padding), more, strict=True)]
            return self._from_both_ends(pads, lambda own: F.pad(func(**given), _flat(own)), words, x)
        reach = [d * (k - 1) for d, k in zip(_three(given.get("dilation", 1)), kernel, strict=True)]
        known = [(r // 2, r - r // 2) for r in reach] if padding == "same" else None
        pads = _ending_with_a_window(x, known or _both(0 if padding == "valid" else padding), reach, stride)
        return self._from_both_ends(pads, lambda own: func(**{**given, "input": F.pad(x, _flat(own))}), words, x)

    def _pooling(self, func: Any, name: str, given: dict[str, Any]) -> Tensor:
        if given.get("ceil_mode"):
            return func(**given)  # type: ignore[no-any-return]
        x, kernel = given["input"], _three(given["kernel_size"])
        stride = _three(given.get("stride") or kernel)
        reach = [d * (k - 1) for d, k in zip(_three(given.get("dilation", 1)), kernel, strict=True)]
        pads = _ending_with_a_window(x, _both(given.pop("padding", 0)), reach, stride)
        fill = float("-inf") if name == "max_pool3d" else 0.0

        def run(own: Pads) -> Tensor:
            return func(**{**given, "input": F.pad(x, _flat(own), value=fill)})  # type: ignore[no-any-return]

        return self._from_both_ends(pads, run, f"a {name} (window {_shown(kernel)}, stride {_shown(stride)})", x)

    def _padding(self, func: Any, _: str, given: dict[str, Any]) -> Tensor:
        pad = list(given["pad"])
        if len(pad) != 6:
            return func(**given)  # type: ignore[no-any-return]
        pads = [(pad[4], pad[5]), (pad[2], pad[3]), (pad[0], pad[1])]
        return self._from_both_ends(pads, lambda own: func(**{**given, "pad": _flat(own)}), "padding", given["input"])

    def _from_both_ends(self, pads: Pads, run: Callable[[Pads], Tensor], words: str, x: Tensor) -> Tensor:
        """The mean over the ends of each axis, where they are not treated alike."""
        if all(low == high for low, high in pads):
            return run(pads)
        self.changed[f"{words} on {_shown(x.shape[2:])}"] = None
        found = [run(list(own)) for own in _mirrored(pads)]
        return torch.stack(found).mean(0)


def _mirrored(pads: Pads) -> Iterator[tuple[tuple[int, int], ...]]:
    yield from product(*({pad, pad[::-1]} for pad in pads))


def _ending_with_a_window(x: Tensor, pads: Pads, reach: list[int], stride: list[int]) -> Pads:
    """Padding less what the last window leaves, which makes no difference to what is computed."""
    return [
        (low, high - (size + low + high - far - 1) % step)
        for size, (low, high), far, step in zip(x.shape[2:], pads, reach, stride, strict=True)
    ]


def _both(padding: Any) -> Pads:
    return [(own, own) for own in _three(padding)]


def _flat(pads: Pads) -> list[int]:
    return [own for pad in reversed(pads) for own in pad]


def _three(value: Any) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value) * (3 // len(value))


def _shown(value: Any) -> str:
    return "×".join(str(int(one)) for one in value)
