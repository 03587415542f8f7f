"""Comparisons: the right change, p values and intervals that mean what they say, and no mixing of what is not alike."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

import equiv_probe as ep
from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.estimation import differences
from equiv_probe.estimation.differences import change, holm, welch
from equiv_probe.report.cells import text_of
from equiv_probe.report.document import Column
from equiv_probe.report.formatting import number, shown
from equiv_probe.report.page import fragment, page
from equiv_probe.results.comparison import Comparison, compare, p_value

from ..page_reports import audit_report, measured, run_report, sampled_report
from ..report.test_page import HOSTILE, Elements

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.random import Generator

    from equiv_probe.results.contrasts import Contrast
    from equiv_probe.results.report import Report


def contrast(found: Comparison, number: str, quantity: str = "forces") -> Contrast:
    return next(c for c in found.contrasts if (c.quantity, c.number) == (quantity, number))


def drawn(rng: Generator, count: int, hardness: Any, scale: float = 1.0, noise: float = 0.3) -> Any:
    """``L_equiv``, ``L_total`` and weight of structures, some harder than others."""
    equiv = scale * hardness * np.exp(noise * rng.standard_normal(count))
    return equiv, equiv * (4 + rng.random(count)), rng.integers(3, 30, count).astype(float)


def test_equal_weights_give_the_textbooks_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    hard = np.exp(rng.standard_normal(40))
    spread = (np.zeros(40), 0.2 * rng.random(40) - 0.08)  # differences without long tails
    a, b = ({("s", "", i): (v, 1.0) for i, v in enumerate(hard + one)} for one in spread)
    found = change(a, b, ratio=False)
    x, y = (np.array([v for v, _ in one.values()]) for one in (a, b))
    expected = stats.ttest_rel(y, x)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((y.mean() - x.mean(), low, high))
    assert found.how == "paired, 40 structures"


def test_other_structures_give_the_textbooks_welch_test() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(3, 5, 25), rng.uniform(2, 6, 40)  # no long tails
    a = {("a", "", i): (v, 1.0) for i, v in enumerate(x)}
    b = {("b", "", i): (v, 1.0) for i, v in enumerate(y)}
    found = change(a, b, ratio=False)
    expected = stats.ttest_ind(y, x, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.how == "not paired, 25 and 40 structures"


def test_welch_of_one_structure_has_no_degrees_of_freedom() -> None:
    variance, dof = welch((math.nan, 1.0), (1, 5))
    assert math.isnan(variance)
    assert math.isnan(dof)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("ratio", [True, False])
def test_p_values_and_intervals_mean_what_they_say(paired: bool, ratio: bool) -> None:
    """Two models alike: p below 0.05 in one of twenty repetitions, and the interval holds the truth in nineteen."""
    rng = np.random.default_rng(2)
    repetitions, count = 2000, 30
    rejected = covered = 0
    for _ in range(repetitions):
        hard = np.exp(0.7 * rng.standard_normal(count))
        other = hard if paired else np.exp(0.7 * rng.standard_normal(count))
        samples = []
        for hardness, name in ((hard, "a"), (other, "a" if paired else "b")):
            equiv, total, weight = drawn(rng, count, hardness)
            below = weight if ratio else weight * total  # the error itself, or its share in the loss
            samples.append(
                {(name, "", i): (e * w, d) for i, (e, w, d) in enumerate(zip(equiv, weight, below, strict=True))}
            )
        found = change(samples[0], samples[1], ratio=ratio)
        rejected += found.p < 0.05
        covered += found.low <= float(ratio) <= found.high
    # Binomial standard error 0.5 %; the delta method with 30 structures of unequal weight is a percent off.
    assert 0.035 < rejected / repetitions < 0.075
    assert covered == repetitions - rejected  # the interval leaves the truth out just where p is below 5 %


def test_pairing_finds_what_independent_samples_hide() -> None:
    rng = np.random.default_rng(3)
    hard = np.exp(1.0 * rng.standard_normal(60))
    first, second = drawn(rng, 60, hard, noise=0.1), drawn(rng, 60, hard, scale=0.81, noise=0.1)
    second = (*second[:2], first[2])
    paired = contrast(compare([sampled_report("a", *first), sampled_report("b", *second)]), "√L_equiv").entries[1]
    assert paired.change.value == pytest.approx(0.9, abs=0.02)
    assert paired.change.p < 1e-6
    assert paired.change.low < 0.9 < paired.change.high
    names = [f"b{i}" for i in range(60)]
    apart = contrast(compare([sampled_report("a", *first), sampled_report("b", *second, names)]), "√L_equiv").entries[1]
    assert apart.change.value == pytest.approx(paired.change.value)
    assert apart.change.p > 0.1  # negative control: without the pairing the same data show nothing


def rekeyed(report: Report, keys: list[str], names: list[str] | None = None) -> Report:
    """The report with other keys, and perhaps names, of its structures."""
    names = names or [record["name"] for record in report.structures]
    pairs = zip(report.structures, keys, names, strict=True)
    return replace(report, structures=[{**record, "key": key, "name": name} for record, key, name in pairs])


def test_the_same_structures_are_known_by_their_fingerprints_in_another_file_and_order() -> None:
    """Names come from the file; the digest tells that positions, cell and labels are the same."""
    rng = np.random.default_rng(6)
    hard = np.exp(rng.standard_normal(20))
    one = rekeyed(sampled_report("a", *drawn(rng, 20, hard, noise=0.1)), [f"{i}:digest{i}" for i in range(20)])
    other = rekeyed(
        sampled_report("b", *drawn(rng, 20, hard, noise=0.1)),
        [f"{i + 5}:digest{i}" for i in range(20)],
        [f"copy.xyz[{i}]" for i in range(20)],
    )
    shuffled = replace(other, structures=[other.structures[i] for i in rng.permutation(20)])
    found = [contrast(compare([one, second]), "√L_equiv").entries[1].change for second in (other, shuffled)]
    assert found[0].how == found[1].how == "paired, 20 structures"
    assert found[0].p == pytest.approx(found[1].p, rel=1e-9)
    assert compare([one, shuffled]).notes == []
    # Negative control: other digests and other names are other structures.
    strange = rekeyed(other, [f"{i}:else{i}" for i in range(20)], [f"x{i}" for i in range(20)])
    assert contrast(compare([one, strange]), "√L_equiv").entries[1].change.how.startswith("not paired")
    assert "have no structures in common" in compare([one, strange]).notes[0]
    assert "may be those of the structures as much as of the models" in " ".join(str(compare([one, strange])).split())


def test_names_alike_are_paired_and_what_differs_is_said() -> None:
    rng = np.random.default_rng(7)
    one, other = (sampled_report(name, *drawn(rng, 12, np.ones(12))) for name in "ab")
    boxed = rekeyed(other, [f"{i}:boxed{i}" for i in range(12)])
    found = contrast(compare([one, boxed]), "√L_equiv").entries[1].change
    assert found.how == "paired, 12 structures, by name: 12 differ in positions, cell or labels"


def test_the_same_structure_twice_in_a_report_counts_twice() -> None:
    rng = np.random.default_rng(8)
    twice = ["same"] * 2 + [f"s{i}" for i in range(6)]
    one, other = (sampled_report(name, *drawn(rng, 8, np.ones(8)), twice) for name in "ab")
    assert contrast(compare([one, other]), "√L_equiv").entries[1].change.how == "paired, 8 structures"


def test_one_structure_says_nothing_of_others() -> None:
    """Its error bar is over rotations: a p value from that would be one of this structure alone."""
    rng = np.random.default_rng(9)
    many, single = (sampled_report(name, *drawn(rng, count, np.ones(count))) for name, count in (("a", 20), ("b", 1)))
    known = single.measured[0].labelled
    assert known is not None
    sure = replace(known, share=0.9, share_stderr=1e-6, total_stderr=1e-6, mean_stderr=1e-6)
    single = replace(single, measured=[replace(single.measured[0], labelled=sure, structures=1)])
    for second in (single, replace(single, structures=[])):
        found = compare([many, replace(second, measured=[replace(second.measured[0], equiv_stderr=1e-6)])])
        assert found.tests == 0
        for one in found.contrasts:
            assert math.isfinite(one.entries[1].change.value)
            assert math.isnan(one.entries[1].change.p)
            assert one.entries[1].change.how == "one structure or batch alone: no error bar over them"


def test_an_estimate_of_almost_nothing_is_no_overflow() -> None:
    """The ratio of something to an estimate that is nothing but noise may be anything."""
    found = differences.tested(1.0, 1e8, 5.0, ratio=True, how="")
    assert (found.low, found.high) == (0.0, math.inf)
    assert found.p == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("count", [12, 30])
def test_p_values_hold_where_few_structures_make_most_of_the_variance(count: int) -> None:
    """Weights and hardness that spread by an order of magnitude: n − 1 degrees of freedom would promise too much."""
    rng = np.random.default_rng(12)
    repetitions, rejected, textbook = 3000, 0, 0
    for _ in range(repetitions):
        hard, weight = np.exp(0.7 * rng.standard_normal(count)), rng.integers(3, 30, count).astype(float)
        sides = [hard * np.exp(0.3 * rng.standard_normal(count)) for _ in "ab"]
        samples = [{i: (e * w, w) for i, (e, w) in enumerate(zip(one, weight, strict=True))} for one in sides]
        rejected += change(samples[0], samples[1], ratio=True).p < 0.05
        theta = [float((one * weight).sum() / weight.sum()) for one in sides]
        u, v = (weight * (one - t) / weight.sum() / t for one, t in zip(sides, theta, strict=True))
        error = math.sqrt(count / (count - 1) * ((u - v) ** 2).sum())
        textbook += 2 * stats.t.sf(abs(math.log(theta[1] / theta[0])) / error, count - 1) < 0.05
    assert rejected < 0.085 * repetitions if count == 12 else 0.065 * repetitions
    assert rejected < 0.85 * textbook  # negative control: the delta method with n − 1
    assert textbook > 0.065 * repetitions


def test_holms_correction_is_the_textbooks() -> None:
    p = [0.01, 0.02, 0.022, 0.09, 0.5]  # worked by hand: times 5, 4, 3, 2, 1, and never below the one before
    assert holm(p) == pytest.approx([0.05, 0.08, 0.08, 0.18, 0.5])
    assert holm(p[::-1]) == pytest.approx([0.5, 0.18, 0.08, 0.08, 0.05])


@pytest.mark.slow
def test_corrected_p_values_keep_the_whole_comparison_to_one_in_twenty() -> None:
    """Four models alike: some p of the page is below 5 % far more often than in one of twenty, some Holm's p is not."""
    rng = np.random.default_rng(10)
    repetitions, plain, corrected = 200, 0, 0
    for _ in range(repetitions):
        hard = np.exp(0.7 * rng.standard_normal(25))
        sizes = rng.integers(3, 30, 25).astype(float)
        found = compare([sampled_report(name, *drawn(rng, 25, hard)[:2], sizes) for name in "abcd"])
        assert found.tests == 12  # three models against the first, four numbers
        changes = [entry.change for one in found.contrasts for entry in one.entries[1:]]
        plain += min(one.p for one in changes) < 0.05
        corrected += min(one.p_holm for one in changes) < 0.05
    assert plain > 0.2 * repetitions  # negative control: what comes of not correcting
    assert corrected < 0.08 * repetitions  # 5 % and two binomial standard errors of 1.5 %


