"""What a user installs: the wheel's files and what it asks for."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"schemas", "consumer", "vortex"}
MAX_BYTES = 30 * 10**6  # mostly the small weights


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = directory.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_wheel_holds_our_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    rooms = {name.split("/")[0] for name in wheel.namelist()}
    assert {room for room in rooms if not room.endswith(".dist-info")} == PACKAGES


def test_wheel_holds_every_file_of_our_packages(wheel: zipfile.ZipFile) -> None:
    present = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in wheel.namelist() if name.split("/")[0] in PACKAGES}
    assert packed == {*present, "vortex/config.yaml"}


def test_wheel_adds_nothing_to_the_tests_of_who_installs_it(wheel: zipfile.ZipFile) -> None:
    """`vortex.testing` is a plugin of pytest only where it is asked for."""
    (name,) = (name for name in wheel.namelist() if name.endswith("/entry_points.txt"))
    groups = re.findall(r"^\[(.+)\]$", wheel.read(name).decode(), re.M)
    assert groups == ["console_scripts"]


def test_packed_configuration_is_the_one_of_the_checkout(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("vortex/config.yaml") == (ROOT / "config.yaml").read_bytes()


def test_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    assert sum(file.compress_size for file in wheel.infolist()) < MAX_BYTES


def test_wheel_installs_on_the_versions_that_the_classifiers_name(metadata: Message) -> None:
    prefix = "Programming Language :: Python :: "
    named = {
        each.removeprefix(prefix)
        for each in metadata.get_all("Classifier", [])
        if each.startswith(prefix)
    }
    assert named == {"3.11", "3.12", "3.13"}
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}


def test_producer_of_ticks_installs_no_torch(metadata: Message) -> None:
    always = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert any(each.startswith("pydantic") for each in always)
    assert not any(each.startswith("torch") for each in always)
