"""LivePortrait's networks against the figures of the published implementation, and its loader.

The golden figures were made with weights that a recipe fills in from each parameter's name, so the
same recipe here, on networks of our own, must give the same outputs.
"""

from __future__ import annotations

import copy
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from consumer.config import WorkerConfig
from vortex.errors import VortexInitializationError
from vortex.models.liveportrait import LivePortrait, LivePortraitDims, Motion
from vortex.models.liveportrait.appearance import AppearanceExtractor
from vortex.models.liveportrait.blocks import Conv3d, UpscalingConv2d, channels_last, fold
from vortex.models.liveportrait.checkpoints import Networks, build_strictly
from vortex.models.liveportrait.generator import Generator
from vortex.models.liveportrait.motion import degrees_from_bins, rotation_matrix, stitched
from vortex.models.liveportrait.motion_extractor import MotionExtractor
from vortex.models.liveportrait.stitching import stitching_network
from vortex.models.liveportrait.warping import Warping
from vortex.models.loading import load_liveportrait
from vortex.utils.cancellation import CancellationToken, StageCancelled

DATA = Path(__file__).parents[4] / "data" / "liveportrait"
MANIFEST = json.loads((DATA / "manifest.json").read_text())
GOLDEN = dict(np.load(DATA / "golden.npz"))
TOLERANCE = 1e-4
CPU = torch.device("cpu")
MINI = LivePortraitDims.mini()

# The manifest's name of each network, and our own.
BUILDERS: dict[str, tuple[str, Callable[[LivePortraitDims], nn.Module]]] = {
    "appearance_feature_extractor": ("appearance", AppearanceExtractor),
    "motion_extractor": ("motion", MotionExtractor),
    "warping_module": ("warping", Warping),
    "spade_generator": ("generator", Generator),
    "stitching": ("stitching", stitching_network),
}
# Networks of the published file that are not used, so not loaded either, each with its figure: lips
# and eyes are moved by phonemes and blinks, and no video drives them.
NOT_USED = {"lip": "lip/delta", "eye": "eye/delta"}
# A large one is kept as a sample, in arrays of its own.
FIGURES = {key.removesuffix("/shape") for key in GOLDEN} - {
    key for key in GOLDEN if key.endswith(("/shape", "/index", "/value", "/mean_std"))
}
GENERATOR_FILE = "base_models/spade_generator"
STITCHING_FILE = "retargeting_models/stitching_retargeting_module"
STITCHING_TABLE = "retarget_shoulder"


