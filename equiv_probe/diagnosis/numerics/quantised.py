"""Weights or numbers on the way that have a handful of levels: int8, float8."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from equiv_probe.diagnosis.comparison import root, variance
from equiv_probe.diagnosis.evaluation import under
from equiv_probe.diagnosis.experiment import NotApplicable, experiment, finding
from equiv_probe.diagnosis.finding import Finding
from equiv_probe.diagnosis.subject import FEW
from equiv_probe.report.formatting import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from equiv_probe.diagnosis.experiment import Findings
    from equiv_probe.diagnosis.subject import Subject

NAME = "quantisation"
_FLOAT8 = [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2")]
_FEW_BITS = {torch.int8, torch.uint8, *_FLOAT8}
_ROUNDS = {"round", "quantize_per_tensor", "quantize_per_channel", "fake_quantize_per_tensor_affine"}
_ROUNDS |= {"fake_quantize_per_channel_affine", "dequantize", "char"}
NEAR = 10.0
"""Times its symmetry error that an output may change without rounding: rounding makes about as much of either."""
LEVELS = 17
"""Different values that a tensor has at least to be looked at: signs, zeros and halves are no rounded weights."""
TIMES = 10.0
"""Levels of the weights, as far apart as they are, by which weights are moved: what that makes stands out."""
ALIKE = 5.0
"""Within which factor errors lie that one rounding makes and another as coarse."""


class _Unrounded(TorchFunctionMode):
    """Rounding and casts to a few bits leave numbers as they are; counts how many do."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        name, given = getattr(func, "__name__", ""), (*args, *(kwargs or {}).values())
        casts = name in {"to", "type"} and any(isinstance(one, torch.dtype) and one in _FEW_BITS for one in given)
        if (name in _ROUNDS or casts) and args and isinstance(args[0], Tensor) and args[0].dtype.is_floating_point:
            self.calls += 1
            return args[0]
        return func(*args, **(kwargs or {}))


@experiment(NAME, "numerics", "Are weights, or numbers on the way, rounded to a handful of levels?", cost=3 * FEW + 1)
def quantised(subject: Subject) -> Findings:
    """Leave rounding on the way out; of weights, whose other digits are lost, move them by as much."""
    coarse = _coarse_weights(subject.module)
    unrounded, mode = _without_rounding(subject)
    if not (mode.calls or unrounded is not subject.predict or coarse):
        raise NotApplicable("nothing in it is rounded to a few bits")
    explained = []
    for one in _on_the_way(subject, unrounded, mode):
        explained += [one.output] if one.state == "explains" else []
        yield one
    if coarse and set(explained) != set(subject.broken):
        yield from _in_the_weights(subject, coarse)


def _on_the_way(subject: Subject, unrounded: Callable[[Any], Any], mode: _Unrounded) -> Findings:
    predict = under(lambda: mode, unrounded)
    known = subject.at(subject.inputs, predict)
    after = subject.again(predict=predict)
    if not (mode.calls or unrounded is not subject.predict):
        return
    for name in subject.broken:
        if root(known[name] - subject.identity[name]) > NEAR * subject.error(name):
            continue  # something else than quantisation was rounded: the model is another one without
        best = subject.compare(name, after[name])
        sentence = (
            f"{name!r} is off by {subject.amount(name, best.before)}, and by {number(best.after, 2)} if nothing is "
            "rounded to a few bits on the way"
        )
        advice = (
            "Quantise what does not depend on the frame, scalars and the weights between them, and keep vectors, "
            "higher degrees and geometry in floating point; or quantise vectors by their norm."
        )
        yield finding(NAME, name, best, sentence, advice)


def _in_the_weights(subject: Subject, coarse: dict[str, Tensor]) -> Findings:
    """What rounding to levels as far apart makes anew: with noise added and taken away, squares add up without it."""
    assert subject.module is not None
    squares = dict.fromkeys(subject.broken, 0.0)
    for times in (TIMES, -TIMES):
        module = _jittered(subject.module, {name: times * spacing for name, spacing in coarse.items()}, subject.seed)
        after = subject.again(predict=subject.by(module))
        squares = {name: square + variance(after[name]) / 2 for name, square in squares.items()}
    for name, square in squares.items():
        error = subject.error(name)
        made = max(0.0, square - error**2) ** 0.5 / TIMES
        if not error / ALIKE < made < ALIKE * error:
            continue
        sentence = (
            f"{len(coarse)} of the model's tensors have the few levels of 8 bits, such as {next(iter(coarse))!r}; "
            f"moving them by half a level either way makes {name!r} off by {subject.amount(name, made)}, about the "
            f"{number(error, 2)} that it is off by"
        )
        advice = (
            "Keep constants that symmetry rests on in floating point (Clebsch-Gordan coefficients, changes of basis, "
            "weights of layers that are equivariant only as they were trained), and quantise the others."
        )
        yield Finding(NAME, name, sentence, advice, "cause", error, max(0.0, error - ALIKE * made), 1.0)


def _without_rounding(subject: Subject) -> tuple[Callable[[Any], Any], _Unrounded]:
    """The model with torch's quantised linear layers in floating point, and a mode, which has seen it once."""
    mode, predict = _Unrounded(), subject.predict
    if subject.module is not None and _quantised_layers(subject.module):
        module = copy.deepcopy(subject.module)
        for path, layer in _quantised_layers(module).items():
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, _in_floating_point(layer))
        predict = subject.by(module)
    with mode:
        predict(subject.inputs)
    return predict, mode


def _quantised_layers(module: nn.Module) -> dict[str, Any]:
    known = {path: part for path, part in module.named_modules() if "quantized" in type(part).__module__}
    return {path: part for path, part in known.items() if path and callable(getattr(part, "weight", None))}


def _in_floating_point(layer: Any) -> nn.Module:
    weight, bias = layer.weight().dequantize(), layer.bias()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def _coarse_weights(module: nn.Module | None) -> dict[str, Tensor]:
    """Tensors of a module that have no more levels than 8 bits, and the distances between them, by name."""
    found = {}
    for name, value in [] if module is None else [*module.named_parameters(), *module.named_buffers()]:
        if value.is_floating_point() and value.numel() >= LEVELS and len(torch.unique(value)) >= LEVELS:
            spacing = _spacing(value.detach())
            if spacing is not None:
                found[name] = spacing
    return found


def _spacing(value: Tensor) -> Tensor | None:
    """Between the levels of a tensor that were made by rounding: of int8, by tensor or by row, or of float8."""
    rows = value.double().reshape(len(value), -1)
    for flat in (rows.reshape(1, -1), rows):
        largest, low, high = flat.abs().amax(1, keepdim=True), flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        for first, step in ((0.0, largest / 127), (0.0, largest / 128), (low, (high - low) / 255)):
            counts = (flat - first) / step
            if bool(((counts - counts.round()).abs() < 1e-2).all()):
                return step.expand_as(flat).reshape(value.shape)
    for kind in _FLOAT8:
        if torch.equal(value.to(kind).to(value.dtype), value):
            return torch.finfo(kind).eps * torch.exp2(value.double().abs().clamp_min(1e-30).log2().floor())
    return None


def _jittered(module: nn.Module, spacings: dict[str, Tensor], seed: int) -> nn.Module:
    made = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    named = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    with torch.no_grad():
        for name, spacing in spacings.items():
            noise = torch.rand(spacing.shape, generator=generator, dtype=torch.float64) - 0.5
            named[name] += (spacing * noise.to(spacing.device)).to(named[name].dtype)
    return made
