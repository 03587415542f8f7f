"""``equiv-probe scaling`` prints and writes what the functions give."""

import csv
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import equiv_probe as ep
from equiv_probe.cli.main import build
from equiv_probe.errors import EquivProbeError
from equiv_probe.report.formatting import number
from equiv_probe.scaling import allocate, data_efficiency, figure_of, fit, gap, read_table

ONE = ["--where", "parameters=10000", "--where", "structures=1000"]
STEPS = np.geomspace(10, 1e4, 7)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Three sizes each, two seeds, two models; the second needs four times the seconds and half the steps' exponent."""
    file = tmp_path_factory.mktemp("runs") / "runs.csv"
    generator = np.random.default_rng(0)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["model", "parameters", "structures", "seed", "step", "seconds", "flops", "L_total"])
        for model, factor, slow in (("plain", 3.0, 1.0), ("egnn", 1.0, 4.0)):
            for n in (1e3, 1e4, 1e5, 1e6):
                for d in (1e2, 1e3, 1e4, 1e5):
                    for seed in (0, 1):
                        scatter = np.exp(0.02 * generator.standard_normal())
                        for t in STEPS:
                            loss = (2 * n**-0.4 + factor * d**-0.5 + 30 / t) * scatter
                            writer.writerow([model, n, d, seed, t, slow * t * 1e-3, 6 * n * d, loss])
    return file


