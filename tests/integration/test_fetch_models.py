"""`vortex models fetch` from a hub on loopback, and `verify` of what came."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.command_line import vortex
from tests.support.hub_server import REVISION, HubServer, write_catalogue
from vortex.models.liveportrait import LivePortraitDims
from vortex.models.liveportrait.checkpoints import Networks
from vortex.weights.manifest import describe, verify_manifest

TIMEOUT_S = 280.0
TOKEN = "hf_not_to_be_shown"
CHUNK_BYTES = 10 * 2**20  # what huggingface_hub writes at a time
WEIGHTS = random.Random(0).randbytes(CHUNK_BYTES + 1_000_000)
REPOSITORIES = {"someone/large": {"config.json": b"{}", "model.safetensors": WEIGHTS}}
GENERATOR = Path("base_models") / "spade_generator.safetensors"


@dataclass
class Command:
    """`vortex models` in a directory of its own, without what this machine knows of the hub."""

    directory: Path
    catalogue: Path
    endpoint: str = "http://127.0.0.1:1"

    @property
    def production(self) -> Path:
        return self.directory / "models" / "production"

    def run(
        self, *arguments: str, largest_file_bytes: int | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        ours = {
            "COLUMNS": "80",
            "HF_HOME": str(self.directory / "hf"),
            "HF_ENDPOINT": self.endpoint,
            "VORTEX__MODELS__PROFILE": "production",
            "VORTEX__MODELS__DIRECTORY": str(self.directory / "models"),
            "VORTEX__MODELS__CATALOGUE": str(self.catalogue),
            "VORTEX__DEVICE__NAME": "cpu",
        }
        return vortex(
            "models",
            *arguments,
            timeout_s=TIMEOUT_S,
            largest_file_bytes=largest_file_bytes,
            **ours | variables,
        )

    def succeed(self, *arguments: str, **variables: str) -> str:
        done = self.run(*arguments, **variables)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    def refusal(self, *arguments: str, **options: Any) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 3, done.stdout + done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("vortex: ").rstrip()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    models = {"flux": "someone/large"}
    return Command(tmp_path, write_catalogue(tmp_path / "catalogue.yaml", models, REPOSITORIES))


def test_download_that_is_cut_goes_on_where_it_ended(command: Command) -> None:
    with HubServer(REPOSITORIES, cuts={"model.safetensors": [CHUNK_BYTES + 5]}) as hub:
        command.endpoint = hub.endpoint
        command.succeed("fetch")
    assert hub.fetched("model.safetensors") == [None, f"bytes={CHUNK_BYTES}-"]
    revisions = verify_manifest(command.production, checksums=True, catalogue=command.catalogue)
    assert revisions == {"flux": REVISION}
    assert (command.production / "flux" / "model.safetensors").read_bytes() == WEIGHTS


def test_download_that_is_cut_for_good_goes_on_in_the_next_call(command: Command) -> None:
    with HubServer(REPOSITORIES, cuts={"model.safetensors": [CHUNK_BYTES] + 6 * [0]}) as hub:
        command.endpoint = hub.endpoint
        message = command.refusal("fetch")
        assert message.startswith("someone/large: model.safetensors did not come from http://127.")
        assert "run it again to resume" in message
        assert not (command.production / "manifest.json").exists()
        hub.cuts.clear()
        hub.requests.clear()
        command.succeed("fetch")
    assert hub.fetched("model.safetensors") == [f"bytes={CHUNK_BYTES}-"]
    assert hub.fetched("config.json") == []
    verify_manifest(command.production, checksums=True, catalogue=command.catalogue)


def test_token_is_shown_to_the_hub_alone(command: Command) -> None:
    with HubServer(REPOSITORIES) as hub:
        command.endpoint = hub.endpoint
        said = command.succeed("fetch", HF_TOKEN=TOKEN)
        hub.refusals["someone/large"] = (403, "GatedRepo")
        (command.production / "flux" / "config.json").unlink()
        said += command.refusal("fetch", HF_TOKEN=TOKEN)
    assert TOKEN not in said
    shown = {request.path.startswith("/store/"): request.authorization for request in hub.requests}
    assert shown == {False: f"Bearer {TOKEN}", True: None}


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((401, "GatedRepo"), "is gated: accept its conditions at "),
        ((403, "GatedRepo"), "then log in with `hf auth login` or set HF_TOKEN"),
        ((404, "RevisionNotFound"), f"has no revision {REVISION}; install a newer vortex-slots"),
        ((404, "RepoNotFound"), "check HF_ENDPOINT, log in with `hf auth login` or set HF_TOKEN"),
        ((404, "EntryNotFound"), "has no file config.json at "),
        ((503, ""), "answers 503 for someone/large: config.json; try again later"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_refusal_of_the_hub_is_one_line_that_says_what_to_do(
    refusal: tuple[int, str], expected: str, command: Command
) -> None:
    with HubServer(REPOSITORIES, refusals={"someone/large": refusal}) as hub:
        command.endpoint = hub.endpoint
        assert expected in command.refusal("fetch")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda hub: setattr(hub, "revision", REVISION[::-1]),
            f"has revision {REVISION[::-1]} instead of {REVISION}",
        ),
        (
            lambda hub: setattr(
                hub,
                "repositories",
                {"someone/large": {"config.json": b"{}", "model.safetensors": WEIGHTS[::-1]}},
            ),
            "has sha256 ",
        ),
    ],
    ids=["another revision", "another content"],
)
def test_hub_that_has_something_else_is_refused_before_weights_are_fetched(
    spoil: Callable[[HubServer], None], expected: str, command: Command
) -> None:
    with HubServer(REPOSITORIES) as hub:
        spoil(hub)
        command.endpoint = hub.endpoint
        assert expected in command.refusal("fetch")
    assert hub.fetched("model.safetensors") == []


def test_no_network_is_one_line(command: Command) -> None:
    message = command.refusal("fetch")
    assert "did not come from http://127.0.0.1:1: " in message
    assert "check the network or HF_ENDPOINT" in message


@pytest.mark.parametrize(
    ("arguments", "variables"), [(("--offline",), {}), ((), {"HF_HUB_OFFLINE": "1"})]
)
def test_offline_takes_what_is_in_the_hubs_cache(
    arguments: tuple[str, ...], variables: dict[str, str], command: Command
) -> None:
    assert command.refusal("fetch", *arguments, **variables).startswith(
        "offline, and the hub's cache has no config.json of someone/large"
    )
    snapshot = command.directory / "hf" / "hub" / "models--someone--large" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for name, data in REPOSITORIES["someone/large"].items():
        (snapshot / name).write_bytes(data)
    command.succeed("fetch", *arguments, **variables)
    verify_manifest(command.production, checksums=True, catalogue=command.catalogue)


def test_disk_that_takes_no_more_is_one_line_and_what_came_is_kept(command: Command) -> None:
    with HubServer(REPOSITORIES) as hub:
        command.endpoint = hub.endpoint
        message = command.refusal("fetch", largest_file_bytes=CHUNK_BYTES)
        assert message == "model.safetensors of someone/large cannot be written: File too large"
        command.succeed("fetch")
    assert hub.fetched("model.safetensors") == [None, f"bytes={CHUNK_BYTES}-"]


# What has come, and what a worker's own classes say about it


def write_liveportrait(folder: Path) -> None:
    """Write a small LivePortrait with random weights."""
    dims = LivePortraitDims.mini()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = Networks.untrained(dims)
    networks.save(folder, dims)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in describe(folder).files}


@pytest.fixture
def small(mini_models: Path, tmp_path: Path) -> tuple[Command, dict[str, dict[str, bytes]]]:
    """Give a catalogue of production in which all models are small, and its repositories."""
    write_liveportrait(tmp_path / "liveportrait")
    repositories = {"someone/liveportrait": content_of(tmp_path / "liveportrait")}
    for name in ("flux", "kokoro", "clip-b", "clip-l"):
        repositories[f"someone/{name}"] = content_of(mini_models / "mini" / name)
    models = {repository.partition("/")[2]: repository for repository in repositories}
    catalogue = write_catalogue(tmp_path / "catalogue.yaml", models, repositories)
    return Command(tmp_path, catalogue), repositories


@pytest.mark.models
@pytest.mark.timeout(900)
def test_fetched_models_are_listed_and_load_in_the_classes_of_a_worker(
    small: tuple[Command, dict[str, dict[str, bytes]]],
) -> None:
    command, repositories = small
    names = [repository.partition("/")[2] for repository in repositories]
    assert command.succeed("list").count("missing") == len(names)
    with HubServer(repositories) as hub:
        command.endpoint = hub.endpoint
        command.succeed("fetch")
    listed = command.succeed("list")
    assert listed.count("present") == len(names)
    lines = listed.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first has the directory in it
    verified = command.succeed("verify")
    assert verified.splitlines() == [f"OK   {name} {REVISION}" for name in names]


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.models
@pytest.mark.timeout(600)
def test_verify_names_everything_that_is_wrong_and_runs_no_code(
    mini_models: Path, tmp_path: Path
) -> None:
    """Three models: one truncated, one with code for weights and a manifest for it, one whole."""
    share = tmp_path / "share"
    write_liveportrait(share / "liveportrait")
    pickled = (share / "liveportrait" / GENERATOR).with_suffix(".pth")
    (share / "liveportrait" / GENERATOR).unlink()
    proof = tmp_path / "it ran"
    pickled.write_bytes(pickle.dumps({"fc.bias": Payload(proof)}, protocol=2))
    repositories = {"someone/liveportrait": content_of(share / "liveportrait")}
    for name in ("clip-l", "clip-b"):
        repositories[f"someone/{name}"] = content_of(mini_models / "mini" / name)
        (share / name).symlink_to(mini_models / "mini" / name)
    models = {"clip-l": "someone/clip-l", "liveportrait": "someone/liveportrait"}
    models["clip-b"] = "someone/clip-b"
    catalogue = write_catalogue(tmp_path / "catalogue.yaml", models, repositories)
    command = Command(tmp_path, catalogue)
    command.succeed("fetch", "--from", str(share))
    weights = command.production / "clip-l" / "open_clip_model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()  # it is a link to the model that other tests use
    weights.write_bytes(whole[:-1])

    done = command.run("verify")
    assert (done.returncode, done.stderr) == (3, "")
    clip_l, liveportrait, clip_b = done.stdout.splitlines()
    truncated = f"{weights} has {len(whole) - 1} bytes instead of {len(whole)}"
    assert clip_l.startswith(f"FAIL model 'clip-l': {truncated}; run `vortex models fetch`")
    assert liveportrait.startswith("FAIL liveportrait: ")
    assert f"{GENERATOR.with_suffix('.pth')} is refused" in liveportrait
    assert clip_b == f"OK   clip-b {REVISION}"
    assert not proof.exists()
    # By checksums alone it is as it was published.
    assert command.run("verify", "--no-load").stdout.splitlines()[1].startswith("OK   liveportrai")
    pickle.loads(pickled.read_bytes())
    assert proof.exists()


def test_verify_says_that_nothing_was_fetched(command: Command) -> None:
    assert command.refusal("verify").startswith(f"there are no models in {command.production}; ")
    (command.production).mkdir(parents=True)
    (command.production / "manifest.json").write_text(json.dumps({"format_version": 1}))
    assert "manifest.json cannot be read: profile: Field required" in command.refusal("verify")
