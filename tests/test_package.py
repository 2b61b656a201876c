"""``import gracecli`` costs nothing and offers what the README says."""

import subprocess
import sys

import pytest

import gracecli


def test_import_is_light():
    program = "import sys, gracecli; gracecli.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"numpy", "ase", "tensorflow", "click"}.isdisjoint(done.stdout.split())


def test_exports():
    from gracecli.engine.calculator import GraceCalculator

    assert gracecli.GraceCalculator is GraceCalculator
    assert set(gracecli.__all__) <= set(dir(gracecli))


def test_unknown_names():
    with pytest.raises(AttributeError, match="GraceCalculater"):
        _ = gracecli.GraceCalculater
