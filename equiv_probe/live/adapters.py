"""How a framework's batches are read and written.

An adapter is for batches that are not made of tensors, tuples and dicts; a plugin offers it through its entry point.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin, get_type_hints

import torch

from equiv_probe.live.cutting import CannotCut, GraphNames, cut_graphs
from equiv_probe.live.nested import Tree, dicts_in, entries, read, written
from equiv_probe.live.outputs import new_outputs
from equiv_probe.live.wrappers import network
from equiv_probe.schema.schema import Named, Schema, named, unnamed
from equiv_probe.schema.usual_names import joined_matrices

if TYPE_CHECKING:
    from torch import Tensor, nn

    from equiv_probe.estimation.objectives import Evaluate
    from equiv_probe.schema.structures import Structures

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rebuild = Callable[[Named], Arguments]
Part = Callable[[Mapping[str, "Tensor"]], dict[str, "Tensor"]]


class Adapter(ABC):
    """How a framework's batches are read and written."""

    optional: frozenset[str] = frozenset()
    """Inputs that a call may leave out."""
    unsure: ClassVar[bool] = False
    """Whether copies are joined by convention: then two are evaluated together and one by one, once, and must agree."""

    places: Sequence[str] = ()
    """Names of the places of a tuple that the network puts out, where its annotation gives them."""

    @abstractmethod
    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """Arguments of a call by name, and how to make fresh arguments from such values."""

    def stack(self, inputs: Named, rotated: Mapping[str, Tensor]) -> tuple[Named, Part] | None:
        """One call's arguments for several copies of a call.

        Args:
            inputs: of the call, ``(*S)`` by name.
            rotated: the inputs that rotate, for every copy, ``(C, *S)`` by name.

        Returns:
            The arguments by name, and how to part the outputs of that one call into ``(C, *S)``; None where copies
            cannot share a call, or are dense batches ``(B, N, 3)``, which the probe joins itself.
        """
        del inputs, rotated
        return None

    def cut(self, inputs: Named, structures: Structures, chosen: Tensor) -> Named:
        """The chosen ``(S,)`` structures of a batch of graphs, by name.

        Raises:
            CannotCut: nobody knows which entries are theirs.
        """
        del inputs, structures, chosen
        raise CannotCut

    def structures(self, inputs: Named, schema: Schema, center: str | Tensor) -> Structures | None:
        """Which rotation belongs to what; None to go by the names of the inputs."""
        del inputs, schema, center
        return None

    def infer(self, inputs: Named, raw: Any, declared: Schema | None) -> Schema:
        """The schema of a call and its output, as far as it is not declared."""
        names = None if declared is None else list(declared.outputs)
        found = Schema.infer(inputs, new_outputs(raw, inputs, names), declared)
        places = [] if names or not isinstance(raw, (tuple, list)) else list(self.places[: len(raw)])
        if len(places) != len(found.outputs) or list(found.outputs) != [str(place) for place in range(len(places))]:
            return found
        return Schema.infer(inputs, new_outputs(raw, inputs, places), declared)

    def labels(self) -> Evaluate | None:
        """What finds the labels among the inputs of a call where nobody named them; None where nothing can."""
        return None

    def dicts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """The caller's own dicts, into which a network may write."""
        return [value for value in (*args, *kwargs.values()) if isinstance(value, dict)]


def annotated_places(forward: Callable[..., Any]) -> Sequence[str]:
    """Names of the places of the tuple that a function returns, by its annotation; empty where that gives none.

    >>> from typing import Annotated
    >>> def forward(pos) -> tuple[Annotated[float, "energy"], Annotated[list, "forces"]]: ...
    >>> annotated_places(forward)
    ['energy', 'forces']
    """
    try:
        returned = get_type_hints(forward, include_extras=True).get("return")
    except (NameError, TypeError):  # of a name that is there for type checkers only
        return ()
    fields: Sequence[str] = getattr(returned, "_fields", ())
    if fields:
        return list(fields)
    noted = [getattr(one, "__metadata__", ()) for one in get_args(returned)] if get_origin(returned) is tuple else []
    names = [next((text for text in notes if isinstance(text, str)), "") for notes in noted]
    return names if all(names) else ()


class CallAdapter(Adapter):
    """Calls with tensors, and with tuples, dicts and dataclasses of them, named by ``forward`` and by their keys.

    Copies are not stacked: the probe itself does that for dense batches.
    """

    opens_graphs: ClassVar[bool] = True
    """Whether graphs that nobody else knows are read as dicts of their tensors."""

    def __init__(self, module: nn.Module) -> None:
        kinds = inspect.Parameter
        try:
            parameters = list(inspect.signature(network(module).forward).parameters.values())
        except (TypeError, ValueError):
            parameters = []
        self._names = [p.name for p in parameters if p.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}]
        self.optional = frozenset(p.name for p in parameters if p.default is not kinds.empty)
        self.places = annotated_places(network(module).forward)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`Adapter`; entries of a tuple are ``name.0`` and so on, keys that are taken ``name.key``.

        What lies deeper has the whole way to it as its name: ``inputs.pos``.
        """
        labels = [self._names[i] if i < len(self._names) else str(i) for i in range(len(args))]
        slots = [*zip(labels, args, strict=True), *kwargs.items()]
        leaves: Named = {}
        trees: list[Tree] = []
        taken = {label for label, value in slots if entries(value) is None}
        for label, value in slots:
            tree, own = read(value, label, taken, graphs=self.opens_graphs)
            trees.append(tree)
            leaves.update(own)
            taken |= set(own)
        joined = _joined(leaves)
        leaves.update({name: leaves[name].reshape(-1, 3, 3) for name in joined})

        def rebuild(values: Named) -> Arguments:
            values = {**values, **{name: values[name].reshape(-1, 3) for name in joined}}
            made = [written(tree, values) for tree in trees]
            return tuple(made[: len(args)]), dict(zip(kwargs, made[len(args) :], strict=True))

        return leaves, rebuild

    def cut(self, inputs: Named, structures: Structures, chosen: Tensor) -> Named:
        """See :class:`Adapter`; by the usual names of indices, and by the lengths of tensors."""
        if structures.index is None:
            raise CannotCut
        return cut_graphs(inputs, chosen, GraphNames.usual(inputs), structures.index)

    def dicts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[dict[str, Any]]:
        """See :class:`Adapter`; also those inside of others."""
        return [one for value in (*args, *kwargs.values()) for one in dicts_in(value)]


def _joined(leaves: Named) -> list[str]:
    """Cells and stresses of a batch of graphs, one below the other: ``(3B, 3)``; of a single graph beside its index."""
    is_graph_batch = any(_is_index(name, value) for name, value in leaves.items())
    found = []
    for name, value in leaves.items():
        if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested:
            shape = tuple(value.shape)
            if value.is_floating_point() and joined_matrices(name, shape, single=is_graph_batch):
                found.append(name)
    return found


def _is_index(name: str, value: Any) -> bool:
    whole = isinstance(value, torch.Tensor) and not value.is_floating_point()
    return whole and value.ndim == 1 and name.rpartition(".")[2].lower() in {"batch", "ptr", "batch_idx", "batch_index"}


class InputAdapter(CallAdapter):
    """Calls with one argument, named as :func:`equiv_probe.twirl` names it: tensors and tuples by the schema's order.

    Args:
        module: the network.
        names: of the argument, or of its entries.
    """

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__(module)
        self._order = names

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Named, Rebuild]:
        """See :class:`Adapter`."""
        (given,) = args
        return named(given, self._order), lambda values: ((unnamed(values, given),), kwargs)
