from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from consumer.artifacts.errors import ArtifactStoreError
from consumer.artifacts.media import EncodedMedia
from consumer.artifacts.store import ABANDONED_AFTER_S, TEMPORARY_SUFFIX, ArtifactStore


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the address of an empty store: a directory, and one that is no file system."""
    if request.param == "local":
        yield str(tmp_path / "slots")
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    memory = fsspec.filesystem("memory")
    if memory.exists(url):
        memory.rm(url, recursive=True)


@pytest.fixture
def local(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "slots"))


def video(store: ArtifactStore, content: bytes = b"a video", channel: str = "main") -> EncodedMedia:
    """Return a finished file, where the encoder would have written it."""
    path = store.scratch_path(channel, 7)
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return EncodedMedia(path, len(content), sha256, duration_s=1, width=64, height=64, fps=12)


def read(uri: str) -> bytes:
    with fsspec.open(uri) as file:
        content: bytes = file.read()
    return content


def names(url: str) -> list[str]:
    """Return the names of everything in a store, without its own."""
    fs, root = fsspec.core.url_to_fs(url)
    return sorted(path.removeprefix(root).lstrip("/") for path in fs.find(root))


def complaint(error: pytest.ExceptionInfo[ArtifactStoreError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_video_gets_its_final_name_and_nothing_else_stays(url: str) -> None:
    store = ArtifactStore(url)
    store.check()
    media = video(store)
    stored = store.put(media, "main", 7)
    name = f"main/7-{media.sha256[:12]}.mp4"
    assert names(url) == [name]
    assert not media.path.exists()
    assert stored.uri.endswith(f"/{name}")
    assert read(stored.uri) == b"a video"
    assert (stored.bytes, stored.sha256) == (media.bytes, media.sha256)


def test_slot_that_is_made_again_leaves_its_first_video_as_it_was(url: str) -> None:
    store = ArtifactStore(url)
    first = store.put(video(store, b"first"), "main", 7)
    second = store.put(video(store, b"second"), "main", 7)
    assert read(first.uri) == b"first"
    assert read(second.uri) == b"second"
    assert store.put(video(store, b"first"), "main", 7) == first
    assert len(names(url)) == 2


def test_changed_byte_and_missing_video_are_not_whole(url: str) -> None:
    store = ArtifactStore(url)
    stored = store.put(video(store, b"a video"), "main", 7)
    assert store.is_whole(stored.uri, stored.sha256)
    with fsspec.open(stored.uri, "wb") as file:
        file.write(b"a viddo")
    assert not store.is_whole(stored.uri, stored.sha256)
    assert not store.is_whole(stored.uri.replace("/7-", "/8-"), stored.sha256)


def test_failed_put_leaves_the_older_video_as_it_was(url: str) -> None:
    store = ArtifactStore(url)
    stored = store.put(video(store, b"older"), "main", 7)
    media = video(store, b"newer")
    media.path.unlink()
    with pytest.raises(ArtifactStoreError, match=f"^artifacts.url {url} cannot be written: ") as e:
        store.put(media, "main", 7)
    complaint(e)
    assert read(stored.uri) == b"older"
    assert len(names(url)) == 1


@pytest.mark.parametrize("channel", [".", "..", "a.b", "..."])
def test_channel_of_dots_stays_inside_the_store(url: str, channel: str) -> None:
    store = ArtifactStore(url)
    stored = store.put(video(store, channel=channel), channel, 7)
    assert store.is_whole(stored.uri, stored.sha256)
    assert len(names(url)) == 1


def test_file_is_on_the_disk_before_it_has_its_name_and_the_name_afterwards(
    local: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = video(local)
    final = tmp_path / "slots" / "main" / f"7-{media.sha256[:12]}.mp4"
    flushed: list[tuple[Path, bool]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink(), final.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    local.put(media, "main", 7)
    assert flushed == [(media.path, False), (final.parent, True)]


def test_local_scratch_file_lies_beside_the_final_name(
    local: ArtifactStore, tmp_path: Path
) -> None:
    first, second = local.scratch_path("main", 7), local.scratch_path("main", 7)
    assert first != second
    assert first.parent == tmp_path / "slots" / "main"
    assert first.parent.is_dir()


def test_place_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    url = str(tmp_path / "file" / "slots")
    store = ArtifactStore(url)
    expected = f"artifacts.url {url} cannot be written: Not a directory"
    with pytest.raises(ArtifactStoreError) as checked:
        store.check()
    assert complaint(checked) == expected
    with pytest.raises(ArtifactStoreError) as made:
        store.scratch_path("main", 7)
    assert complaint(made) == expected


@pytest.mark.parametrize("url", ["nonsense://bucket/slots", "hdfs://host/slots"])
def test_address_that_nothing_here_can_reach_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ArtifactStoreError, match=f"^artifacts.url {url}: ") as refused:
        ArtifactStore(url)
    complaint(refused)


def test_check_makes_the_place_and_leaves_nothing_in_it(url: str) -> None:
    ArtifactStore(url).check()
    assert names(url) == []


def test_check_sweeps_what_dead_workers_left_and_nothing_else(
    local: ArtifactStore, tmp_path: Path
) -> None:
    root = tmp_path / "slots"
    stored = local.put(video(local), "main", 7)
    abandoned = local.scratch_path("main", 8)
    being_made = local.scratch_path("main", 9)
    foreign = root / "main" / f"notes{TEMPORARY_SUFFIX}"
    for path in (abandoned, being_made, foreign):
        path.touch()
    long_ago = time.time() - ABANDONED_AFTER_S - 60
    for path in (abandoned, foreign, Path(stored.uri.removeprefix("file://"))):
        os.utime(path, (long_ago, long_ago))
    local.check()
    assert not abandoned.exists()
    assert being_made.exists()
    assert foreign.exists()
    assert local.is_whole(stored.uri, stored.sha256)
