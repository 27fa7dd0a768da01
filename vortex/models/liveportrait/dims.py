"""How large each network is, and which faces it knows; read from a file, or as published."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from vortex.errors import VortexInitializationError

FILE_NAME = "config.json"


@dataclass(frozen=True)
class LivePortraitDims:
    """Of all five networks; the defaults are those of the published weights.

    What is the same at every size (21 keypoints, 66 bins of an angle) is in `motion`.

    Attributes:
        image_size: pixels, both sides, of the picture that is read.
        upscale: frames are this many times as large as the picture that is read.
        appearance_channels: of the first convolution of the appearance extractor.
        appearance_blocks_3d: residual blocks on the feature volume.
        volume_channels: of the feature volume.
        volume_depth: of the feature volume; its height and width are a quarter of `image_size`.
        motion_blocks: ConvNeXt blocks in each stage of the motion extractor.
        motion_channels: channels of each of these stages.
        flow_channels: of the outermost level of the hourglass that estimates the flow.
        flow_max_channels: no level of the hourglass is wider.
        flow_levels: of the hourglass; each halves height and width.
        flow_feature_channels: to which the volume is compressed before the flow is estimated.
        warped_channels: of what the warping network gives to the generator.
        generator_channels: of the generator's trunk.
        generator_up_channels: after its first and second doubling of height and width.
        generator_hidden_channels: of each modulation of the generator by the warped features.
        generator_blocks: of the generator's trunk.
        stitching_hidden: widths between input and output of the stitching network.
        face_scale: how large a face should be in the picture that is read, as the motion extractor
            measures it.
        face_y: how far below the middle it should be, 1 being half of the picture.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    image_size: int = 256
    upscale: int = 2
    appearance_channels: int = 64
    appearance_blocks_3d: int = 6
    volume_channels: int = 32
    volume_depth: int = 16
    motion_blocks: tuple[int, ...] = (3, 3, 9, 3)
    motion_channels: tuple[int, ...] = (96, 192, 384, 768)
    flow_channels: int = 32
    flow_max_channels: int = 1024
    flow_levels: int = 5
    flow_feature_channels: int = 4
    warped_channels: int = 256
    generator_channels: int = 512
    generator_up_channels: tuple[int, ...] = (256, 64)
    generator_hidden_channels: int = 128
    generator_blocks: int = 6
    stitching_hidden: tuple[int, ...] = (128, 128, 64)
    # The middle of what the published code's recorded faces have: 1.1 to 1.7, and 0.03 to 0.23.
    face_scale: float = 1.4
    face_y: float = 0.1

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if min(value if isinstance(value, tuple) else (value,), default=0) <= 0:
                raise ValueError(f"{name} is {value}, but must be positive")
        unit = 4 << self.flow_levels  # the volume's quarter, halved at every level
        if self.image_size % unit:
            raise ValueError(f"image_size is {self.image_size}, but must be a multiple of {unit}")
        if len(self.motion_blocks) != len(self.motion_channels):
            raise ValueError("motion_blocks and motion_channels differ in length")
        if len(self.generator_up_channels) != 2:
            raise ValueError("generator_up_channels needs two numbers")

    @classmethod
    def full(cls) -> LivePortraitDims:
        """Return the dimensions of the published weights."""
        return cls()

    @classmethod
    def mini(cls) -> LivePortraitDims:
        """Return dimensions at which a CPU renders many frames of 128x128 a second."""
        return cls(
            image_size=128,
            upscale=1,
            appearance_channels=12,
            appearance_blocks_3d=2,
            volume_channels=16,
            # One plane in front, one behind, and the middle one, which holds the keypoints.
            volume_depth=3,
            motion_blocks=(1, 1, 2, 1),
            motion_channels=(24, 48, 96, 128),
            flow_channels=8,
            flow_max_channels=64,
            flow_levels=4,
            flow_feature_channels=1,
            warped_channels=32,
            generator_channels=48,
            generator_up_channels=(32, 16),
            generator_hidden_channels=12,
            generator_blocks=2,
            stitching_hidden=(64, 64, 32),
            # As `training/puppet.py` has every face.
            face_scale=1.17,
            face_y=0.28,
        )

    @property
    def output_size(self) -> int:
        """Pixels, both sides, of a rendered frame."""
        return self.upscale * self.image_size

    @classmethod
    def read(cls, directory: Path) -> LivePortraitDims:
        """Read a directory's `config.json`; without one, it holds the published size.

        Raises:
            VortexInitializationError: the file is not readable or names impossible dimensions.
        """
        path = directory / FILE_NAME
        if not path.exists():
            return cls.full()
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            entry = ".".join(str(part) for part in first["loc"]) or "content"
            raise VortexInitializationError(
                f"liveportrait: {path}: {entry}: {first['msg']}"
            ) from error

    def write(self, directory: Path) -> None:
        """Write these dimensions as the directory's `config.json`."""
        content = TypeAdapter(type(self)).dump_json(self, indent=2)
        (directory / FILE_NAME).write_bytes(content + b"\n")
