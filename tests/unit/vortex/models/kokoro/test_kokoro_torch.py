# ruff: noqa: RUF001 - phonetic symbols are meant, not the letters that look like them

from __future__ import annotations

import gc
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.kokoro_checkpoint import (
    CONFIG,
    VOICES,
    library_model,
    needs_kokoro,
    write_published,
)
from vortex.errors import VortexInitializationError
from vortex.models.footprint import held_bytes_by_part
from vortex.models.kokoro import KokoroSpeech, Speech
from vortex.models.kokoro.backend import SAMPLES_PER_UNIT
from vortex.models.kokoro.load_backend import load_backend
from vortex.models.kokoro.torch_backend import TorchBackend
from vortex.models.kokoro.voices import style_of
from vortex.utils.cancellation import CancellationToken, StageCancelled

pytestmark = needs_kokoro

TOKENS = tuple(range(43, 63))
SCRIPT = "Good evening. It rains in the north."

# Speaks argv[2] with the directory argv[1], and prints the samples' checksum.
OTHER_PROCESS = """
import hashlib, sys
from pathlib import Path
from vortex.models.kokoro import KokoroSpeech
from vortex.utils.cancellation import CancellationToken

speech = KokoroSpeech(Path(sys.argv[1]), default_voice="auto").synthesize(
    sys.argv[2], max_duration_s=30.0, token=CancellationToken()
)
print(hashlib.sha256(speech.waveform.tobytes()).hexdigest())
"""


@pytest.fixture(autouse=True)
def _without_the_networks_of_earlier_tests() -> Iterator[None]:
    """Free what each test loaded: networks are cycles of 650 MB, which Python lets pile up."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a directory in the published layout; too large to keep after its tests."""
    directory = tmp_path_factory.mktemp("published") / "kokoro"
    write_published(directory)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def backend(published: Path) -> TorchBackend:
    loaded = load_backend(published)
    assert isinstance(loaded, TorchBackend)
    return loaded


@pytest.fixture(scope="module")
def kokoro(published: Path) -> KokoroSpeech:
    return KokoroSpeech(published, default_voice="auto")


@pytest.fixture
def changed(published: Path, tmp_path: Path) -> Iterator[Path]:
    """Give a copy of the directory that a test may spoil; its files are links."""
    directory = tmp_path / "kokoro"
    shutil.copytree(published, directory, copy_function=lambda a, b: Path(b).symlink_to(a))
    yield directory
    shutil.rmtree(directory)


def say(kokoro: KokoroSpeech, script: str = SCRIPT, **changes: Any) -> Speech:
    settings: dict[str, Any] = {"max_duration_s": 30.0, "token": CancellationToken()}
    return kokoro.synthesize(script, **{**settings, **changes})


