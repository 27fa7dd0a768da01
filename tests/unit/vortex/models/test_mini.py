from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vortex.models.kokoro.backend import ONNX_FILE, VNNI_FILE
from vortex.models.mini import SHIPPED, build_mini, shipped_weights
from vortex.weights.manifest import FILE_NAME, verify_manifest, write_manifest

LIMIT_S = 90.0

# Builds into argv[1], and before the last step waits for the file argv[3], after making argv[2].
OTHER_BUILDER = """
import sys, time
from pathlib import Path
from vortex.models.mini import build_mini

target, here, there = map(Path, sys.argv[1:])

def meet(part):
    if part == "checksums":
        here.touch()
        give_up_at = time.monotonic() + 90
        while not there.exists() and time.monotonic() < give_up_at:
            time.sleep(0.01)

build_mini(target, progress=meet)
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Give a directory that does not outlive its test: a build is too large to keep."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest: the size and the checksum of every file."""
    content: dict[str, Any] = json.loads((directory / FILE_NAME).read_text())
    return content


def test_builders_side_by_side_both_succeed_with_the_same_bytes_as_any_other(
    mini_models: Path, scratch: Path
) -> None:
    target = scratch / "models" / "mini"
    ours, theirs = scratch / "ours", scratch / "theirs"

    def meet(part: str) -> None:
        if part != "checksums":
            return
        ours.touch()
        give_up_at = time.monotonic() + LIMIT_S
        while not theirs.exists():
            assert other.poll() is None, "the other builder ended early"
            assert time.monotonic() < give_up_at, "the other builder did not come so far"
            time.sleep(0.01)

    command = [sys.executable, "-c", OTHER_BUILDER, str(target), str(theirs), str(ours)]
    with subprocess.Popen(command) as other:
        try:
            build_mini(target, progress=meet)
            assert other.wait(LIMIT_S) == 0
        finally:
            other.kill()
    assert list(target.parent.iterdir()) == [target]
    verify_manifest(target, checksums=True)
    assert manifest(target) == manifest(mini_models / "mini")


@pytest.mark.parametrize("lacks", ["the weights of now", "speech for VNNI"])
def test_directory_that_lacks_what_is_built_now_is_built_anew(
    lacks: str, mini_models: Path, scratch: Path
) -> None:
    outdated = scratch / "mini"
    for name in SHIPPED:
        shutil.copytree(shipped_weights() / name, outdated / name)
    (outdated / "kokoro").mkdir()
    (outdated / "kokoro" / VNNI_FILE).touch()
    if lacks == "the weights of now":
        (outdated / "flux" / "model_index.json").write_text("{}")
    else:
        (outdated / "kokoro" / VNNI_FILE).rename(outdated / "kokoro" / ONNX_FILE)
    write_manifest(outdated, profile="mini")
    build_mini(outdated)
    assert manifest(outdated) == manifest(mini_models / "mini")
    assert list(scratch.iterdir()) == [outdated]


def test_existing_directory_is_kept_as_it_is(scratch: Path) -> None:
    (scratch / "mini").mkdir()
    build_mini(scratch / "mini")
    assert list((scratch / "mini").iterdir()) == []


def test_failed_build_leaves_nothing_behind(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(part: str) -> None:
        raise RuntimeError(part)

    with pytest.raises(RuntimeError):
        build_mini(scratch / "mini", progress=fail)
    assert list(scratch.iterdir()) == []