@pytest.mark.slow
def test_a_difference_that_is_there_is_found_though_many_are_compared() -> None:
    """Power: a tenth less error, 40 structures that scatter by a tenth: found in eight of ten."""
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(40):
        hard, sizes = np.exp(rng.standard_normal(40)), rng.integers(3, 30, 40).astype(float)
        errors = {"abcde"[k]: drawn(rng, 40, hard, 0.81 if k == 4 else 1.0, noise=0.1)[:2] for k in range(5)}
        reports = [sampled_report(name, *values, sizes) for name, values in errors.items()]
        found += contrast(compare(reports), "√L_equiv").entries[-1].change.p_holm < 0.05
    assert found > 32


def test_structures_that_only_one_has_are_left_out_of_the_change() -> None:
    rng = np.random.default_rng(4)
    hard = np.exp(rng.standard_normal(20))
    first = drawn(rng, 20, hard, noise=0.1)
    longer = [np.append(column, 1e3) for column in first]
    found = contrast(compare([sampled_report("a", *first), sampled_report("b", *longer)]), "√L_equiv").entries
    assert found[1].value == pytest.approx(found[0].value)  # without the 21st, a thousand times worse than the others
    assert found[1].change.value == pytest.approx(1.0)
    assert found[1].change.how == "paired, 20 structures that both have (of 20 and 21)"


