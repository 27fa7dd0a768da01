"""Fetching from a directory, without a hub; see tests/integration/test_fetch_models.py for one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.hub_server import REVISION, write_catalogue
from vortex.errors import VortexInitializationError
from vortex.weights.catalogue import Catalogue
from vortex.weights.fetch import fetch
from vortex.weights.manifest import FILE_NAME, verify_manifest
from vortex.weights.presence import Presence, presence_of

REPOSITORIES = {
    "someone/large": {"model.safetensors": b"large" * 1000, "config.json": b"{}"},
    "other/voice": {"voices/a.pt": b"a" * 100, "voices/b.pt": b"b" * 100},
}
MODELS = {"flux": "someone/large", "kokoro": "other/voice"}
SIZE = sum(len(data) for files in REPOSITORIES.values() for data in files.values())
SNAPSHOT = f"snapshots/{REVISION}"


@dataclass
class Watcher:
    """Remembers what it is told."""

    total: int = 0
    come: int = 0
    steps: list[str] = field(default_factory=list)

    def start(self, total_bytes: int) -> None:
        self.total = total_bytes

    def step(self, what: str) -> None:
        self.steps.append(what)

    def advance(self, more_bytes: int) -> None:
        self.come += more_bytes


@dataclass
class Place:
    """Where models are fetched to, and from."""

    directory: Path
    source: Path
    catalogue: Path
    watcher: Watcher = field(default_factory=Watcher)

    def fetch(self, source: Path | None = None) -> None:
        fetch(
            self.directory,
            progress=self.watcher,
            source=source or self.source,
            catalogue=self.catalogue,
        )

    def refusal(self) -> str:
        with pytest.raises(VortexInitializationError) as caught:
            self.fetch()
        message = str(caught.value)
        assert "\n" not in message
        return message

    def check(self) -> dict[str, str]:
        return verify_manifest(self.directory, checksums=True, catalogue=self.catalogue)

    def presence(self) -> list[Presence]:
        models = Catalogue.load(self.catalogue).profile("production")
        return [presence_of(self.directory, name, model) for name, model in models.items()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    catalogue = write_catalogue(
        tmp_path / "catalogue.yaml", MODELS, REPOSITORIES, unknown=frozenset({"config.json"})
    )
    fill(tmp_path / "source", {name: name for name in REPOSITORIES})
    return Place(tmp_path / "production", tmp_path / "source", catalogue)


def fill(root: Path, folders: dict[str, str]) -> None:
    for repository, folder in folders.items():
        for name, data in REPOSITORIES[repository].items():
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.mark.parametrize(
    "folders",
    [
        {
            "someone/large": f"models--someone--large/{SNAPSHOT}",
            "other/voice": f"models--other--voice/{SNAPSHOT}",
        },
        {
            "someone/large": f"hub/models--someone--large/{SNAPSHOT}",
            "other/voice": f"hub/models--other--voice/{SNAPSHOT}",
        },
        {"someone/large": "someone/large", "other/voice": "other/voice"},
        {"someone/large": "flux", "other/voice": "kokoro"},
    ],
    ids=["the hub's cache", "the hub's home", "repositories", "a profile"],
)
def test_every_layout_of_a_directory_gives_whole_models(
    folders: dict[str, str], place: Place, tmp_path: Path
) -> None:
    fill(tmp_path / "share", folders)
    place.fetch(tmp_path / "share")
    assert place.check() == dict.fromkeys(MODELS, REVISION)
    assert sorted(path.name for path in place.directory.iterdir()) == [
        "flux",
        "kokoro",
        "manifest.json",
    ]
    assert (place.watcher.total, place.watcher.come) == (SIZE - len(b"{}"), SIZE)


def test_files_of_the_hubs_cache_are_linked_and_not_the_names_for_them(
    place: Place, tmp_path: Path
) -> None:
    """The cache holds symbolic links to files that are called by their checksums."""
    blobs = tmp_path / "blobs"
    for path in list(place.source.rglob("*.pt")):
        blobs.mkdir(exist_ok=True)
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    place.fetch()
    voice = place.directory / "kokoro" / "voices" / "a.pt"
    assert not voice.is_symlink()
    assert voice.stat().st_ino == (blobs / "a.pt").stat().st_ino


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system to write to")
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Path(directory)


def test_files_of_another_disk_are_copied(place: Place, other_disk: Path) -> None:
    fill(other_disk, {name: name for name in REPOSITORIES})
    place.fetch(other_disk)
    assert place.check() == dict.fromkeys(MODELS, REVISION)


def test_file_that_is_not_there_is_named_with_what_is_wanted(place: Place) -> None:
    (place.source / "other" / "voice" / "voices" / "b.pt").unlink()
    assert place.refusal() == (
        f"{place.source} has no voices/b.pt of other/voice at {REVISION} with 100 bytes; give"
        " --from a DIRECTORY that has, or go online"
    )
    assert not (place.directory / FILE_NAME).exists()


def test_damaged_file_of_the_source_is_named_and_not_taken(place: Place) -> None:
    path = place.source / "other" / "voice" / "voices" / "b.pt"
    path.write_bytes(b"c" * 100)
    message = place.refusal()
    assert message.startswith(f"{path} came with sha256 ")
    assert not (place.directory / "kokoro" / "voices" / "b.pt").exists()
    assert not (place.directory / FILE_NAME).exists()


@pytest.mark.parametrize("damage", [b"", b"x" * 5000], ids=["truncated", "changed"])
def test_damaged_file_alone_is_fetched_again(damage: bytes, place: Place) -> None:
    place.fetch()
    weights = place.directory / "flux" / "model.safetensors"
    weights.unlink()  # and not only written over, for it is the source's file too
    weights.write_bytes(damage)
    place.watcher.steps.clear()
    place.fetch()
    assert [step for step in place.watcher.steps if step.startswith("copying")] == [
        "copying flux/model.safetensors"
    ]
    assert place.check() == dict.fromkeys(MODELS, REVISION)


def test_changed_file_without_published_checksum_is_fetched_again(place: Place) -> None:
    place.fetch()
    config = place.directory / "flux" / "config.json"
    config.unlink()
    config.write_bytes(b"[]")
    place.fetch()
    assert config.read_bytes() == b"{}"


def test_whole_models_need_no_source(place: Place, tmp_path: Path) -> None:
    place.fetch()
    (tmp_path / "empty").mkdir()
    place.fetch(tmp_path / "empty")
    assert place.check() == dict.fromkeys(MODELS, REVISION)


def test_second_fetch_into_the_same_directory_is_refused(place: Place) -> None:
    class Curious(Watcher):
        def start(self, total_bytes: int) -> None:
            assert "another process is fetching models into" in place.refusal()
            super().start(total_bytes)

    fetch(place.directory, progress=Curious(), source=place.source, catalogue=place.catalogue)
    assert place.check() == dict.fromkeys(MODELS, REVISION)


def test_more_than_the_disk_holds_is_refused_before_anything_is_fetched(place: Place) -> None:
    text = place.catalogue.read_text().replace("bytes: 5000", f"bytes: {10**18}")
    place.catalogue.write_text(text)
    with pytest.raises(VortexInitializationError) as caught:
        fetch(place.directory, progress=place.watcher, catalogue=place.catalogue)
    message = str(caught.value)
    assert message.startswith(f"1000000000.0 GB must be fetched into {place.directory}, where ")
    assert message.endswith("GB are free; free some or set models.directory")


def test_directory_that_cannot_be_made_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "production").touch()
    assert place.refusal().startswith(f"{tmp_path}/production")


def test_models_that_are_built_are_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(VortexInitializationError, match="cannot be fetched: run `vortex models bu"):
        fetch(tmp_path / "mini", progress=Watcher())
    assert not (tmp_path / "mini").exists()


def test_presence_follows_the_files(place: Place) -> None:
    assert place.presence() == [Presence.MISSING, Presence.MISSING]
    (place.directory / "flux").mkdir(parents=True)
    assert place.presence() == [Presence.PARTLY, Presence.MISSING]
    place.fetch()
    assert place.presence() == [Presence.PRESENT, Presence.PRESENT]
    os.truncate(place.directory / "kokoro" / "voices" / "a.pt", 0)
    assert place.presence() == [Presence.PRESENT, Presence.PARTLY]


def refusal_of_manifest(place: Place) -> str:
    with pytest.raises(VortexInitializationError) as caught:
        place.check()
    message = str(caught.value)
    assert message.endswith("; run `vortex models fetch` or set models.directory")
    return message


def test_other_revision_than_the_catalogues_is_refused(place: Place) -> None:
    place.fetch()
    newer = REVISION[::-1]
    place.catalogue.write_text(place.catalogue.read_text().replace(REVISION, newer))
    assert refusal_of_manifest(place).startswith(
        f"model 'flux': revision {REVISION} is not {newer} of someone/large"
    )
    assert place.presence() == [Presence.OUTDATED, Presence.OUTDATED]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda files: files["model.safetensors"].update(sha256="0" * 64),
            "lists another model.safetensors than was published",
        ),
        (lambda files: files.pop("config.json"), "does not list config.json"),
        (
            lambda files: files.update({"more.safetensors": {"bytes": 0, "sha256": ""}}),
            "lists more.safetensors, which is not part of someone/large",
        ),
    ],
    ids=["another checksum", "a file less", "a file more"],
)
def test_manifest_cannot_vouch_for_what_was_not_published(
    change: object, complaint: str, place: Place
) -> None:
    place.fetch()
    assert callable(change)
    path = place.directory / FILE_NAME
    manifest = json.loads(path.read_text())
    change(manifest["models"]["flux"]["files"])
    path.write_text(json.dumps(manifest))
    assert refusal_of_manifest(place).startswith(f"model 'flux': manifest.json {complaint}")