def run(*arguments):
    result = CliRunner().invoke(build(), ["scaling", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_fits_by_model_and_best_sizes(path, tmp_path):
    out = tmp_path / "laws.json"
    result = run(path, "--by", "model", "--resamples", 100, "--compute", "1e9,1e10", "--cost", "flops", "-o", out)
    assert "plain: L_total = E + A·N^−alpha + B·D^−beta on 32 runs of runs.csv" in result.stdout
    stored = ep.load(out)
    assert set(stored.fits) == {"plain", "egnn"}
    assert set(stored.allocations) == {"plain: best sizes", "egnn: best sizes"}
    rows = read_table(path).where(model="plain").final()
    assert len(rows) == 32
    expected = fit(rows, ("N", "D"), resamples=100)
    for name in ("E", "A", "alpha", "B", "beta"):
        assert stored["plain"][name] == expected[name]
    best = stored["egnn: best sizes"]
    costs = [6 * n.value * d.value for n, d in zip(best.n, best.d, strict=True)]
    assert costs == pytest.approx([1e9, 1e10], rel=1e-6)


def test_a_model_of_one_size_is_left_out_and_named(path, tmp_path, caplog):
    mixed, out = tmp_path / "mixed.csv", tmp_path / "laws.json"
    few = [line for line in path.read_text().splitlines() if line.startswith("egnn,1000.0,")]
    mixed.write_text("\n".join([path.read_text().strip(), *(line.replace("egnn", "tuned") for line in few)]))
    run(mixed, "--by", "model", "--resamples", 50, "-o", out)
    assert set(ep.load(out).fits) == {"plain", "egnn"}
    assert "tuned is left out: found 1 size of N" in caplog.text
    with pytest.raises(EquivProbeError, match="found 1 size of N"):
        run(mixed, "--by", "model", "--where", "model=tuned")


def test_seconds_that_grow_with_nothing_are_no_cost(path):
    """Negative control: with the seconds of one step alike, the exponents of the measured cost vanish."""
    from equiv_probe.scaling import measured_cost

    found = measured_cost(read_table(path).where(model="plain").final())
    assert abs(found.p) < 1e-9
    assert abs(found.q) < 1e-9


def test_the_gap_between_two_files(path, tmp_path):
    table = path.read_text().splitlines()
    files = []
    for model in ("plain", "egnn"):
        files.append(tmp_path / f"{model}.csv")
        kept = [line for line in table[1:] if line.startswith(f"{model},10000.0,1000.0,")]
        files[-1].write_text("\n".join([table[0], *kept]) + "\n")
    out = tmp_path / "gap.json"
    result = run("--gap", *files, "--x", "seconds", "-o", out)
    stored = ep.load(out)
    expected = gap(*map(read_table, files), "seconds", names=("plain", "egnn"))
    assert stored == expected
    assert stored.verdict == expected.verdict
    assert expected.verdict.split(";")[0] in re.sub(r"\s+", " ", result.stdout)
    again = run(path, "--gap", "--by", "model", *ONE, "-o", out)
    assert again.exit_code == 0
    assert ep.load(out).verdict == stored.verdict


def test_several_models_are_compared_with_the_first(path, tmp_path):
    more = tmp_path / "more.csv"
    head, *lines = path.read_text().splitlines()
    again = [line.replace("egnn,", "painn,") for line in lines if line.startswith("egnn,")]
    more.write_text("\n".join([head, *lines, *again]) + "\n")
    out = tmp_path / "gaps.json"
    run(more, "--gap", "--by", "model", "--x", "hours", *ONE, "-o", out)
    stored = ep.load(out).gaps
    assert set(stored) == {"plain and egnn", "plain and painn"}
    assert stored["plain and egnn"].factor == stored["plain and painn"].factor
    by_seconds = gap(*(read_table(more).where(model=m, N=1e4, D=1e3) for m in ("plain", "egnn")), "seconds")
    hours = stored["plain and egnn"].needed[0]
    np.testing.assert_allclose(hours, np.array(by_seconds.needed[0]) / 3600, rtol=1e-9)


def test_data_efficiency(path, tmp_path):
    out = tmp_path / "data.json"
    run(path, "--data", "plain,egnn", "--where", "parameters=10000", "--resamples", 100, "-o", out)
    factor = ep.load(out).factor
    rows = read_table(path).where(N=1e4).final()
    expected = data_efficiency(rows, "plain", "egnn", resamples=100)
    assert factor == expected.factor


@pytest.mark.slow
def test_a_page_is_well_formed_and_escapes(path, tmp_path):
    odd = tmp_path / "odd.csv"
    odd.write_text(path.read_text().replace("plain,", "<b>$x^2$</b>,"))
    out = tmp_path / "page.html"
    run(odd, "--by", "model", "--resamples", 50, "-o", out)
    text = out.read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;$x^2$&lt;/b&gt;" in text
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).attrib["aria-label"].startswith("L_total against N and D")
    assert "E + A·N^−alpha + B·D^−beta" in text
    assert "default-src &#39;none&#39;" in text
    top = fit(read_table(odd).where(model="egnn").final(), ("N", "D"), resamples=50)["alpha"]
    assert f"<strong>{number(top.value)}</strong>" in text
    assert f"95 % interval {number(top.low)} to {number(top.high)}" in text


def test_figures_show_the_data(path, tmp_path):
    runs = read_table(path).where(model="plain").final()
    law = fit(runs, resamples=50, unit="eV²")
    drawing = figure_of(law)
    assert isinstance(drawing, Figure)
    (ax,) = drawing.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training structures D", "L_total, eV²")
    points = [line for line in ax.lines if line.get_marker() == "o"]
    shown = np.sort(np.concatenate([line.get_ydata() for line in points]))
    np.testing.assert_array_equal(shown, np.sort(runs.numbers("L_total")))
    best = allocate(law, [1e8, 1e9], 6)
    np.testing.assert_array_equal(figure_of(best).axes[0].lines[0].get_ydata(), [one.value for one in best.n])
    rows = read_table(path).where(N=1e4, D=1e3)
    found = gap(rows.where(model="plain"), rows.where(model="egnn"), names=("plain", "egnn"))
    left, right = figure_of(found).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), found.curves[0])
    assert left.get_xlabel() == "training time, s"
    assert right.get_ylabel() == "seconds needed: egnn / plain"
    out = tmp_path / "gap.png"
    run(path, "--gap", "--by", "model", *ONE, "-o", out)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gap"], "runs in 1 file; expected two models"),
        (["--gap", "--by", "model", "--names", "plain,painn"], "expected painn"),
        (["--where", "model"], "column=value"),
        (["--where", "model=painn"], "a value of model: plain, egnn"),
        (["--loss", "energy"], "expected energy"),
        (["--x", "N,D,C"], "one or two columns"),
        (["-o", "/dev/null/laws.json"], "a file that can be written"),
        (["--resamples", "-5"], "0 resamples or 20"),
        (["--compute", "1e9", "--cost", "hours"], "a number, or a column"),
        (["--compute", "1e9", "--cost", "seconds"], "grows with both sizes"),
        (["-o", "laws.txt"], r"ends in \.json"),
        (["--bootstrap", "rows"], "residuals"),
        (["--gap", "--by", "model"], "one row each in a run"),
        (["--smooth", "mean", "--gap", "--by", "model", *ONE], '"minimum", "median"'),
    ],
)
def test_errors_teach(path, arguments, message):
    with pytest.raises(EquivProbeError, match=message):
        run(path, "--resamples", 20, *arguments)


def test_a_table_is_not_overwritten(path):
    before = path.read_bytes()
    with pytest.raises(EquivProbeError, match="one of the files to read"):
        run(path, "--resamples", 20, "-o", path)
    assert path.read_bytes() == before
