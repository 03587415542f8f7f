"""The command line of the core: what it says of itself, and plugins that it finds, good and bad."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from equiv_probe.cli import main as cli
from equiv_probe.errors import EquivProbeError
from equiv_probe.live import plugins
from equiv_probe.live.plugins import Plugin, PresetStatus


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``equiv-probe`` as it is installed."""
    return subprocess.run(
        [Path(sys.executable).with_name("equiv-probe"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def called(*arguments: str) -> int:
    """``equiv-probe`` in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["equiv-probe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    code = stopped.value.code
    return code if isinstance(code, int) else 0


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"equiv-probe {metadata.version('equiv-probe')}\n")


def test_without_a_command_it_shows_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert called() in {0, 2}
    assert "doctor" in "".join(capsys.readouterr())
    assert called("-h") == 0
    assert "doctor" in capsys.readouterr().out


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("adit") == 2
    assert "adit" in capsys.readouterr().err


@pytest.mark.slow
def test_doctor_says_what_is_there() -> None:
    done = run("doctor")
    assert done.returncode == 0
    assert re.search(rf"torch\s+{re.escape(metadata.version('torch'))}", done.stdout)
    assert "Python 3." in done.stdout
    assert re.search(r"^emt\s+usable", done.stdout, re.MULTILINE)
    # Markup would eat the extra in square brackets.
    assert re.search(r"^(mace:<file>)\s+(usable|pip install 'equiv-probe\[mace\]')", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_doctor_for_machines() -> None:
    done = run("doctor", "--json")
    state = json.loads(done.stdout)
    assert state["packages"]["torch"] == metadata.version("torch")
    assert state["plugins"]["ase"] is True
    assert state["broken plugins"] == []
    presets = {preset["name"]: preset for preset in state["presets"]}
    assert presets["emt"]["usable"]
    assert all(preset["usable"] or preset["missing"] for preset in presets.values())


class Entry(SimpleNamespace):
    """An entry point that loads to ``found``, or raises it."""

    def load(self) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(**found: Any) -> None:
        entries = [Entry(name=name, value=f"{name}:plugin", found=one) for name, one in found.items()]
        monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: entries)

    return install


def test_a_third_partys_plugin_adds_a_command_and_presets(installed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def register(app: Any) -> None:
        @app.command("greet")
        def greet() -> None:
            print("hello")

    def presets() -> list[PresetStatus]:
        return [PresetStatus("their-model", usable=False, about="theirs", missing="pip install them")]

    installed(foo=Plugin("foo", "json", register, presets, packages=("pytest", "no-such-package-here")))
    assert called("greet") == 0
    assert capsys.readouterr().out == "hello\n"
    assert called("doctor", "--json") == 0
    state = json.loads(capsys.readouterr().out)
    assert state["plugins"] == {"foo": True}
    assert state["packages"]["pytest"] == pytest.__version__
    assert state["packages"]["no-such-package-here"] is None
    assert [preset["missing"] for preset in state["presets"]] == ["pip install them"]


def test_a_broken_plugin_does_not_take_the_others_down(installed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    installed(bad=ImportError("no module named [bar]"), good=Plugin("good", "json"), odd=3)
    found, broken = plugins.installed()
    assert [plugin.name for plugin in found] == ["good"]
    assert broken == [
        "bad (bad:plugin): ImportError: no module named [bar]",
        "odd (odd:plugin): a int, not an equiv_probe.live.plugins.Plugin",
    ]
    assert called("doctor") == 0
    assert "no module named [bar]" in capsys.readouterr().out


def test_a_plugin_whose_registration_fails_does_not_either(installed: Any, caplog: pytest.LogCaptureFixture) -> None:
    def register(app: Any) -> None:
        raise ImportError("their framework is too old")

    installed(bad=Plugin("bad", "json", register))
    assert called("doctor") == 0
    assert "their framework is too old" in caplog.text


def test_a_plugin_of_a_framework_that_is_not_installed() -> None:
    assert not Plugin("x", "no_such_framework_here").usable
    assert Plugin("x", "json").usable


def test_an_error_that_can_be_explained_is_one_line_and_exit_code_2(
    installed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def register(app: Any) -> None:
        @app.command("fail")
        def fail() -> None:
            raise EquivProbeError("a tensor [red]of shape[/red] (5, 2)", "a last axis of 3", "ep.scalar")

    installed(foo=Plugin("foo", "json", register))
    assert called("fail") == 2
    out, err = capsys.readouterr()
    assert out == ""
    expected = "Error: found a tensor [red]of shape[/red] (5, 2); expected a last axis of 3. Fix: ep.scalar"
    assert " ".join(err.split()) == expected


def test_finding_plugins_imports_no_framework() -> None:
    script = (
        "import sys; from equiv_probe.live import plugins; [p.presets() for p in plugins.installed()[0]];"
        "print(sorted({'ase', 'chgnet', 'sevenn', 'schnetpack', 'orb_models'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_interrupt_while_commands_are_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build", interrupted)
    assert called("doctor") == 130
    assert capsys.readouterr().err == "Aborted.\n"