def generator(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    return generator(key).standard_normal(shape, np.float32)


def recipe(module: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Fill a state dict by the rule that the golden figures were made with."""
    state: dict[str, torch.Tensor] = {}
    # A weight_v is made from the two other tensors of its layer.
    for name, shape in sorted(shapes.items(), key=lambda item: item[0].endswith("weight_v")):
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            state[name] = torch.tensor(0)
            continue
        if kind == "weight_v":
            product = state[f"{layer}.weight_orig"].flatten(1).T @ state[f"{layer}.weight_u"]
            state[name] = product / product.norm()
            continue
        n = torch.from_numpy(np.asarray(normal(f"{module}/{name}", shape), np.float32))
        if kind in ("running_mean", "gamma", "beta"):
            n = 0.1 * n
        elif kind == "running_var":
            n = 1 + 0.1 * n.abs()
        elif kind == "bias":
            n = 0.02 * n
        elif kind == "weight_u":
            n = n / n.norm()
        elif len(shape) > 1:
            n = n / np.sqrt(np.prod(shape[1:]))
        else:
            n = 1 + 0.1 * n
        state[name] = n
    return state


def shapes_of(build: Callable[[LivePortraitDims], nn.Module], dims: LivePortraitDims) -> dict:
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build(dims).state_dict().items()}


def recipe_networks(dims: LivePortraitDims) -> Networks:
    return Networks(
        **{
            ours: build_strictly(build, dims, recipe(module, shapes_of(build, dims)), module)
            for module, (ours, build) in BUILDERS.items()
        }
    )


class Inputs(NamedTuple):
    image: torch.Tensor
    source: torch.Tensor
    driving: torch.Tensor


def golden_inputs() -> Inputs:
    image = generator("input/image").random((1, 3, 256, 256), np.float32)
    source = np.float32(0.2) * normal("input/kp_source", (1, 21, 3))
    driving = source + np.float32(0.05) * normal("input/kp_driving", (1, 21, 3))
    return Inputs(*map(torch.from_numpy, (image, source, driving)))


def outputs_of(
    name: str, networks: Networks, inputs: Inputs, known: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Compute the golden figures of one network; `known` holds those of the ones before."""
    keypoints = inputs.source.flatten(1)
    match name:
        case "appearance":
            return {"feature_3d": networks.appearance(inputs.image)}
        case "motion":
            heads = networks.motion.detector(inputs.image)
            motion = networks.motion(inputs.image)
            return {f"motion/{head}": numbers for head, numbers in heads.items()} | {
                "pose/degrees": motion.angles,
                "pose/rotation": rotation_matrix(motion.angles),
                "keypoints/transformed": motion.placed(),
            }
        case "warping":
            prepared = networks.warping.prepare(known["feature_3d"], inputs.source)
            warped = networks.warping(prepared, inputs.driving)
            return {
                "warp/out": warped.features,
                "warp/deformation": warped.deformation,
                "warp/occlusion_map": warped.occlusion,
            }
        case "generator":
            return {"image": networks.generator(known["warp/out"])}
        case _:
            pair = torch.cat([keypoints, inputs.driving.flatten(1)], 1)
            return {"stitching/delta": networks.stitching(pair)}


def differs(key: str, output: torch.Tensor) -> bool:
    """Compare with the golden figures; large ones are kept as a sample of their elements."""
    numbers = output.detach().numpy()
    if key in GOLDEN:
        assert numbers.shape == GOLDEN[key].shape
        return not np.allclose(numbers, GOLDEN[key], rtol=TOLERANCE, atol=TOLERANCE)
    assert numbers.shape == tuple(GOLDEN[f"{key}/shape"])
    sample = numbers.ravel()[GOLDEN[f"{key}/index"]]
    moments = (numbers.mean(dtype=np.float64), numbers.std(dtype=np.float64))
    return not (
        np.allclose(sample, GOLDEN[f"{key}/value"], rtol=TOLERANCE, atol=TOLERANCE)
        and np.allclose(moments, GOLDEN[f"{key}/mean_std"], rtol=TOLERANCE, atol=TOLERANCE)
    )


@pytest.fixture(scope="module", autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def full() -> tuple[Networks, dict[str, torch.Tensor]]:
    """All networks at the published size, folded as for production, and what they compute."""
    dims = LivePortraitDims.full()
    networks = Networks(
        **{
            ours: build_strictly(
                build,
                dims,
                recipe(module, {name: tuple(p["shape"]) for name, p in MANIFEST[module].items()}),
                module,
            )
            for module, (ours, build) in BUILDERS.items()
        }
    )
    LivePortrait(networks, dims, device=CPU, dtype=torch.float32)
    outputs: dict[str, torch.Tensor] = {}
    for ours, _ in BUILDERS.values():
        outputs |= outputs_of(ours, networks, golden_inputs(), outputs)
    return networks, outputs


@pytest.mark.parametrize("module", BUILDERS)
def test_parameters_have_the_names_shapes_and_types_of_the_published_checkpoints(
    module: str,
) -> None:
    with torch.device("meta"):
        state = BUILDERS[module][1](LivePortraitDims.full()).state_dict()
    assert {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in state.items()
    } == MANIFEST[module]


def test_golden_figures_of_all_networks_that_are_used_are_compared(
    full: tuple[Networks, dict[str, torch.Tensor]],
) -> None:
    assert full[1].keys() == FIGURES - set(NOT_USED.values())
    assert NOT_USED.keys() == MANIFEST.keys() - BUILDERS.keys()


@pytest.mark.parametrize("key", sorted(FIGURES - set(NOT_USED.values())))
def test_folded_networks_reproduce_the_golden_figures(
    key: str, full: tuple[Networks, dict[str, torch.Tensor]]
) -> None:
    assert not differs(key, full[1][key])


@pytest.mark.parametrize(
    ("network", "weight", "figure"),
    [
        ("appearance", "resblocks_3d.3dr3.conv2.weight", "feature_3d"),
        ("motion", "detector.stages.2.4.grn.gamma", "motion/exp"),
        ("warping", "third.conv.weight", "warp/out"),
        ("generator", "G_middle_3.conv_0.weight", "image"),
        ("stitching", "mlp.6.bias", "stitching/delta"),
    ],
)
@pytest.mark.slow
def test_one_wrong_weight_is_seen(
    network: str, weight: str, figure: str, full: tuple[Networks, dict[str, torch.Tensor]]
) -> None:
    networks, outputs = full
    tensor = getattr(networks, network).state_dict()[weight].view(-1)
    right = tensor[0].item()
    tensor[0] += 1
    try:
        wrong = outputs_of(network, networks, golden_inputs(), outputs)
    finally:
        tensor[0] = right
    assert differs(figure, wrong[figure])


# ---- motion


def face(**changes: torch.Tensor) -> Motion:
    parts = {
        "keypoints": torch.from_numpy(normal("keypoints", (1, 21, 3))),
        "expression": torch.from_numpy(normal("expression", (1, 21, 3))),
        "scale": torch.tensor([[1.4]]),
        "translation": torch.tensor([[0.1, -0.2, 5.0]]),
        "angles": torch.tensor([[5.0, -10.0, 3.0]]),
    }
    return Motion(**(parts | changes))


@pytest.mark.parametrize("degrees", [-97.5, 0.0, 1.5, 97.5])
def test_certain_bin_decodes_to_its_angle(degrees: float) -> None:
    bins = (degrees + 97.5) / 3
    scores = torch.full((1, 66), -1e4)
    scores[0, int(bins)] = scores[0, int(np.ceil(bins))] = 0.0  # evenly between two, if it is
    assert degrees_from_bins(scores).item() == pytest.approx(degrees, abs=1e-4)


@pytest.mark.parametrize(
    ("angles", "turned"),
    [
        ((90.0, 0.0, 0.0), (1.0, -3.0, 2.0)),
        ((0.0, 90.0, 0.0), (3.0, 2.0, -1.0)),
        ((0.0, 0.0, 90.0), (-2.0, 1.0, 3.0)),
        ((0.0, 90.0, 90.0), (-2.0, 3.0, -1.0)),  # yaw first, then roll
    ],
)
def test_angles_turn_a_point(angles: tuple[float, ...], turned: tuple[float, ...]) -> None:
    rotation = rotation_matrix(torch.tensor([angles]))[0]
    torch.testing.assert_close(torch.tensor([1.0, 2.0, 3.0]) @ rotation, torch.tensor(turned))


def test_depth_of_the_translation_is_not_used() -> None:
    near, far = face(), face(translation=torch.tensor([[0.1, -0.2, -3.0]]))
    assert torch.equal(near.placed(), far.placed())


def test_one_face_is_driven_through_many_frames() -> None:
    source = face()
    expression = torch.zeros(3, 21, 3)
    expression[1, 19, 1] = 0.02
    angles = torch.zeros(3, 3)
    angles[2, 1] = 4.0
    still, talking, turning = source.driven(expression=expression, angles=angles).placed()
    assert torch.equal(still, source.placed()[0])
    moved = talking - still
    assert moved[19, 1].item() == pytest.approx(1.4 * 0.02, rel=1e-3)
    assert moved.count_nonzero() == 1
    torch.testing.assert_close(
        turning, face(angles=torch.tensor([[5.0, -6.0, 3.0]])).placed()[0], rtol=0, atol=1e-6
    )


def test_stitching_adds_to_each_keypoint_and_shifts_all_within_the_picture() -> None:
    source, driving = face().placed(), torch.zeros(2, 21, 3)
    seen = []

    def network(pairs: torch.Tensor) -> torch.Tensor:
        seen.append(pairs)
        return torch.cat([torch.arange(1.0, 64.0), torch.tensor([100.0, 200.0])]).expand(2, -1)

    corrected = stitched(network, source, driving)
    assert torch.equal(seen[0], torch.cat([source.flatten(1).expand(2, -1), torch.zeros(2, 63)], 1))
    expected = torch.arange(1.0, 64.0).view(21, 3) + torch.tensor([100.0, 200.0, 0.0])
    assert torch.equal(corrected, expected.expand(2, -1, -1))


# ---- shallow volumes and small frames


@pytest.mark.parametrize(
    ("kernel_size", "depth"), [(7, 3), (7, 4), (7, 7), (7, 8), (3, 1), (3, 3), (3, 4), (1, 1)]
)
@torch.enable_grad()
def test_convolution_of_a_volume_is_the_same_however_it_is_computed(
    kernel_size: int, depth: int
) -> None:
    ours = Conv3d(5, 3, kernel_size)
    reference = nn.Conv3d(5, 3, kernel_size, padding=kernel_size // 2)
    reference.load_state_dict(ours.state_dict())
    volume = torch.randn(2, 5, depth, 8, 6, requires_grad=True)
    outputs = [ours(volume), reference(volume)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    weight = torch.randn_like(outputs[0])
    gradients = [
        torch.autograd.grad(output, [volume, *module.parameters()], weight)
        for output, module in zip(outputs, (ours, reference), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("upscale", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolution_of_what_is_upscaled_is_the_same_before_it_is(
    upscale: int, layout: torch.memory_format
) -> None:
    convolution = UpscalingConv2d(5, 3, upscale)
    features = torch.randn(2, 5, 4, 6)
    as_written = nn.functional.conv2d(
        nn.functional.interpolate(features, scale_factor=float(upscale)),
        convolution.weight,
        convolution.bias,
        padding=1,
    )
    torch.testing.assert_close(convolution(features), as_written)
    fold(convolution)
    if layout == torch.channels_last:
        channels_last(convolution)
    folded = convolution(features.contiguous(memory_format=layout))
    torch.testing.assert_close(folded, as_written, rtol=1e-4, atol=1e-5)
    assert folded.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("upscale", [1, 2])
def test_frames_are_as_many_times_as_large_as_the_dimensions_say(upscale: int) -> None:
    dims = replace(MINI, upscale=upscale)
    warped = torch.randn(1, dims.warped_channels, 8, 8)
    assert Generator(dims)(warped).shape[-2:] == (32 * upscale, 32 * upscale)


def test_channels_of_zeros_change_nothing(mini: Networks) -> None:
    plain = copy.deepcopy(mini.warping)
    fold(plain)
    filled = copy.deepcopy(plain)
    for _ in range(2):
        filled.fill_channels()
    volume = torch.randn(1, MINI.volume_channels, MINI.volume_depth, 32, 32)
    driving = torch.randn(2, 21, 3) / 4
    warped = [each(each.prepare(volume, driving[:1]), driving) for each in (plain, filled)]
    for name in ("features", "deformation", "occlusion"):
        torch.testing.assert_close(*[getattr(each, name) for each in warped])


def test_published_warping_has_whole_channels_once_they_are_filled() -> None:
    with torch.device("meta"):
        warping = Warping(LivePortraitDims.full()).eval()
        fold(warping)
        warping.fill_channels()
    convolutions = [each for each in warping.modules() if isinstance(each, nn.Conv3d)]
    seen = {each.in_channels for each in convolutions if each.kernel_size != (1, 1, 1)}
    assert {channels % 8 for channels in seen} == {0}
    made = {each.out_channels for each in convolutions if each.kernel_size != (1, 1, 1)}
    assert {channels % 8 for channels in made} == {0}


# ---- loading


@pytest.fixture(scope="module")
def mini() -> Networks:
    return recipe_networks(MINI)


@pytest.fixture
def published(mini: Networks, tmp_path: Path) -> Path:
    """A directory as the published repository has it, but small."""
    for module, (ours, _) in list(BUILDERS.items())[:4]:
        write_pth(tmp_path, f"base_models/{module}", getattr(mini, ours).state_dict())
    stitching = {f"module.{name}": t for name, t in mini.stitching.state_dict().items()}
    lips = {"module.mlp.0.weight": torch.zeros(128, 65)}  # of a network that is not read
    write_pth(tmp_path, STITCHING_FILE, {STITCHING_TABLE: stitching, "retarget_mouth": lips})
    MINI.write(tmp_path / "liveportrait")
    return tmp_path


def write_pth(directory: Path, name: str, content: object) -> Path:
    path = directory / "liveportrait" / f"{name}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def read_pth(directory: Path, name: str) -> tuple[Path, Any]:
    path = directory / "liveportrait" / f"{name}.pth"
    return path, torch.load(path, weights_only=True)


def load(directory: Path) -> LivePortrait:
    return LivePortrait.load(directory, device=CPU, dtype=torch.float32)


def refusal(directory: Path) -> str:
    with pytest.raises(VortexInitializationError) as caught:
        load(directory)
    message = str(caught.value)
    assert message.startswith("liveportrait: ")
    assert "\n" not in message
    return message


def test_published_and_own_layout_give_the_same_frames(
    mini: Networks, published: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    mini.save(own, MINI)
    frames = []
    for directory in (published, own):
        portrait = load(directory)
        source = portrait.prepare(picture())
        frames.append(rendered(portrait, source, moving(source.keypoints, 2)))
    assert torch.equal(*frames)


def test_without_dimensions_a_directory_holds_the_published_size(tmp_path: Path) -> None:
    assert LivePortraitDims.read(tmp_path) == LivePortraitDims.full()


def test_dimensions_are_read_as_written(tmp_path: Path) -> None:
    MINI.write(tmp_path)
    assert LivePortraitDims.read(tmp_path) == MINI


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"image_sise": 64}', "image_sise"),
        ('{"volume_depth": "2"}', "volume_depth"),
        ('{"volume_depth": 0}', "volume_depth is 0"),
        ('{"image_size": 100}', "image_size is 100"),
        ('{"motion_blocks": [1]}', "motion_blocks"),
        ('{"generator_up_channels": [8]}', "generator_up_channels"),
        ("[", "config.json"),
    ],
)
def test_wrong_dimensions_are_refused(content: str, complaint: str, published: Path) -> None:
    (published / "liveportrait" / "config.json").write_text(content)
    message = refusal(published)
    assert "config.json" in message
    assert complaint in message


def test_missing_file_is_named(published: Path) -> None:
    (published / "liveportrait" / "base_models" / "warping_module.pth").unlink()
    assert "base_models/warping_module.pth is missing" in refusal(published)


def _without_one(state: dict[str, Any]) -> None:
    del state["up_0.conv_s.weight_v"]


def _with_one_more(state: dict[str, Any]) -> None:
    state["up_2.conv_0.bias"] = torch.zeros(1)


def _of_other_shape(state: dict[str, Any]) -> None:
    state["fc.bias"] = torch.zeros(7)


def _of_other_type(state: dict[str, Any]) -> None:
    state["fc.bias"] = torch.zeros(MINI.generator_channels, dtype=torch.int64)


def _with_a_string(state: dict[str, Any]) -> None:
    state["fc.bias"] = "seven"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_without_one, "tensor 'up_0.conv_s.weight_v' is missing"),
        (_with_one_more, "tensor 'up_2.conv_0.bias' is not known"),
        (_of_other_shape, "tensor 'fc.bias' is [7] instead of [48]"),
        (_of_other_type, "tensor 'fc.bias' is torch.int64 instead of torch.float32"),
        (_with_a_string, "'fc.bias' is not a tensor but str"),
    ],
)
def test_wrong_tensor_is_named_with_its_file(
    change: Callable[[dict[str, Any]], None], complaint: str, published: Path
) -> None:
    path, state = read_pth(published, GENERATOR_FILE)
    change(state)
    torch.save(state, path)
    assert refusal(published) == f"liveportrait: {path}: {complaint}"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("module.mlp.8.bias", "(retarget_shoulder): tensor 'mlp.8.bias'"),
        ("module.mlp.0.beam", "(retarget_shoulder): tensor 'mlp.0.beam'"),
    ],
)
def test_superfluous_tensor_of_the_stitching_is_named(
    name: str, complaint: str, published: Path
) -> None:
    path, tables = read_pth(published, STITCHING_FILE)
    tables[STITCHING_TABLE][name] = torch.zeros(1)
    torch.save(tables, path)
    message = refusal(published)
    assert str(path) in message
    assert complaint in message


def test_what_else_is_in_the_file_of_the_stitching_is_ignored(
    published: Path, mini_config: WorkerConfig
) -> None:
    before = load(published).parts
    path, tables = read_pth(published, STITCHING_FILE)
    network = stitching_network(MINI).requires_grad_()
    optimizer = torch.optim.Adam(network.parameters())
    with torch.enable_grad():
        torch.stack([each.sum() for each in network.parameters()]).sum().backward()
    optimizer.step()
    tables |= {"optimizer_stitching": optimizer.state_dict(), "epoch": 7, "losses": [0.5, 0.25]}
    torch.save(tables, path)
    # With what `vortex models verify` loads it with.
    after = load_liveportrait(published, mini_config, CPU).parts
    assert after.keys() == {"appearance", "motion", "warping", "generator", "stitching"}
    pairs = zip(before["stitching"].parameters(), after["stitching"].parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_missing_stitching_network_is_named(published: Path) -> None:
    path, tables = read_pth(published, STITCHING_FILE)
    del tables[STITCHING_TABLE]
    torch.save(tables, path)
    assert "(retarget_shoulder): tensor 'mlp.0.bias' is missing" in refusal(published)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_checkpoint_is_refused(kept: float, published: Path) -> None:
    path, _ = read_pth(published, GENERATOR_FILE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert f"{path} is " in refusal(published)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_safetensors_are_refused(kept: float, mini: Networks, tmp_path: Path) -> None:
    mini.save(tmp_path, MINI)
    path = tmp_path / f"{GENERATOR_FILE}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert f"{path} is damaged" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint",
        b"\x80\x02h\x05.",  # asks for what was never memorised
        b"\x80\x02e.",  # appends to nothing
        b"\x80\x02J\x01",  # ends within a number
        pickle.dumps([1.5], protocol=2),
    ],
)
def test_damaged_pickle_is_refused(content: bytes, published: Path) -> None:
    path = published / "liveportrait" / f"{GENERATOR_FILE}.pth"
    path.write_bytes(content)
    assert f"{path} is " in refusal(published)


def test_checkpoint_that_is_no_table_is_refused(published: Path) -> None:
    path = write_pth(published, GENERATOR_FILE, [torch.zeros(1)])
    assert f"{path} holds no table of tensors" in refusal(published)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("plain", [False, True], ids=["inside an archive", "bare"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    plain: bool, published: Path, tmp_path: Path
) -> None:
    proof = tmp_path / "it ran"
    path, state = read_pth(published, GENERATOR_FILE)
    state["fc.bias"] = Payload(proof)
    if plain:
        path.write_bytes(pickle.dumps({"fc.bias": Payload(proof)}, protocol=2))
    else:
        torch.save(state, path)
    assert f"{path} is refused" in refusal(published)
    assert not proof.exists()
    # The payload is live: only the refusal held it back.
    pickle.loads(path.read_bytes()) if plain else torch.load(path, weights_only=False)
    assert proof.exists()


# ---- rendering


def picture(size: int = 128) -> torch.Tensor:
    return torch.from_numpy(generator("picture").random((1, 3, size, size), np.float32))


def moving(keypoints: torch.Tensor, frames: int) -> torch.Tensor:
    return keypoints + 0.1 * torch.from_numpy(normal("moving", (frames, 21, 3)))


def rendered(
    portrait: LivePortrait, source: Any, driving: torch.Tensor, batch_frames: int = 4
) -> torch.Tensor:
    return portrait.render(source, driving, batch_frames=batch_frames, token=CancellationToken())


@pytest.fixture
def portrait(mini: Networks) -> LivePortrait:
    return LivePortrait(copy.deepcopy(mini), MINI, device=CPU, dtype=torch.float32)


def test_folding_and_memory_layout_keep_the_outputs(mini: Networks) -> None:
    prepared = copy.deepcopy(mini)
    for network in prepared:
        fold(network)
        channels_last(network)
    assert not [name for name in prepared.generator.state_dict() if "weight_orig" in name]
    assert not [name for name in prepared.warping.third.state_dict() if "norm" in name]
    drawn = []
    for networks in (mini, prepared):
        volume = networks.appearance(picture(64))
        source = torch.from_numpy(normal("source", (1, 21, 3))) * 0.2
        warped = networks.warping(networks.warping.prepare(volume, source), moving(source, 3))
        drawn.append(networks.generator(warped.features))
    torch.testing.assert_close(*drawn, rtol=TOLERANCE, atol=TOLERANCE)


def test_folding_twice_changes_nothing(portrait: LivePortrait, mini: Networks) -> None:
    networks = copy.deepcopy(mini)
    for network in networks:
        fold(network)
    again = LivePortrait(networks, MINI, device=CPU, dtype=torch.float32)
    source = portrait.prepare(picture())
    driving = moving(source.keypoints, 2)
    assert torch.equal(rendered(again, source, driving), rendered(portrait, source, driving))


def test_frames_are_rendered_alike_in_any_batches(portrait: LivePortrait) -> None:
    source = portrait.prepare(picture())
    driving = moving(source.keypoints, 5)
    whole = rendered(portrait, source, driving, batch_frames=5)
    assert whole.shape == (5, 3, 128, 128)
    assert whole.dtype == torch.uint8
    for batch_frames in (1, 2):
        parts = rendered(portrait, source, driving, batch_frames=batch_frames)
        assert (parts.int() - whole.int()).abs().max() <= 1  # a rounding of the last bit


def test_no_number_is_so_small_that_convolutions_become_slow(mini: Networks) -> None:
    seen: list[torch.Tensor] = []
    hourglass = mini.warping.dense_motion_network.hourglass
    hook = hourglass.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    source = torch.from_numpy(normal("source", (1, 21, 3))) * 0.4
    with hook:
        mini.warping(mini.warping.prepare(mini.appearance(picture(64)), source), moving(source, 3))
    (inputs,) = seen
    sizes = inputs.abs()[inputs != 0]
    assert sizes.min() >= torch.finfo(torch.float32).tiny


def test_every_frame_shows_its_own_keypoints(portrait: LivePortrait) -> None:
    source = portrait.prepare(picture())
    driving = moving(source.keypoints, 3)
    frames = rendered(portrait, source, driving)
    swapped = rendered(portrait, source, driving[[2, 0, 1]])
    assert (frames[[2, 0, 1]].int() - swapped.int()).abs().max() <= 1
    assert (frames[0].int() - frames[1].int()).abs().max() > 8


def test_same_picture_and_keypoints_give_the_same_frames(portrait: LivePortrait) -> None:
    first, second = portrait.prepare(picture()), portrait.prepare(picture())
    driving = moving(first.keypoints, 3)
    assert torch.equal(rendered(portrait, first, driving), rendered(portrait, second, driving))


def test_picture_is_read_once_whatever_the_number_of_frames(mini: Networks) -> None:
    networks = copy.deepcopy(mini)
    portrait = LivePortrait(networks, MINI, device=CPU, dtype=torch.float32)
    calls: list[str] = []
    for part in (networks.appearance, networks.motion, networks.warping.dense_motion_network.norm):
        part.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    source = portrait.prepare(picture())
    rendered(portrait, source, moving(source.keypoints, 4), batch_frames=1)
    assert sorted(calls) == ["AppearanceExtractor", "BatchNorm3d", "MotionExtractor"]


def test_cancelling_stops_between_two_batches(portrait: LivePortrait) -> None:
    source = portrait.prepare(picture())
    token = CancellationToken()
    batches = portrait.render_batches(
        source, moving(source.keypoints, 6), batch_frames=2, token=token
    )
    assert next(batches).shape[0] == 2
    token.cancel()
    with pytest.raises(StageCancelled):
        next(batches)


def test_batches_own_their_memory(portrait: LivePortrait) -> None:
    source = portrait.prepare(picture())
    driving = source.keypoints.expand(4, -1, -1)
    first, second = portrait.render_batches(
        source, driving, batch_frames=2, token=CancellationToken()
    )
    before = second.clone()
    first.zero_()
    assert torch.equal(second, before)


def test_driving_passes_expression_and_head_through_the_stitching(
    portrait: LivePortrait, mini: Networks
) -> None:
    source = portrait.prepare(picture())
    expression, angles = 0.1 * torch.ones(2, 21, 3), torch.tensor([[0.0] * 3, [3.0] * 3])
    placed = source.motion.driven(expression=expression, angles=angles).placed()
    driving = portrait.drive(source, expression=expression, angles=angles)
    torch.testing.assert_close(driving, stitched(mini.stitching, source.keypoints, placed))


def test_picture_of_any_size_is_brought_to_the_networks(portrait: LivePortrait) -> None:
    gradient = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    large = nn.functional.interpolate(gradient, (256, 256), mode="bilinear")
    small, reduced = portrait.prepare(gradient), portrait.prepare(large)
    cut = portrait.prepare(large[..., 96:160, 96:160])
    error = torch.dist(reduced.keypoints, small.keypoints)
    assert error < 0.3 * torch.dist(cut.keypoints, small.keypoints)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 64, 64), (1, 3, 64, 32), (1, 4, 64, 64)])
def test_what_is_not_one_square_picture_is_refused(
    shape: tuple[int, ...], portrait: LivePortrait
) -> None:
    with pytest.raises(ValueError, match="portrait is"):
        portrait.prepare(torch.zeros(shape))


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        # Not a precision to use; but the way into and out of another one is the same.
        ("cpu", torch.float64),
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.float16, marks=NEEDS_GPU),
        pytest.param("cuda", torch.bfloat16, marks=NEEDS_GPU),
    ],
)
def test_another_precision_draws_nearly_the_same_frames(
    device: str, dtype: torch.dtype, portrait: LivePortrait, mini: Networks
) -> None:
    other = LivePortrait(copy.deepcopy(mini), MINI, device=torch.device(device), dtype=dtype)
    source, other_source = portrait.prepare(picture()), other.prepare(picture())
    driving = moving(source.keypoints, 5)
    exact = rendered(portrait, source, driving, batch_frames=2)
    nearly = rendered(other, other_source, driving, batch_frames=2)
    error = (exact.int() - nearly.int()).abs().float()
    assert error.mean() < 2  # of 255
