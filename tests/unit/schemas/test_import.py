from __future__ import annotations

import subprocess
import sys

import pytest

# What a producer of ticks need not install, or need not pay for.
HEAVY = ("torch", "numpy", "aiokafka", "opentelemetry", "consumer", "vortex", "cryptography")


@pytest.mark.parametrize("module", ["schemas", "schemas.describe", "schemas.examples"])
def test_contract_imports_nothing_of_the_worker(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split())
    assert {"schemas", "pydantic"} <= loaded
    assert not loaded.intersection(HEAVY)


def test_contract_under_our_own_name_is_the_same_and_as_light() -> None:
    code = (
        "import sys, schemas, vortex.contract as ours;"
        "assert all(getattr(ours, name) is getattr(schemas, name) for name in schemas.__all__);"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()).intersection(HEAVY) == {"vortex"}