def of_structures(name: str, places: range, noise: int, scale: float = 1.0) -> Report:
    """A report of some of a hundred structures, whose hardness spans two orders of magnitude."""
    rng = np.random.default_rng(noise)
    hard = np.exp(1.5 * np.random.default_rng(0).standard_normal(100))[places.start : places.stop]
    equiv = scale * hard * np.exp(0.2 * rng.standard_normal(len(places)))
    total, weight = equiv * (3 + 2 * rng.random(len(places))), rng.integers(3, 30, len(places)).astype(float)
    return sampled_report(name, equiv, total, weight, [f"s{i}" for i in places])


@pytest.mark.parametrize(
    ("places", "counts"),
    [
        ((range(60), range(36)), (36, 36)),
        ((range(36), range(60)), (36, 36)),
        ((range(60), range(10, 70)), (50, 50)),
        ((range(60), range(36), range(20, 60)), (36, 36, 40)),  # the third shares too little with both
        ((range(60), range(50), range(10, 60)), (40, 40, 40)),
        ((range(60), range(60, 80)), (60, 20)),
        ((range(60), range(36), range(80, 100)), (36, 36, 20)),
        ((range(60), range(36), range(80, 81)), (36, 36, 1)),  # a single structure has no samples to speak of
    ],
)
def test_values_side_by_side_subtract_to_what_is_said_between_them(
    places: tuple[range, ...], counts: tuple[int, ...]
) -> None:
    """Reports of other structures: whatever is shown is over the same structures as the change."""
    reports = [of_structures("abc"[k], one, k) for k, one in enumerate(places)]
    found = compare(reports)
    for name in ("√L_equiv", "share", "L_total", "L_mean"):
        first, *others = contrast(found, name).entries
        assert tuple(entry.structures for entry in (first, *others)) == counts
        for entry in others:
            ratio = name != "share"
            between = entry.value / first.value if ratio else entry.value - first.value
            assert entry.change.value == pytest.approx(between, rel=1e-9), (name, entry.report)
            assert entry.low < entry.value < entry.high or entry.structures == 1
    if sum(counts) < sum(map(len, places)):
        own = reports[0].measured[0].rms, reports[1].measured[0].rms
        shown = [entry.value for entry in contrast(found, "√L_equiv").entries[:2]]
        assert shown != pytest.approx(own), "control: the reports' own values are over other structures"


