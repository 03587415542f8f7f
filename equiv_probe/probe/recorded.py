"""A step of the user's own that ran once: its calls of the network, and how to run it again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from equiv_probe.errors import EquivProbeError
from equiv_probe.live.capture import plain, transforming
from equiv_probe.live.cutting import CannotCut
from equiv_probe.live.isolation import isolated
from equiv_probe.live.memory import Memory
from equiv_probe.live.outputs import all_outputs, write_outputs
from equiv_probe.live.random_state import RandomState
from equiv_probe.live.silence import silenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn

    from equiv_probe.live.capture import Call
    from equiv_probe.live.left_behind import LeftBehind
    from equiv_probe.live.live_orbit import LiveOrbit
    from equiv_probe.live.module_snapshot import ModuleSnapshot
    from equiv_probe.schema.schema import Schema
    from equiv_probe.schema.structures import Structures


@dataclass
class Recorded:
    """One call of the user's own run: what went in, what came out, and the random state around it.

    Attributes:
        call: what went in.
        before: the random state before the call.
        attributes: what it leaves in those of the network's modules.
        after: and after it.
        raw: the output; a copy, where the network outputs the dict it was given.
        own: which of the call's dicts the network put out, if so.
        left: what the call's dicts held after it.
        outputs: copies of the tensors in the output, by name: the step may write into its own.
    """

    call: Call
    before: RandomState
    attributes: LeftBehind
    after: RandomState | None = None
    raw: Any = None
    own: int | None = None
    left: tuple[dict[str, Any], ...] = ()
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def put_out(self, raw: Any) -> None:
        """Keep the output, and what the caller's dicts hold now."""
        self.after = RandomState.now(generator for generator, _ in self.before.own)
        self.attributes.note()
        self.left = tuple(dict(given) for given, _ in self.call.dicts)
        self.own = next((k for k, (given, _) in enumerate(self.call.dicts) if given is raw), None)
        self.raw = raw if self.own is None else self.left[self.own]
        if transforming():
            found = all_outputs(self.raw)
            self.raw = write_outputs(self.raw, {n: plain(v) for n, v in found.items()}, list(found))
        with torch.no_grad():
            outputs = all_outputs(self.raw, joined=True)
            self.outputs = {n: v.detach().clone() for n, v in outputs.items() if isinstance(v, torch.Tensor)}

    def known(self, schema: Schema) -> dict[str, Tensor]:
        """The outputs that a schema names, as they were when the network returned."""
        names = list(all_outputs(self.raw))
        renamed = dict(zip(all_outputs(self.raw, list(schema.outputs)), names, strict=True))
        return {name: self.outputs[renamed[name]] for name in schema.outputs}


@dataclass(frozen=True)
class RecordedStep:
    """A step after its one ordinary run, and all that is needed to run it again.

    Attributes:
        step: the user's closure.
        calls: of the network, in its ordinary run.
        before: the random state before that.
        result: what it returned.
        module: the probed module, in whose place others are put.
        live: how to evaluate it at rotated inputs.
        memory: what the step can write into, as it was before its ordinary run; and modules likewise.
        protect: other modules that the step touches.
        trains: whether it changed weights of the network, or of another module: run again, it would train again.
        unrepeatable: what it used that cannot be put back, by name: then it must not be run again.
    """

    step: Callable[[], Any]
    calls: list[Recorded]
    before: RandomState
    result: Any
    module: nn.Module
    live: LiveOrbit
    memory: Memory
    snapshot: ModuleSnapshot
    protect: tuple[nn.Module, ...] = ()
    trains: bool = False
    unrepeatable: tuple[str, ...] = ()

    @property
    def batch_memory(self) -> Memory:
        """What holds the batch: what the step names, or its arguments, where it holds copies of these itself."""
        given = getattr(self.step, "arguments", None)
        return self.memory if given is None else Memory([("", given)])

    @property
    def never_again(self) -> str:
        """Why the step must not be run again, as what it does; empty if it may be."""
        used = f"uses {', '.join(self.unrepeatable)}, which cannot be put back" if self.unrepeatable else ""
        return " and ".join(filter(None, ["changes the model's weights" if self.trains else "", used]))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All that are kept from what happens when the step is run again."""
        return tuple(dict.fromkeys((self.module, self.live.network, *self.protect)))

    @property
    def structures(self) -> list[Structures]:
        """Of each call."""
        return [self.live.structures(one.call.inputs) for one in self.calls]

    @property
    def device(self) -> torch.device:
        """Of the first call's tensors."""
        tensors = (v for v in self.calls[0].call.inputs.values() if isinstance(v, torch.Tensor))
        return next((v.device for v in tensors), torch.device("cpu"))

    def resolve(self) -> None:
        """Settle the representations by the recorded calls."""
        with torch.no_grad():
            for one in self.calls:
                self.live.resolve(one.call, one.raw)

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """A context in which the step may be run again, without a trace."""
        dicts = [given for one in self.calls for given, _ in one.call.dicts]
        own = [generator for generator, _ in self.before.own]
        isolation = isolated(*self.modules, gradients=True, contents=True, apart=dicts, generators=own)
        after, objects = self.memory.now(), self.snapshot.objects.now()
        with silenced(), isolation, own_dicts(self.calls):
            try:
                yield
            finally:
                after.restore(surely=True)
                objects.restore(surely=True)

    def rewind(self) -> None:
        """Put the state before the step in place, for another run of it inside :meth:`repeating`."""
        self.before.restore()
        self.snapshot.restore()
        self.memory.restore()

    def again(self) -> Any:
        """What the step returns when it is run again, with whatever stands in for the network.

        What it raises then, and did not raise in its ordinary run, is raised with a note on why that may be.
        """
        try:
            return self.step()
        except (EquivProbeError, CannotCut):
            raise
        except Exception as error:
            name = type(self.live.network).__name__
            note = (
                f"equiv_probe: this was raised when the step was run again with other outputs in the place of those of "
                f"{name}. A step that can be run so takes all it needs of the network from what that returns, not from "
                "what a pass leaves in a dict, or by a hook inside of it, which is not there then. Fix: return it from "
                f"{name}.forward, or probe the module whose output it is"
            )
            error.add_note(note)
            raise

    def undo(self) -> None:
        """Let everything outside of modules be as if the step had not run, where its ordinary run was ours."""
        self.snapshot.objects.restore(surely=True)
        self.memory.restore(surely=True)


@contextmanager
def own_dicts(recorded: list[Recorded]) -> Iterator[None]:
    """The caller's dicts, into which the network may write, in the end as they were after the user's own run."""
    after = [(given, dict(given)) for one in recorded for given, _ in one.call.dicts]
    try:
        yield
    finally:
        for given, contents in after:
            refill(given, contents)


def refill(given: dict[str, Any], contents: Mapping[str, Any]) -> None:
    """Give a dict other contents, in place; some, such as HuggingFace's, let nobody update them without need."""
    if list(given) == list(contents) and all(given[name] is value for name, value in contents.items()):
        return
    given.clear()
    given.update(contents)