def refusal(directory: Path) -> str:
    with pytest.raises(VortexInitializationError) as caught:
        load_backend(directory)
    message = str(caught.value)
    assert message.startswith("kokoro: ")
    assert "\n" not in message
    return message


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replace a link to a file of tables by a file with a change."""
    content = torch.load(path, weights_only=True)
    change(content)
    path.unlink()
    torch.save(content, path)


# Speaking


def test_samples_and_durations_are_those_of_the_library(
    backend: TorchBackend, published: Path
) -> None:
    library = library_model(published)
    style = style_of(torch.load(published / "voices" / "af_heart.pt").numpy(), len(TOKENS))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        waveform, durations = library.forward_with_tokens(
            torch.tensor([[0, *TOKENS, 0]]), torch.from_numpy(style), 1.1
        )
    ours, our_durations = backend.run(TOKENS, "af_heart", 1.1, token=CancellationToken())
    assert np.array_equal(our_durations, durations.numpy())
    np.testing.assert_allclose(ours, waveform.numpy(), atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize(
    ("count", "tempo"),
    [(1, 1.0), (20, 0.5), pytest.param(510, 2.0, marks=pytest.mark.slow)],
)
def test_durations_add_up_to_the_samples(backend: TorchBackend, count: int, tempo: float) -> None:
    tokens = [43 + i % 60 for i in range(count)]
    waveform, durations = backend.run(tokens, VOICES[0], tempo, token=CancellationToken())
    assert (waveform.dtype, waveform.ndim) == (np.float32, 1)
    assert (durations.dtype, durations.shape) == (np.int64, (count + 2,))
    assert durations.min() >= 1
    assert durations.sum() * SAMPLES_PER_UNIT == waveform.size
    assert np.isfinite(waveform).all()


def test_script_is_spoken_with_the_times_of_its_phonemes(kokoro: KokoroSpeech) -> None:
    speech = say(kokoro)
    assert (speech.voice_id, kokoro.voices) == ("af_heart", VOICES)
    assert np.abs(speech.waveform).max() > 0.05
    times_s = [time_s for p in speech.phonemes for time_s in (p.start_s, p.end_s)]
    assert times_s == sorted(times_s)
    assert 0 <= times_s[0] < times_s[-1] <= speech.duration_s
    assert {"ɡ", "ʊ", "d"} <= {phoneme.symbol for phoneme in speech.phonemes}


@pytest.mark.slow
def test_sentence_longer_than_the_network_takes_is_spoken_in_runs(kokoro: KokoroSpeech) -> None:
    speech = say(kokoro, "It rains in the north, and " * 25, speed=2.0, max_duration_s=300.0)
    assert sum(p.symbol == "ɹ" for p in speech.phonemes) == 2 * 25
    assert speech.phonemes[-1].end_s > 0.9 * speech.duration_s


def test_voice_speed_and_emotion_change_the_speech(kokoro: KokoroSpeech) -> None:
    readings = [
        say(kokoro),
        say(kokoro, voice_id="bm_george"),
        say(kokoro, speed=1.2),
        say(kokoro, emotion="sad"),
    ]
    assert len({reading.waveform.tobytes() for reading in readings}) == len(readings)


@pytest.mark.parametrize("n", [1, 2])
def test_cancelled_speech_stops_before_the_next_sentence(kokoro: KokoroSpeech, n: int) -> None:
    token = CancellationToken()
    stream = kokoro.stream(f"{SCRIPT} The sun shines.", max_duration_s=30.0, token=token)
    pieces = iter(stream)
    for _ in range(n):
        next(pieces)
    token.cancel()
    with pytest.raises(StageCancelled):
        next(pieces)


# Noise


def test_same_arguments_give_the_same_samples_and_leave_the_global_generator_alone(
    kokoro: KokoroSpeech,
) -> None:
    before = torch.get_rng_state()
    first = say(kokoro)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert np.array_equal(say(kokoro).waveform, first.waveform)


def test_sentence_sounds_alike_wherever_it_stands(kokoro: KokoroSpeech) -> None:
    alone = say(kokoro, "It rains in the north.").waveform
    after = say(kokoro).waveform[-len(alone) :]
    scale = np.abs(alone).max() / np.abs(after).max()  # the sentence before tells on the loudness
    assert np.corrcoef(alone, after)[0, 1] > 0.999
    assert 0.5 < scale < 2.0


@pytest.mark.slow
def test_other_process_speaks_the_same_samples(kokoro: KokoroSpeech, published: Path) -> None:
    import hashlib

    command = [sys.executable, "-c", OTHER_PROCESS, str(published), SCRIPT]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    digest = hashlib.sha256(say(kokoro).waveform.tobytes()).hexdigest()
    assert other.stdout.split()[-1] == digest


def test_noise_drawn_by_another_thread_meanwhile_changes_nothing(kokoro: KokoroSpeech) -> None:
    alone = say(kokoro).waveform
    stop = threading.Event()
    drawn = []

    def draw() -> None:
        while not stop.is_set():
            torch.manual_seed(len(drawn))
            drawn.append(torch.randn_like(torch.zeros(16)))
            stop.wait(0.0005)

    with torch.random.fork_rng(devices=[]):
        other = threading.Thread(target=draw)
        other.start()
        beside = say(kokoro).waveform
        stop.set()
        other.join()
    assert np.array_equal(beside, alone)
    # Nor does speech change what the other thread draws.
    assert len(drawn) > 10
    for seed, noise in enumerate(drawn):
        own = torch.randn(16, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(noise, own)


# Files


def test_own_layout_speaks_as_the_published_one(kokoro: KokoroSpeech, changed: Path) -> None:
    tables = torch.load(changed / "kokoro-v1_0.pth", weights_only=True)
    flat = {
        f"{part}.{name.removeprefix('module.')}": tensor
        for part, table in tables.items()
        for name, tensor in table.items()
    }
    save_file(flat, changed / "kokoro-v1_0.safetensors")
    (changed / "kokoro-v1_0.pth").unlink()
    for voice in VOICES:
        published = changed / "voices" / f"{voice}.pt"
        save_file({"style": torch.load(published)}, published.with_suffix(".safetensors"))
        published.unlink()
    own = KokoroSpeech(changed, default_voice="auto")
    assert np.array_equal(say(own).waveform, say(kokoro).waveform)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["decoder"].pop("module.F0_conv.bias"), "'decoder.F0_conv.bias' is missing"),
        (lambda c: c["bert"].update({"module.x": torch.ones(1)}), "'bert.x' is not known"),
        (lambda c: c.update(vocoder={"y": torch.ones(1)}), "'vocoder.y' is not known"),
        (lambda c: c.pop("text_encoder"), "'text_encoder.cnn.0.0.bias' is missing"),
        (
            lambda c: c["bert_encoder"].update({"module.bias": torch.ones(3)}),
            "'bert_encoder.bias' is [3] instead of [512]",
        ),
        (
            lambda c: c["bert_encoder"].update({"module.bias": torch.ones(512, dtype=torch.int64)}),
            "'bert_encoder.bias' is torch.int64 instead of torch.float32",
        ),
        (lambda c: c["bert"].update({"module.pooler.bias": 1.0}), "is not a tensor but float"),
        (
            lambda c: c["decoder"].update(
                {"module.generator.resblocks.0.adain1.0.norm.weight": torch.ones(16)}
            ),
            "'decoder.generator.resblocks.0.adain1.0.norm.weight' is not known",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    changed: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    path = changed / "kokoro-v1_0.pth"
    rewrite(path, change)
    message = refusal(changed)
    assert message.startswith(f"kokoro: {path}: ")
    assert says in message


class _Code:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._made,)


@pytest.mark.parametrize("name", ["kokoro-v1_0.pth", "voices/af_heart.pt"])
@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(what)])
def test_code_in_a_file_is_refused_and_not_run(
    changed: Path, name: str, save: Callable[[Any, Path], None]
) -> None:
    made = changed / "made"
    code = _Code(made)
    (changed / name).unlink()
    save(code if save is torch.save else pickle.dumps(code, protocol=2), changed / name)
    assert "is refused: it is damaged, or holds something else than tensors" in refusal(changed)
    assert not made.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: (d / "kokoro-v1_0.pth").unlink(), "kokoro-v1_0.pth is missing"),
        (lambda d: (d / "config.json").unlink(), "must hold either model.onnx or config.json"),
        (lambda d: (d / "model.onnx").touch(), "it holds both"),
        (lambda d: rewrite_config(d, vocab=None), "config.json: vocab must map symbols"),
        (lambda d: rewrite_config(d, plbert={}), "config.json cannot be read: KeyError"),
        (lambda d: rewrite_config(d, n_layer="two"), "config.json describes no network: TypeErr"),
        (
            lambda d: rewrite_config(d, plbert={"max_position_embeddings": 256}),
            "config.json: plbert.max_position_embeddings is 256, it must be at least 512",
        ),
        (
            lambda d: rewrite_voice(d, torch.zeros(510, 256)),
            "voice 'af_heart' is float32 [510, 256] instead of float32 [510, 1, 256]",
        ),
        (lambda d: rewrite_voice(d, [1.0]), "af_heart.pt must hold one tensor and nothing else"),
    ],
)
def test_files_that_do_not_fit_are_named(
    changed: Path, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(changed)
    message = refusal(changed)
    assert str(changed) in message
    assert says in message


def test_directory_without_voices_is_refused(changed: Path) -> None:
    shutil.rmtree(changed / "voices")
    with pytest.raises(VortexInitializationError, match=r"holds no voices$"):
        KokoroSpeech(changed, default_voice="auto")


def rewrite_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.unlink()
    path.write_text(json.dumps({**CONFIG, **changes}))


def rewrite_voice(directory: Path, content: object) -> None:
    path = directory / "voices" / "af_heart.pt"
    path.unlink()
    torch.save(content, path)


def test_memory_of_speech_in_torch_is_counted(kokoro: KokoroSpeech, backend: TorchBackend) -> None:
    weights = sum(each.nbytes for each in backend.parts["network"].parameters())
    assert held_bytes_by_part({"kokoro": kokoro})["kokoro.network"] >= weights > 10**8
