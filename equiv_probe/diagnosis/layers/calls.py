"""The calls of all submodules in one evaluation, with the tensors that go in and come out, by name."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from equiv_probe.live.nested import Tree, read, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    Tensors = dict[str, Tensor]


class CallKey(NamedTuple):
    """Which call it is: the path of the module in the model, and how often it was called before in this evaluation."""

    path: str
    nth: int


@dataclass
class Call:
    """A call of a submodule while it runs.

    Attributes:
        key: which one.
        module: that is called.
        depth: how many calls it is inside of.
        inputs: tensors that go in, by name.
        outputs: tensors that come out and did not go in, by name; empty before the end.
    """

    key: CallKey
    module: nn.Module
    depth: int
    inputs: Tensors
    outputs: Tensors = field(default_factory=dict)
    given: dict[int, int] = field(default_factory=dict)


class Visitor(Protocol):
    """What looks at calls, and may replace tensors."""

    def enter(self, call: Call) -> Mapping[str, Tensor] | None:
        """A call begins; tensors by name replace those that go in."""

    def leave(self, call: Call) -> Mapping[str, Tensor] | None:
        """A call ends; tensors by name replace those that come out."""


class WatchedCalls:
    """Hooks on all submodules, which hand every call to a visitor.

    Args:
        roots: modules by path; their submodules are watched as well.
    """

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self.modules: dict[str, nn.Module] = {}
        for path, root in roots.items():
            for name, module in root.named_modules(prefix=path):
                self.modules.setdefault(name, module)
        self._paths = {id(module): name for name, module in reversed(self.modules.items())}
        self.visitor: Visitor | None = None
        self._open: list[Call] = []
        self._counts: dict[str, int] = {}
        self.problems: dict[str, str] = {}
        """Modules whose tensors could not be read or replaced, and why."""

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks are there inside, and gone afterwards."""
        with ExitStack() as stack:
            for module in {id(one): one for one in self.modules.values()}.values():
                try:
                    handles = [
                        module.register_forward_pre_hook(self._before, with_kwargs=True),
                        module.register_forward_hook(self._after, with_kwargs=True),
                    ]
                except (RuntimeError, TypeError, ValueError) as error:  # scripted modules take fewer kinds of hooks
                    self.problems[self._paths[id(module)]] = f"takes no hooks: {error}".split("\n")[0][:120]
                    continue
                for handle in handles:
                    stack.callback(handle.remove)
            yield

    @contextmanager
    def visited_by(self, visitor: Visitor) -> Iterator[None]:
        """Let a visitor look at one evaluation."""
        self.visitor, self._open, self._counts = visitor, [], {}
        try:
            yield
        finally:
            self.visitor, self._open = None, []

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self._paths.get(id(module))
        if self.visitor is None or path is None:
            return None
        count = self._counts.get(path, 0)
        self._counts[path] = count + 1
        tree, leaves = _read({"args": args, "kwargs": kwargs})
        inputs = {_argument(module, name): value for name, value in leaves.items()}
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        call = Call(CallKey(path, count), module, len(self._open), tensors)
        call.given = {id(value): _version(value) for value in tensors.values()}
        self._open.append(call)
        replaced = self.visitor.enter(call)
        if not replaced:
            return None
        places = {_argument(module, name): name for name in leaves}
        made = written(tree, {**leaves, **{places[name]: value for name, value in replaced.items()}})
        return made["args"], made["kwargs"]

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        del args, kwargs
        path = self._paths.get(id(module))
        if self.visitor is None or path is None or not self._open:
            return None
        # A call that raised, and whose error was caught, is still open.
        while self._open and self._open[-1].key.path != path:
            self._open.pop()
        if not self._open:
            return None
        call = self._open.pop()
        tree, leaves = _read(output)
        call.outputs = {
            name: value
            for name, value in leaves.items()
            if isinstance(value, torch.Tensor) and call.given.get(id(value)) != _version(value)
        }
        replaced = self.visitor.leave(call)
        return written(tree, {**leaves, **replaced}) if replaced else None


def _read(value: Any) -> tuple[Tree, dict[str, Any]]:
    """Leaves by name; whatever refers to itself is one leaf."""
    try:
        return read(value, "output", graphs=True)
    except (RecursionError, AttributeError, TypeError):
        return Tree(value, "output"), {"output": value}


def _argument(module: nn.Module, name: str) -> str:
    """``args.0`` by the name that the module's ``forward`` has for it, where there is one."""
    head, _, rest = name.removeprefix("output.").partition(".")
    if head == "kwargs":
        return rest
    place, _, inner = rest.partition(".")
    names = _parameters(type(module))
    own = names[int(place)] if place.isdigit() and int(place) < len(names) else rest.partition(".")[0]
    return f"{own}.{inner}" if inner else own


_NAMES: dict[type, Sequence[str]] = {}


def _parameters(kind: type) -> Sequence[str]:
    if kind not in _NAMES:
        try:
            found = list(inspect.signature(kind.forward).parameters.values())[1:]  # type: ignore[attr-defined]
            _NAMES[kind] = [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
        except (TypeError, ValueError, AttributeError):
            _NAMES[kind] = []
    return _NAMES[kind]


def _version(value: Tensor) -> int:
    return -1 if value.is_inference() else int(value._version)
