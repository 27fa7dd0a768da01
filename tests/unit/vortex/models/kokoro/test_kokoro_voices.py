from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vortex.errors import VortexInitializationError
from vortex.models.kokoro.voices import (
    VOICE_SHAPE,
    choose_default,
    read_packed_voices,
    style_of,
    write_packed_voices,
)

HERE = Path("/models/kokoro")
JAPANESE = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")


@pytest.mark.parametrize(
    ("configured", "voices", "chosen"),
    [
        ("auto", (*JAPANESE, "am_michael", "af_heart"), "af_heart"),
        ("auto", JAPANESE, "jm_kumo"),
        ("auto", ("zm_yunxi", "ff_siwis"), "ff_siwis"),
        ("jf_nezumi", (*JAPANESE, "af_heart"), "jf_nezumi"),
    ],
)
def test_default_voice_is_the_configured_one_or_the_best_there(
    configured: str, voices: tuple[str, ...], chosen: str
) -> None:
    assert choose_default(configured, voices, HERE) == chosen


def test_voice_that_is_configured_and_not_there_is_refused_even_if_it_is_a_preferred_one() -> None:
    with pytest.raises(VortexInitializationError) as caught:
        choose_default("af_heart", JAPANESE, HERE)
    assert str(caught.value) == (
        "models.default_voice 'af_heart' is not in /models/kokoro; set it to auto, or one of "
        + ", ".join(JAPANESE)
    )


def test_directory_without_voices_is_refused() -> None:
    with pytest.raises(VortexInitializationError, match=r"^kokoro: /models/kokoro holds no voices"):
        choose_default("auto", (), HERE)


def test_style_follows_the_number_of_tokens_and_the_last_one_serves_all_beyond() -> None:
    voice = np.arange(510.0).reshape(510, 1, 1).repeat(256, axis=2)
    assert [style_of(voice, n)[0, 0] for n in (1, 2, 510, 600)] == [0, 1, 509, 509]


def test_voices_are_written_to_the_same_bytes_on_every_python_and_are_read_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "voices.npz"
    voices = {name: np.full(VOICE_SHAPE, each, np.float32) for each, name in enumerate("ab")}
    write_packed_voices(path, voices)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "afcd1587adc5a50c451c21fcf475c4b5c364df16b9bea0d2211ece202288eb8f"
    read = read_packed_voices(path)
    assert read.keys() == voices.keys()
    for name, voice in voices.items():
        np.testing.assert_array_equal(read[name], voice)


@pytest.mark.parametrize(
    ("voice", "what"),
    [
        (
            np.zeros((510, 256), np.float32),
            "is float32 [510, 256] instead of float32 [510, 1, 256]",
        ),
        (np.zeros((510, 1, 256), np.int32), "is int32 [510, 1, 256] instead of"),
        (np.array([{"a": 1}], dtype=object), "cannot be loaded: Object arrays cannot be loaded"),
    ],
)
def test_array_that_is_no_voice_is_refused(tmp_path: Path, voice: np.ndarray, what: str) -> None:
    path = tmp_path / "voices.npz"
    np.savez(path, af_nobody=voice)
    with pytest.raises(VortexInitializationError) as caught:
        read_packed_voices(path)
    assert str(caught.value).startswith(f"kokoro: {path}")
    assert what in str(caught.value)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "voices.npz"
    np.savez(path, af_nobody=np.zeros((510, 1, 256), np.float32))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VortexInitializationError, match=f"^kokoro: {path} cannot be loaded: "):
        read_packed_voices(path)
