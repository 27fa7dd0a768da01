"""The wheel without extras: what a producer of ticks installs, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.shared_kafka import SharedKafka

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
TIMEOUT_S = 150.0
FIND_TORCH = "import importlib.util as u; print(u.find_spec('torch'))"


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the programs' directory of a virtual environment with our wheel and no extras."""
    return installed(tmp_path_factory.mktemp("light"))


def installed(directory: Path, extra: str = "") -> Path:
    """Return the programs' directory of a new virtual environment with our wheel."""
    uv = str(Path(sys.executable).with_name("uv"))
    venv.create(directory / "venv")
    python = directory / "venv" / "bin" / "python"
    run(uv, "build", "--quiet", "--wheel", "--out-dir", str(directory), str(ROOT))
    (wheel,) = directory.glob("*.whl")
    run(
        *(uv, "pip", "install", "--quiet", "--python", str(python)),
        *("--constraint", str(LOCK), f"{wheel}{extra}"),
    )
    return python.parent


def run(*command: str, exit_code: int = 0) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd="/"
    )
    assert done.returncode == exit_code, done.stderr
    return done.stdout + done.stderr


def test_contract_is_there_without_torch(light: Path) -> None:
    assert (
        run(str(light / "python"), "-c", f"from schemas import SlotTick; {FIND_TORCH}") == "None\n"
    )


def test_commands_of_producers_and_readers_work(light: Path) -> None:
    vortex = str(light / "vortex")
    schemas = ["schemas", "--check", str(ROOT / "schemas")]
    for command in (["--help"], ["config", "show"], ["models", "list"], schemas):
        run(vortex, *command)


@pytest.mark.parametrize("command", ["run", "demo"])
def test_command_that_needs_more_says_what_to_install(
    command: str, light: Path, tmp_path: Path
) -> None:
    said = run(str(light / "vortex"), command, exit_code=3)
    assert "install vortex-slots[" in said
    assert "Traceback" not in said


def test_fetching_says_what_to_install(light: Path) -> None:
    said = run(str(light / "vortex"), "models", "fetch", exit_code=3)
    assert said.endswith("huggingface_hub; install vortex-slots[production]\n")
    assert said.count("\n") == 1


def test_applications_tests_need_no_torch(kafka: SharedKafka, tmp_path: Path) -> None:
    """The examples' tests with the extra `testing` alone."""
    programs = installed(tmp_path, "[testing]")
    python = str(programs / "python")
    assert run(python, "-c", FIND_TORCH) == "None\n"
    for source in (ROOT / "examples" / "python").glob("*.py"):
        shutil.copy(source, tmp_path)
    options = ["-p", "no:cacheprovider", "--vortex-kafka", kafka.bootstrap_servers]
    assert " passed" in run(python, "-m", "pytest", "-W", "error", *options, str(tmp_path))
