"""benchmarks/startup.py: what it measures of a process."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import startup


def test_the_processor_time_is_that_of_the_process():
    """A process that uses a fifth of a second of it, and then sleeps; `run_command` starts it beside idle ones."""
    work = "import time\nwhile time.process_time() < 0.2: pass\ntime.sleep(0.3)"
    assert 0.2 <= startup.run_command([sys.executable, "-c", work]) < 0.5


def test_a_command_that_fails_is_named():
    with pytest.raises(SystemExit, match=r"-c raise SystemExit\('no'\): exit code 1: no"):
        startup.run_command([sys.executable, "-c", "raise SystemExit('no')"])


def test_imports_are_those_of_top_level_packages(tmp_path, monkeypatch):
    """A package whose submodule takes a while; another one, imported by it, counts for itself."""
    for name, seconds in {"outer": 0.0, "inner": 0.05}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"import time; time.sleep({seconds})\n")
    (tmp_path / "outer" / "part.py").write_text("import time, inner; time.sleep(0.1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seconds = startup.imports_by_package(["-c", "import outer.part"])
    assert list(seconds)[:2] == ["outer", "inner"]
    assert seconds["outer"] >= 0.1
    assert seconds["inner"] >= 0.05
    assert list(seconds.values()) == sorted(seconds.values(), reverse=True)


def test_rounds_and_ratios(monkeypatch):
    """The first round is not counted; ratios are taken within each round."""
    processor_times = iter([9.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(startup, "run_command", lambda command: next(processor_times))
    seconds = startup.measure({"a": ["-c", "pass"]}, 3)
    assert seconds["a"]["processor"] == [1.0, 2.0, 4.0]
    assert len(seconds["a"]["wall"]) == 3
    seconds["b"] = {"wall": [1.0] * 3, "processor": [2.0, 1.0, 2.0]}
    assert startup.ratios(seconds, "a", "b") == [0.5, 2.0, 2.0]
    assert startup.format_median([0.5, 2.0, 2.0]) == "2.00"
    assert startup.format_median([1.0, 3.0, 2.0, 4.0, 5.0, 6.0]) == "3.50 [1.00, 6.00]"
