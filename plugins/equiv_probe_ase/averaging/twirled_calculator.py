"""``TwirledCalculator``: any ASE calculator, averaged over rotations at every call."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs

from equiv_probe.deprecation import renamed
from equiv_probe.errors import EquivProbeError
from equiv_probe_ase.averaging.average import Average, Averager
from equiv_probe_ase.averaging.choice import chosen_plan, oriented_plan, spread_over
from equiv_probe_ase.averaging.companions import Companions
from equiv_probe_ase.averaging.plans import RANDOM_FRAME, asked_of, is_oriented, plan_of
from equiv_probe_ase.averaging.state_changes import changed, declared_values, seen_by
from equiv_probe_ase.calculators.by_name import as_calculator
from equiv_probe_ase.structures.quantities import QUANTITIES, choose
from equiv_probe_ase.structures.rotation import Rotator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from equiv_probe.estimation.choice_of_plan import ChosenPlan
    from equiv_probe.estimation.controls import Control
    from equiv_probe.rotations.resolve import PlanLike
    from equiv_probe.schema.schema import Schema
    from equiv_probe_ase.averaging.average import Output
    from equiv_probe_ase.averaging.plans import Mode


class TwirledCalculator(Calculator):  # type: ignore[misc]
    """The nearest equivariant force field to a calculator: its outputs at rotated copies, rotated back and averaged.

    ``"average"`` uses the plan's own rotations at every call: a function of the positions, as smooth as the calculator,
    whose forces are its gradient if the calculator's are; fit for minimisation and NVE. A plan of degree t leaves
    broken symmetry of angular degrees above t (of one icosahedral replicate 1 to 5 are gone, 6 is not), and conserves
    angular momentum up to that; more replicates, ``"design-<degree>"`` or ``"lebedev-<degree>"`` go further. No other
    fault is cured: forces that are not the energy's gradient stay so, energy drifts, and their net torque need not
    vanish. ``"auto"`` measures at the first structure what the designs leave, takes the cheapest that leaves at most
    ``target``, and keeps it; `chosen` says what was measured.

    ``redraw=True`` rotates the plan anew at every call, and ``"random-frame"`` evaluates a single random rotation, at
    the price of the calculator alone. Over calls, the mean of both is the exact twirl. But a call is noisy: neither
    conserves energy, noise ``δF`` in the forces heats NVE by ``Σ_i ⟨|δF_i|²⟩ Δt² / 2m_i`` a step on average (use a
    thermostat), and no optimiser converges.

    Args:
        calculator: any ASE calculator, its name as on the command line, or a function that makes one; not copied, and
            what it remembers of its last structure is lost.
        plan: the rotations; None is one icosahedral replicate, 60 rotations. The Klein, tetrahedral and octahedral
            groups take 4, 12 and 24. ``"auto"`` chooses.
        mode: ``"average"`` or ``"random-frame"``, which takes no plan.
        redraw: rotate the plan anew at every call.
        store_std: put uncertainties beside the results, which ``SinglePointCalculator`` does not take.
        seed: of the rotations; None takes the plan's.
        target: of ``plan="auto"``: what the average may be off by, as a fraction of what one frame is (None: 0.05), or
            by property in ASE's units, ``{"forces": 1e-3}``.
        properties: ASE property names; None takes all of which it is known how they rotate.
        orient: at the first structure measure (240 rotations, once) along which directions of its own frame the model
            errs, and let the plan lie there so that it leaves the least. None does so for ``"auto"`` alone.
        schema: representations of further outputs, and of further inputs in ``atoms.arrays`` or ``atoms.info``.
        batched: False calls the calculator once per rotation even if its model takes batches.
        atoms_per_call: most atoms in one model pass; halved when memory runs out.

    ``results`` holds the averages under ASE's names and in ASE's units and, with ``store_std``:

    - ``energy_std``, ``forces_std`` ``(N, 3)``, ``stress_std`` ``(6,)``, …: standard deviation of the orbit, what one
      frame is off by. With two replicates or more its square is unbiased; of one rotation none.
    - ``energy_stderr``, ``forces_stderr``, …: standard error of the average, with two replicates or more.

    Constraints act outside, as ever in ASE. What one state is asked for in several calls comes from the same rotations;
    where rotations are drawn, ``reset()`` draws anew, and `draws` counts states: with ``calc.draws = steps`` dynamics
    that goes on from a file after so many steps gets the rotations that it would have had, as with a pickled one.

    Raises:
        EquivProbeError: a plan for ``"random-frame"``, an unknown mode or property, nothing that could be averaged.

    >>> from ase.build import molecule
    >>> from ase.calculators.emt import EMT
    >>> atoms = molecule("CO")
    >>> atoms.calc = TwirledCalculator(EMT(), "tetrahedral")
    >>> bool(abs(atoms.get_forces() - EMT().get_forces(atoms)).max() < 1e-12)  # EMT breaks nothing
    True
    >>> bool(atoms.calc.results["forces_std"].max() < 1e-12)
    True
    """

    @renamed(calc="calculator")
    def __init__(
        self,
        calculator: Calculator | str | Callable[[], Calculator],
        plan: PlanLike | None = None,
        mode: Mode = "average",
        *,
        redraw: bool = False,
        store_std: bool = True,
        seed: int | None = None,
        target: float | Mapping[str, float] | None = None,
        orient: bool | None = None,
        properties: Sequence[str] | str | None = None,
        schema: Schema | None = None,
        batched: bool = True,
        atoms_per_call: int | None = None,
    ) -> None:
        super().__init__()
        self._asked = asked_of(mode, plan, target, seed)
        self.chosen: ChosenPlan | None = None
        """What ``plan="auto"`` chose, at the first structure, and by which measurements."""
        self.plan = self._asked.plan("icosahedral") if self._asked else plan_of(mode, plan, redraw=redraw, seed=seed)
        self._orients = is_oriented(orient, self._asked, self.plan, mode)
        self.mode, self.redraw, self.store_std = mode, redraw or mode == RANDOM_FRAME, store_std
        self.calculator = as_calculator(calculator)
        implemented = list(getattr(self.calculator, "implemented_properties", []))
        asked = [properties] if isinstance(properties, str) else properties
        asked = asked or [name for name in QUANTITIES if name in implemented]
        chosen = choose(implemented, [*asked, *(schema.outputs if schema else {})], schema)
        self._quantities = {name: replace(q, factor=1.0, extensive=False) for name, q in chosen.items()}
        self.implemented_properties = list(chosen)
        self.ignored_changes = set(getattr(self.calculator, "ignored_changes", ()))
        self._inputs = dict(schema.inputs) if schema else {}
        self._averager = Averager(self.calculator, batched=batched, atoms_per_call=atoms_per_call)
        self._companions = Companions(self._quantities)
        self._given = declared_values(Atoms(), ())
        self.draws = self._present = 0
        self.parameters.update(calculator=_name_of(self.calculator), mode=mode, redraw=self.redraw)
        self._note_plan()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """ASE's entry point: everything that dynamics reads comes at once, from the same rotations.

        Raises:
            Exception: whatever the calculator within raises, PropertyNotImplementedError for what it does not give.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise EquivProbeError("no structure to evaluate", "atoms", "calc.get_forces(atoms), or atoms.calc = calc")
        asked = [] if properties is None else properties
        self._require(asked)
        self.choose([self.atoms])
        if system_changes or not self._present:
            self.results = {}
            self.draws = self._present = self.draws + 1
            self._given = declared_values(self.atoms, self._inputs)
            self._companions.begin(self.atoms)
        more = self._companions.of(self.atoms, asked)
        try:
            found = self._average([self.atoms], [*asked, *more], [self.rotations])
        except PropertyNotImplementedError:
            self._companions.leave_out(self.atoms, self._averager.not_given(self.atoms, more))
            more = self._companions.of(self.atoms, asked)
            found = self._average([self.atoms], [*asked, *more], [self.rotations])
        self.results.update(found[0])

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """ASE's, with an eye on what is asked of every state."""
        found = super().get_property(name, atoms, allow_calculation)
        if allow_calculation:
            self._companions.note([name])
        return found

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, declared inputs and what the calculator within looks at included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if changes or self.atoms is None:
            return changes
        now = declared_values(atoms, self._inputs)
        return changed(self._given, now) or seen_by(self.calculator, self.atoms, atoms, tol)

    def calculate_batch(self, structures: Sequence[Atoms], properties: Sequence[str]) -> list[dict[str, Output]]:
        """Results of many structures in as few passes of the model as possible, as an audit asks for them.

        Each is averaged over the same rotations, or over its own where rotations are drawn.
        """
        self._require(properties)
        if not len(structures):
            return []
        self.choose(spread_over(structures))
        first, self.draws = self.draws + 1, self.draws + len(structures)
        return self._average(structures, properties, [self._drawn(first + k) for k in range(len(structures))])

    def choose(self, structures: Sequence[Atoms]) -> None:
        """Let these structures decide on the plan, or on how it lies, where that is asked for and was not done yet."""
        given = (self._averager, structures, self._quantities, self._inputs)
        if self._asked is not None and self.chosen is None:
            self.chosen = chosen_plan(self._asked, *given, orient=self._orients)
            self.plan = self.chosen.plan
        elif self._orients and self.plan.orientation is None and self._asked is None:
            self.plan = oriented_plan(self.plan, *given)
        else:
            return
        self._note_plan()

    def _note_plan(self) -> None:
        """Put the plan where ASE writes what a calculator's results depend on."""
        self.parameters.update(
            design=self.plan.design if self.chosen or not self._asked else "auto",
            replicates=self.plan.R,
            improper=self.plan.improper,
            seed=self.plan.seed,
            orientation=self.plan.orientation,
        )

    @property
    def rotations(self) -> Tensor:
        """The rotations of the present state, ``(R, n, 3, 3)``."""
        return self._drawn(self._present)

    @property
    def controls(self) -> list[Control]:
        """Whether the model's outputs depend on the other rotations in a batch; if so, each is evaluated alone."""
        return self._averager.controls

    @property
    def evaluations(self) -> int:
        """How many structures the model has evaluated."""
        return self._averager.engine.evaluations

    @property
    def model_calls(self) -> int:
        """In how many passes of the model."""
        return self._averager.engine.calls

    @property
    def model_seconds(self) -> float:
        """How long the model took for them."""
        return self._averager.engine.seconds

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Refuse: rotations that change would change the energy under a running simulation."""
        if kwargs:
            raise EquivProbeError(
                f"set({', '.join(kwargs)}) on a TwirledCalculator",
                "options at construction",
                "TwirledCalculator(calculator, …)",
            )
        return {}

    def export_properties(self) -> Properties:
        """What ASE knows by name; its table has no uncertainties."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def _drawn(self, draw: int) -> Tensor:
        return self.plan.rotations(self.plan.generator(draw) if self.redraw else None)

    def _average(
        self, structures: Sequence[Atoms], names: Sequence[str], rotations: Sequence[Tensor]
    ) -> list[dict[str, Output]]:
        quantities = {name: self._quantities[name] for name in names}
        averages = [
            Average(Rotator(atoms, "origin", self._inputs), self.plan, g, quantities)
            for atoms, g in zip(structures, rotations, strict=True)
        ]
        self._averager.run(averages)
        return [average.results(store_std=self.store_std) for average in averages]

    def _require(self, properties: Sequence[str]) -> None:
        if isinstance(properties, str):
            raise EquivProbeError(f"properties={properties!r}", "a list of names", f'properties=["{properties}"]')
        unknown = [name for name in properties if name not in self._quantities]
        if unknown:
            raise PropertyNotImplementedError(
                f"{', '.join(unknown)}: {self.name} averages {', '.join(self.implemented_properties)}"
            )

    def _get_name(self) -> str:
        return f"twirled({_name_of(self.calculator)})"

    def __getstate__(self) -> dict[str, Any]:
        # A shallow copy that goes on must not write into these.
        own = {"results": dict(self.results), "_averager": copy(self._averager), "_companions": copy(self._companions)}
        return {**self.__dict__, **own}


def _name_of(calculator: object) -> str:
    return str(getattr(calculator, "name", None) or type(calculator).__name__.lower())
