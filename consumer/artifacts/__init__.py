"""The finished video: encoded while frames are made, stored whole or not at all."""

from consumer.artifacts.encoder import EncodedMedia, SlotEncoder
from consumer.artifacts.errors import ArtifactError, ArtifactStoreError
from consumer.artifacts.store import ArtifactStore, StoredArtifact

__all__ = [
    "ArtifactError",
    "ArtifactStore",
    "ArtifactStoreError",
    "EncodedMedia",
    "SlotEncoder",
    "StoredArtifact",
]