def test_values_over_the_common_structures_are_those_of_reports_of_these_alone() -> None:
    """What is left out counts for nothing: value, interval and change are as if it had never been measured."""
    longer, shorter = (of_structures(name, places, 1) for name, places in (("a", range(60)), ("b", range(60))))
    few = [replace(shorter, structures=shorter.structures[:36])]
    sides = [np.array([[r["quantities"]["forces"]["labelled"][k] for k in ("equiv", "total", "weight")]
                       for r in longer.structures[:36]]).T]  # fmt: skip
    alone = sampled_report("a", *sides[0])
    shown = contrast(compare([longer, *few]), "√L_equiv").entries[0]
    expected = alone.measured[0]
    assert shown.value == pytest.approx(expected.rms, rel=1e-12)
    # The jackknife's error in the place of the delta method's: alike up to a part in n, more where few weigh most.
    assert (shown.low, shown.high) == pytest.approx(expected.rms_interval, rel=0.1)
    assert contrast(compare([longer, *few]), "√L_equiv").entries[1].change.how == (
        "paired, 36 structures that both have (of 60 and 36)"
    )


def of_two(name: str, energy: float, forces: float, verdicts: tuple[str, str] = ("broken", "broken")) -> Report:
    """An audit of energy and forces, in this order, whose errors are scaled."""
    rng = np.random.default_rng(3)
    hard, weight = np.exp(rng.standard_normal(40)), rng.integers(3, 30, 40).astype(float)
    parts = {}
    for quantity, scale in (("energy", energy), ("forces", forces)):
        equiv = scale * hard * np.exp(0.1 * rng.standard_normal(40))
        parts[quantity] = sampled_report(name, equiv, 5 * hard + equiv, weight)
    both = zip(*(part.structures for part in parts.values()), strict=True)
    records = [
        {**b, "quantities": {"energy": a["quantities"]["forces"], "forces": b["quantities"]["forces"]}} for a, b in both
    ]
    found = [
        replace(part.measured[0], name=quantity, verdict=verdict, unit=unit)
        for (quantity, part), verdict, unit in zip(parts.items(), verdicts, ("meV", "meV/Å"), strict=True)
    ]
    return replace(parts["forces"], measured=found, structures=records)


