"""What can go wrong on the way to a stored video."""


class ArtifactError(Exception):
    """The video cannot be encoded."""


class ArtifactStoreError(ArtifactError):
    """The video cannot be stored; the message names the place and the reason."""
