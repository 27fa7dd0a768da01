from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vortex.errors import VortexInitializationError
from vortex.weights.catalogue import Catalogue
from vortex.weights.manifest import FILE_NAME, verify_manifest, write_manifest

MODELS = tuple(Catalogue.load().profile("mini"))
WEIGHTS = Path("unet") / "weights.safetensors"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Give a profile's directory with small models, and their manifest."""
    directory = tmp_path / "mini"
    for name in MODELS:
        weights = directory / name / WEIGHTS
        weights.parent.mkdir(parents=True)
        weights.write_bytes(name.encode() * 100)
        (directory / name / "config.json").write_text("{}")
    write_manifest(directory, profile="mini")
    return directory


def complaint(directory: Path, *, checksums: bool = False) -> str:
    """Return what the check says, which is one line and names the remedy."""
    with pytest.raises(VortexInitializationError) as caught:
        verify_manifest(directory, checksums=checksums)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith("run `vortex models build` or set models.directory")
    return message


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def test_whole_directory_passes_and_each_model_has_its_revision(models: Path) -> None:
    revisions = verify_manifest(models, checksums=True)
    assert revisions.keys() == set(MODELS)
    assert len(set(revisions.values())) == len(MODELS)


def test_revision_changes_with_the_models_files_alone(models: Path) -> None:
    before = verify_manifest(models)
    change_a_byte(models / "flux" / WEIGHTS)
    write_manifest(models, profile="mini")
    after = verify_manifest(models)
    assert {name for name in MODELS if before[name] != after[name]} == {"flux"}


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 599 bytes instead of 600"),
    ],
    ids=["missing", "truncated"],
)
def test_missing_or_truncated_file_is_named_with_its_model(
    models: Path, spoil: Callable[[Path], None], what: str
) -> None:
    path = models / "kokoro" / WEIGHTS
    spoil(path)
    assert complaint(models).startswith(f"model 'kokoro': {path} {what}; ")


def test_changed_byte_is_found_by_checksums_alone(models: Path) -> None:
    path = models / "clip-l" / WEIGHTS
    change_a_byte(path)
    verify_manifest(models)
    found = complaint(models, checksums=True)
    assert found.startswith(f"model 'clip-l': {path} has a wrong checksum; ")


def test_directory_without_models_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "mini").startswith(f"there are no models in {tmp_path / 'mini'}; ")


def test_model_that_the_manifest_does_not_list_is_named(models: Path) -> None:
    manifest = json.loads((models / FILE_NAME).read_text())
    del manifest["models"]["clip-b"]
    (models / FILE_NAME).write_text(json.dumps(manifest))
    assert complaint(models).startswith(f"{models}/manifest.json does not describe 'clip-b'; ")


def test_manifest_of_another_format_is_refused(models: Path) -> None:
    manifest = json.loads((models / FILE_NAME).read_text())
    (models / FILE_NAME).write_text(json.dumps({**manifest, "format_version": 2}))
    assert "has format_version 2, known is 1" in complaint(models)


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"models": {"fl',
        "[]",
        "{}",
        '{"format_version": 1, "profile": "mini", "seed": 0, "models": {"flux": {}}}',
    ],
)
def test_damaged_manifest_is_named(models: Path, content: str) -> None:
    (models / FILE_NAME).write_text(content)
    assert complaint(models).startswith(f"{models / FILE_NAME} cannot be read: ")


def test_model_folder_that_is_not_listed_is_named(models: Path, tmp_path: Path) -> None:
    built = "{source: a seed, licence: MIT, bytes: 1}"
    catalogue = tmp_path / "catalogue.yaml"
    catalogue.write_text(f"mini: {{flux: {built}}}\nlarger: {{flux: {built}, more: {built}}}")
    verify_manifest(models, catalogue=catalogue)
    (models / "more").mkdir()
    with pytest.raises(VortexInitializationError) as caught:
        verify_manifest(models, catalogue=catalogue)
    expected = f"{models}/manifest.json does not describe 'more'; remove {models}/more, or "
    assert str(caught.value).startswith(expected)


def test_folder_that_no_model_is_called_like_does_no_harm(models: Path) -> None:
    (models / "notes").mkdir()
    (models / "flux" / ".cache").mkdir()
    (models / "flux" / ".cache" / "hidden").touch()
    verify_manifest(models, checksums=True)


def test_file_that_a_loader_could_prefer_is_named(models: Path) -> None:
    path = models / "flux" / "unet" / "better.safetensors"
    path.touch()
    assert complaint(models).startswith(
        f"model 'flux': {path} is not listed in manifest.json; remove it; "
    )


def test_manifest_of_another_profile_is_refused(models: Path) -> None:
    other = models.rename(models.with_name("production"))
    with pytest.raises(VortexInitializationError) as caught:
        verify_manifest(other)
    assert str(caught.value).startswith(f"{other}/manifest.json is of profile mini, not production")
    assert str(caught.value).endswith("; run `vortex models fetch` or set models.directory")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a//b", "a/.b", ""])
def test_manifest_cannot_point_out_of_its_folder(models: Path, path: str) -> None:
    manifest = json.loads((models / FILE_NAME).read_text())
    manifest["models"]["flux"]["files"][path] = {"bytes": 0, "sha256": ""}
    (models / FILE_NAME).write_text(json.dumps(manifest))
    assert "must be a path below the model's folder" in complaint(models)