def test_the_sentence_speaks_of_forces_where_their_difference_is_resolved() -> None:
    base = of_two("A", 1.0, 1.0)
    both = compare([base, of_two("B", 0.2, 0.6)])
    assert contrast(both, "√L_equiv", "energy").entries[1].change.p_holm < 0.05, "control: energy's is resolved, too"
    assert both.summary.startswith("B has ")
    assert "% less L_equiv of forces than A" in both.summary
    assert "energy" not in both.summary
    top = both.document().headline
    assert top is not None
    assert (top.about, top.answer) == ("forces", both.summary)
    energy = compare([base, of_two("B", 0.2, 1.0)])
    assert "% less L_equiv of energy than A" in energy.summary
    assert energy.summary.endswith("; none of forces is resolved.")
    quiet = ("broken", "round-off")
    silent = compare([of_two("A", 1.0, 1.0, quiet), of_two("B", 0.2, 0.6, quiet)])
    assert "% less L_equiv of energy than A" in silent.summary, "at round-off forces have no difference of symmetry"


@pytest.mark.slow
def test_a_saved_comparison_is_read_and_shown_as_it_was(tmp_path: Path) -> None:
    found = compare([of_structures("a", range(60), 0), of_structures("b", range(36), 1, scale=0.5)])
    found.save(tmp_path / "c.json")
    for loaded in (ep.load(tmp_path / "c.json"), Comparison.load(tmp_path / "c.json")):
        assert loaded == found
        assert str(loaded) == str(found)
        assert repr(loaded) == repr(found)
        assert page([loaded]) == page([found])
        assert loaded._repr_html_() == found._repr_html_()
        assert found.summary in str(loaded).replace("\n", " ")
    html = page([found])
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "What differs?", *(f"forces: {one.number} ({one.unit})" for one in found.contrasts)
    ]  # fmt: skip
    assert html.count("<svg") == 4
    words = " ".join(Elements(html).text)
    for one in found.contrasts:
        for entry in one.entries:
            assert number(entry.value) in words
            assert entry.change.how in words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": []}, "names: none"),
        ({"names": "ab"}, "names: a text 'ab'"),
        ({"tests": 1.5}, "tests: a number 1.5"),
        ({"contrasts": [{"quantity": "forces"}]}, "no contrasts[0].number"),
        ({"contrasts": [{"quantity": "forces", "number": "<b>", "unit": "", "ratio": True, "entries": []}]}, "'<b>'"),
        ({"contrasts": [{"quantity": "f", "number": "share", "unit": "", "ratio": "no", "entries": []}]}, "[0].ratio"),
    ],
)
def test_what_is_no_comparison_is_refused_with_the_place(changes: Any, said: str, tmp_path: Path) -> None:
    found = compare([audit_report(), audit_report(model="other")])
    for version in (2, None):
        stored = found.to_dict() | changes
        if version is None:  # as version 1 wrote it
            del stored["kind"], stored["schema_version"]
        (tmp_path / "c.json").write_text(json.dumps(stored))
        with pytest.raises(EquivProbeError) as caught:
            ep.load(tmp_path / "c.json")
        assert said in str(caught.value)
        assert "c.json" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_comparison_holds_is_text(text: str) -> None:
    def made(text: str) -> Comparison:
        found = compare([audit_report(), audit_report(model="other")])
        entries = [
            replace(e, report=text, verdict=text, change=dataclasses.replace(e.change, how=text))
            for e in found.contrasts[0].entries
        ]
        one = replace(found.contrasts[0], quantity=text, unit=text, entries=entries)
        return Comparison([text, text], [one], 3, [text])

    for write in (lambda one: page([one]), fragment):
        assert Elements(write(made(text))).outside == Elements(write(made("harmless"))).outside
        assert shown(text) in " ".join(Elements(write(made(text))).text)
    assert not set(str(made("\x1b[2J\u202e"))) & {"\x1b", "\u202e"}


