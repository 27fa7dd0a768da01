from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from vortex.errors import VortexInitializationError
from vortex.weights.catalogue import Catalogue, HubModel

HUB_MODEL = {
    "repository": "someone/something",
    "revision": "0" * 40,
    "licence": "MIT",
    "gated": False,
    "files": {"weights/a.safetensors": {"bytes": 1, "sha256": "0" * 64}, "config.json": {}},
}
WEIGHTS_BYTES = 10_000_000


def packaged() -> dict[str, HubModel]:
    models = Catalogue.load().profile("production")
    return {name: model for name, model in models.items() if isinstance(model, HubModel)}


def load(path: Path, **changes: Any) -> Catalogue:
    content = {"production": {"flux": {**HUB_MODEL, **changes}}}
    path.write_text(yaml.safe_dump(content))
    return Catalogue.load(path)


def test_production_fetches_all_of_its_models() -> None:
    assert packaged().keys() == Catalogue.load().profile("production").keys()
    assert packaged().keys() == {"flux", "liveportrait", "kokoro", "clip-b", "clip-l"}


def test_all_weights_are_pinned_by_their_own_checksum() -> None:
    """What has no checksum of its own is text that says how weights are used."""
    unknown = {
        path
        for model in packaged().values()
        for path, file in model.files.items()
        if file.sha256 is None
    }
    assert {Path(path).suffix for path in unknown} == {".json"}
    sizes = {
        path: file.bytes
        for model in packaged().values()
        for path, file in model.files.items()
        if (file.bytes or 0) > WEIGHTS_BYTES
    }
    assert {Path(path).suffix for path in sizes} == {".safetensors", ".pth"}


def test_single_file_checkpoint_of_flux_is_not_fetched_beside_its_parts() -> None:
    flux = packaged()["flux"]
    assert all("/" in path for path in flux.files if path != "model_index.json")
    assert 33e9 < flux.bytes < 34e9


def test_catalogue_is_read_without_torch_and_without_the_hubs_library() -> None:
    code = (
        "import sys; from vortex.weights.catalogue import Catalogue; Catalogue.load();"
        "print({'torch', 'huggingface_hub'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"revision": "main"}, "revision: String should match"),
        ({"revision": "0" * 7}, "revision: String should match"),
        ({"repository": "https://hub/a/b"}, "repository: String should match"),
        ({"licence": None}, "licence: "),
        ({"files": {}}, "files: "),
        ({"files": {"../a": {}}}, "must be a path below the model's folder"),
        ({"files": {"/a": {}}}, "must be a path below the model's folder"),
        ({"files": {"a": {"sha256": "0" * 63}}}, "sha256: String should match"),
        ({"files": {"a": {"bytes": -1}}}, "bytes: "),
        ({"branch": "main"}, "branch: Extra inputs are not permitted"),
    ],
)
def test_wrong_entry_is_named_in_one_line(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "catalogue.yaml"
    load(path)
    with pytest.raises(VortexInitializationError) as caught:
        load(path, **changes)
    message = str(caught.value)
    assert message.startswith(f"catalogue {path}: production.flux.")
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a: b: c", "[]", "", "production: 7", "production: {flux: 7}"])
def test_file_that_is_no_catalogue_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(text)
    with pytest.raises(VortexInitializationError) as caught:
        Catalogue.load(path)
    assert str(caught.value).startswith(f"catalogue {path}")
    assert "\n" not in str(caught.value)


def test_catalogue_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VortexInitializationError, match=r"none\.yaml cannot be read: .*catalogue"):
        Catalogue.load(tmp_path / "none.yaml")


def test_unknown_profile_is_named() -> None:
    with pytest.raises(VortexInitializationError, match="no profile 'x'; it has mini, production"):
        Catalogue.load().profile("x")
