"""Assertions for test suites: this model is equivariant, this one averages, this transform augments.

>>> import torch, equiv_probe as ep
>>> from equiv_probe.testing import assert_equivariant
>>> inputs = {"pos": torch.randn(5, 3, generator=torch.Generator().manual_seed(0))}
>>> schema = ep.Schema(inputs={"pos": ep.point}, outputs={"forces": ep.vector})
>>> def springs(x):  # towards the origin, which is nowhere near when the molecule is moved
...     return {"forces": -x["pos"]}
>>> assert_equivariant(lambda x: {"forces": x["pos"].mean(0) - x["pos"]}, inputs, schema)
>>> assert_equivariant(springs, inputs, schema, group="translation")
Traceback (most recent call last):
    ...
AssertionError: 'forces' is not equivariant under translation: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from equiv_probe.augmentation.check import check_augmentation
from equiv_probe.diagnosis.comparison import root
from equiv_probe.estimation.verdict import ROUND_OFF_FACTOR
from equiv_probe.live.batch_call import batch_call
from equiv_probe.live.isolation import isolated
from equiv_probe.orbit.rotated_model import RotatedModel
from equiv_probe.report.formatting import number
from equiv_probe.rotations.plan import RotationPlan
from equiv_probe.testing.checked import Group, checked, require_equivariant

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from equiv_probe.schema.schema import Schema

__all__ = ["Group", "assert_augments", "assert_averages", "assert_equivariant"]

CERTAIN = 5.0
"""Standard errors by which an average may miss the group average: one assertion in a million fails by chance."""


def assert_equivariant(
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    group: Group = "SO(3)",
    rtol: float | None = None,
    atol: float | None = None,
    rotations: int = 12,
    center: str | Tensor = "centroid",
    seed: int = 0,
    diagnose: bool = True,
) -> None:
    """Assert that a model is equivariant, in the mode and precision in which it is given.

    By default an output passes where its root-mean-square difference over all copies is no more than rounding
    explains: ten times the floor, which is measured by rotating the input there and back. The rotations are the same
    in every run. Random state, flags and buffers of the model stay as they are.

    Args:
        model: a module or any callable.
        batch: what it is called with: a tensor, tuple or dict, or a batch of a framework that a plugin knows. A dict
            whose keys are parameters of ``forward`` is passed as such, a tuple to a ``forward`` of several parameters
            entry by entry.
        schema: representations; None infers them, and says what was assumed.
        group: ``"SO(3)"`` rotations, ``"O(3)"`` with reflections, ``"reflection"`` the inversion and mirrors alone,
            ``"cube"`` its 24 rotations, ``"translation"`` structures moved as a whole, ``"permutation"`` another order
            of the atoms.
        rtol: largest difference of a number, relative to the root mean square of its output. Replaces the default.
        atol: the same, absolute; both add up.
        rotations: how many; those of the cube are always all that fit the grid.
        center: of rotation, as for :func:`equiv_probe.twirl`.
        seed: of the rotations, and of the order of the atoms.
        diagnose: run the cheap part of the diagnosis, and add what it says to the message.

    Raises:
        AssertionError: says which output, structure and rotation, by how much, and why as far as is known. Also for a
            model that does not depend on what was rotated, and for one that is not deterministic.
        EquivProbeError: it cannot be checked, such as translation of a model without places among its inputs.
    """
    found = checked(
        model,
        batch,
        schema,
        group=group,
        rtol=rtol,
        atol=atol,
        rotations=rotations,
        center=center,
        seed=seed,
        diagnose=diagnose,
    )
    require_equivariant(found)


def assert_averages(
    average: Callable[..., Any],
    model: Callable[..., Any],
    batch: Any,
    schema: Schema | None = None,
    *,
    replicates: int = 8,
    center: str | Tensor = "centroid",
    seed: int = 0,
) -> None:
    """Assert that a model gives the group average of another: ``average(x) = E_g ρ(g)⁻¹ model(ρ(g) x)``.

    The group average is estimated from icosahedral replicates; a component may differ by five standard errors of the
    estimate, and those of the average itself, which is evaluated four times, and by rounding.

    Args:
        average: called with ``batch``; may draw its rotations anew at every call.
        model: that it averages.
        batch: as for :func:`assert_equivariant`.
        schema: representations; None infers them from ``model``.
        replicates: of 60 rotations each.
        center: of rotation.
        seed: of the rotations.

    Raises:
        AssertionError: says which output differs from the group average, by how much, and how far the model itself is
            from it.
    """
    modules = [one for one in (average, model) if isinstance(one, nn.Module)]
    with isolated(*modules, gradients=True, contents=True):
        call = batch_call(model, batch, schema)
        subject = RotatedModel(call.predict, call.inputs, call.schema, center, precision=call.precision)
        plan = RotationPlan("icosahedral", replicates=replicates, seed=seed)
        values = subject.rotated_back(plan.rotations().flatten(0, 1))
        claimed = RotatedModel(batch_call(average, batch, subject.schema).predict, call.inputs, subject.schema, center)
        draws = [claimed.identity, *({n: v[0] for n, v in claimed.unrotated().items()} for _ in range(3))]
        wrong = []
        for name, own in subject.identity.items():
            means = values[name].reshape(replicates, -1, *own.shape).mean(1)
            given = torch.stack([one[name] for one in draws])
            error = (_squared_error(means) + _squared_error(given)).sqrt()
            rounding = ROUND_OFF_FACTOR * torch.finfo(call.precision or torch.float64).eps * root(own)
            off = given.mean(0) - means.mean(0)
            if not bool((off.abs() <= CERTAIN * error + rounding).all()):  # what is not finite is no average
                wrong.append(
                    f"{name!r} is not the group average: it is off by {number(root(off))}, where chance explains "
                    f"{number(root(error))}; the model itself is off by {number(root(own - means.mean(0)))}"
                )
        if wrong:
            raise AssertionError("\n".join(wrong))


def assert_augments(
    transform_or_dataset: Any, sample: Any = None, schema: Schema | None = None, **options: Any
) -> None:
    """Assert that a user's augmentation draws Haar rotations, independent ones, and rotates the labels along.

    Args:
        transform_or_dataset: as for :func:`equiv_probe.check_augmentation`.
        sample: likewise.
        schema: likewise.
        options: its keywords.

    Raises:
        AssertionError: says what is wrong with it.
    """
    check = check_augmentation(transform_or_dataset, sample, schema, **{"progress": False, **options})
    if not check.ok:
        raise AssertionError("\n".join(f"{one.name}: {one.sentence}" for one in check.wrong))


def _squared_error(values: Tensor) -> Tensor:
    return values.var(0) / len(values)