def test_what_is_tabular_is_a_row_for_each_number_and_report() -> None:
    found = compare([of_structures("a", range(60), 0), of_structures("b", range(36), 1)])
    rows = [row for row in found.rows() if row["number"] == "share"]
    assert [row["report"] for row in rows] == ["a", "b"]
    assert rows[1]["value"] - rows[0]["value"] == pytest.approx(rows[1]["change_value"])
    assert found.to_csv().count("\r\n") == 1 + 8


def test_the_same_report_twice_differs_by_nothing() -> None:
    rng = np.random.default_rng(5)
    one = sampled_report("a", *drawn(rng, 10, np.ones(10)))
    found = compare([one, one], ["first", "again"])
    assert {c.number: c.entries[1].change.p for c in found.contrasts} == dict.fromkeys(
        ("√L_equiv", "share", "L_total", "L_mean"), 1.0
    )
    assert [entry.report for entry in found.contrasts[0].entries] == ["first", "again"]


def test_round_off_is_not_compared_with_round_off() -> None:
    quiet = audit_report(measured=[measured(verdict="round-off", rms=1e-3)])
    found = compare([quiet, replace(quiet, measured=[measured(verdict="round-off", rms=3e-3)])])
    entry = contrast(found, "√L_equiv").entries[1]
    assert math.isnan(entry.change.p)
    assert entry.change.how == "neither error is above its floor"
    assert "neither error is above its floor" in str(found)
    broken = contrast(compare([quiet, audit_report()]), "√L_equiv").entries[1]
    assert broken.change.how.startswith("paired")


def test_runs_are_compared_by_their_own_error_bars() -> None:
    first = run_report()
    known = first.measured[0].labelled
    assert known is not None
    better = replace(known, share=0.07, share_stderr=0.01, share_interval=(0.05, 0.09))
    second = run_report(model="Other", measured=[replace(m, labelled=better) for m in first.measured])
    entry = contrast(compare([first, second]), "share", "val/loss").entries[1]
    assert entry.change.value == pytest.approx(-10.0)
    variance, dof = welch((2.0**2, 1.0**2), (10, 10))
    assert entry.change.p == pytest.approx(2 * stats.t.sf(10.0 / math.sqrt(variance), dof))
    assert "not paired" in entry.change.how


def test_what_is_not_alike_is_refused() -> None:
    with pytest.raises(EquivProbeError, match="1 report; expected two or more"):
        compare([audit_report()])
    with pytest.raises(EquivProbeError, match="expected a quantity in common"):
        compare([audit_report(), run_report()])
    other = audit_report(measured=[measured(unit="eV/Å")])
    with pytest.raises(EquivProbeError, match="eV/Å, meV/Å; expected one unit"):
        compare([audit_report(), other])


def test_saved_and_printed(tmp_path: Path) -> None:
    found = compare([audit_report(), audit_report(model="[red]other[/red]")])
    found.save(tmp_path / "deep" / "c.json")
    stored = json.loads((tmp_path / "deep" / "c.json").read_text())
    assert stored["names"] == ["a model", "[red]other[/red]"]
    assert stored["contrasts"][0]["entries"][0]["change"]["p"] is None
    assert "[red]other[/red]" in str(found)
    assert max(map(len, str(found).splitlines())) <= 120
    found.save(tmp_path / "c.html")
    assert "[red]other[/red]" in (tmp_path / "c.html").read_text()
    with pytest.raises(EquivProbeError, match=r"\.json, \.csv or \.html"):
        found.save(tmp_path / "c.txt")


