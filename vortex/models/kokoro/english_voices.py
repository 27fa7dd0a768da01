"""Kokoro's English voices, out of the npm package that carries them."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from vortex.models.kokoro.voices import VOICE_SHAPE

PACKAGE = "kokoro-js@1.2.1"
"""Apache-2.0; the voices of hexgrad/Kokoro-82M, of the same licence."""
SHA512 = "oq0HZJWis3t8lERkMJh84WLU86dpYD0EuBPtqYnLlQzyFP1OkyBRDcweAqCfhNOpltyN9j/azp1H6uuC47gShw=="
"""Of the package's file, in base64, as npm writes it."""

_FETCH_TIMEOUT_S = 120.0  # for 27 MB
_VOICE_FILE = re.compile(r"package/voices/([ab][fm]_[a-z]+)\.bin")  # American and British English


class VoicesUnavailableError(Exception):
    """The voices cannot be had; the message says why, and what would help."""


def fetch_english_voices() -> dict[str, np.ndarray]:
    """Return the English voices by name, float32 `[510, 1, 256]`.

    Fetches the package with npm, which keeps it in its own cache; nothing of it is run, and only
    a file of the known checksum is opened.

    Raises:
        VoicesUnavailableError: there is no npm, it fails, or the file is not the known one.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise VoicesUnavailableError("npm is not installed; install Node.js")
    with tempfile.TemporaryDirectory(prefix="vortex-voices-") as scratch:
        return _read(_pack(npm, Path(scratch)))


def _pack(npm: str, directory: Path) -> Path:
    """Fetch the package's file into a directory."""
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
    command += ["--no-update-notifier", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments alone
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VoicesUnavailableError(
            f"npm did not fetch {PACKAGE} in {_FETCH_TIMEOUT_S:.0f} s; try again"
        ) from error
    except OSError as error:
        raise VoicesUnavailableError(f"npm cannot be started: {error}") from error
    files = list(directory.glob("*.tgz"))
    if done.returncode != 0 or len(files) != 1:
        reason = next(iter(done.stderr.splitlines()), f"exit code {done.returncode}")[:200]
        raise VoicesUnavailableError(f"npm could not fetch {PACKAGE} ({reason}); try again")
    return files[0]


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the English voices of the package's file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = base64.b64encode(digest).decode()
    if found != SHA512:
        raise VoicesUnavailableError(
            f"what npm fetched is not {PACKAGE} as it was published: its sha512 is {found}"
        )
    voices = {}
    with tarfile.open(path, "r:gz") as package:
        for member in package:
            name = _VOICE_FILE.fullmatch(member.name)
            content = package.extractfile(member) if name else None
            if name and content:
                style = np.frombuffer(content.read(), dtype="<f4").reshape(VOICE_SHAPE)
                voices[name[1]] = style.astype(np.float32)
    return voices
