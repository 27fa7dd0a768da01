"""Cases of a parametrised test."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def slow_but(quick: Collection[Any], values: Iterable[Any]) -> list[ParameterSet]:
    """Return a case for each value; all but the quick ones are left to `make test-slow`."""
    values = list(values)
    assert set(quick) <= set(values)
    return [
        pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values
    ]