@pytest.mark.parametrize(("p", "shown"), [(0.5, "0.50"), (0.01234, "0.012"), (1e-9, "< 1e-4"), (math.nan, "–")])
def test_p_values_as_people_write_them(p: float, shown: str) -> None:
    assert text_of(p_value(p), Column("p", digits=2)) == shown


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        audit_report(model=name).save(tmp_path / f"{name}.json")

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["equiv-probe", "compare", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0)

    assert run("a.json", "b.json", "-o", "c.html") == 0
    assert "paired, 4 structures" in capsys.readouterr().out
    assert (tmp_path / "c.html").exists()
    assert run("a.json", "b.json", "-o", "a.json") == 2
    assert json.loads((tmp_path / "a.json").read_text())["model"] == "a"  # nothing was overwritten
    (tmp_path / "no.json").write_text("{}")
    assert run("a.json", "no.json") == 2
    assert "no.json, which is not a report" in " ".join(capsys.readouterr().err.split())


def test_the_sentence_names_what_survives_the_correction() -> None:
    rng = np.random.default_rng(5)
    hard = np.exp(rng.standard_normal(60))
    a = drawn(rng, 60, hard)
    less = (0.4 * a[0] * np.exp(0.1 * rng.standard_normal(60)), a[1] - 0.6 * a[0], a[2])
    found = compare([sampled_report("A", *a), sampled_report("B", *less)])
    change_of_root = contrast(found, "√L_equiv").entries[1].change
    kept = [e for c in found.contrasts for e in c.entries if e.change.p_holm < 0.05]
    percent, low, high = (number(100 * (1 - getattr(change_of_root, k) ** 2)) for k in ("value", "high", "low"))
    assert found.summary.startswith(f"B has {percent} % less L_equiv of forces than A ({low} to {high} %), ")
    assert 55 < float(percent) < 65
    assert len(kept) > 1
    assert f"one of {len(kept)} differences of {found.tests} that survive Holm's correction." in found.summary
    assert found.summary[:60] in str(found)
    back = compare([sampled_report("B", *less), sampled_report("A", *a)])
    ratio = number(contrast(back, "√L_equiv").entries[1].change.value ** 2)
    assert back.summary.startswith(f"A has {ratio} times the L_equiv of forces that B has (")
    same = compare([sampled_report("A", *a), sampled_report("A2", *drawn(rng, 60, hard))])
    none = f"of {same.tests} comparisons none survives Holm's correction."
    assert same.summary == f"No difference from A is resolved: {none}"
    untested = Comparison(same.names, [], 0)
    assert untested.summary == "No difference from A could be tested: there are no error bars on both sides."


def test_the_sentence_of_a_single_survivor_and_of_a_share() -> None:
    def resolved(number: str, p_holm: float, **values: float) -> Contrast:
        one = contrast(compare([run_report(), run_report(model="other")]), number, "val/loss")
        held = dataclasses.replace(one.entries[1].change, p=p_holm / 2, p_holm=p_holm, **values)
        changed = replace(one.entries[1], change=held)
        return replace(one, entries=[one.entries[0], changed])

    share = resolved("share", 0.01, value=-3.0, low=-4.5, high=-1.5)
    total = resolved("L_total", 0.2, value=1.1, low=0.9, high=1.3)
    found = Comparison(["Net", "other"], [share, total], 2)
    assert found.summary == (
        "other has a share of val/loss that is 3.00 points lower than that of Net (1.50 to 4.50), "
        "the only difference of 2 that survives Holm's correction."
    )
    more = resolved("L_total", 0.01, value=1.1, low=1.05, high=1.2)
    assert "other has 10.0 % more L_total of val/loss than Net (5.00 to 20.0 %), the only difference that could" in (
        Comparison(["Net", "other"], [more], 1).summary
    )
    assert "in the only comparison that could be tested" in Comparison(["Net", "other"], [total], 1).summary
