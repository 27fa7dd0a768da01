"""What an encoder with a small vocabulary has learned to see, and what of a text that leaves open.

CLIP as it is published has read the web, and has no such list. Ours has read captions of drawn
portraits: a word that is in none of them gives its embedding some direction, but no meaning.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from vortex.errors import VortexInitializationError

FILE_NAME = "vocabulary.json"

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Reading:
    """How much of a text an encoder can compare with a picture."""

    unknown: tuple[str, ...]
    """The words that it cannot, in their order; all, if the text has none but neutral ones."""
    share: float
    """The part of the text's meaningful words that it can, 0 to 1."""


@dataclass(frozen=True)
class Vocabulary:
    """The words of an encoder's training, in lower case."""

    shown: Set[str]
    """Words for what can be seen or not, such as "hat"."""
    neutral: Set[str]
    """Words that say nothing of what is seen, such as "the"; they raise no score."""

    @classmethod
    def read(cls, directory: Path) -> Vocabulary | None:
        """Read a model folder's `vocabulary.json`; None without one: every word is known.

        Raises:
            VortexInitializationError: the file does not hold two lists of words.
        """
        path = directory / FILE_NAME
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(frozenset(content["shown"]), frozenset(content["neutral"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VortexInitializationError(
                f"{path}: must hold the lists of words 'shown' and 'neutral': {error!r:.100}"
            ) from error

    def write(self, directory: Path) -> None:
        """Write `vocabulary.json` into a model's folder."""
        content = {"shown": sorted(self.shown), "neutral": sorted(self.neutral)}
        (directory / FILE_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def look_up(self, text: str) -> Reading:
        """Return which words of a text are unknown; punctuation does not count, emoji do."""
        words = [word for word in _WORD.findall(text.casefold()) if not _is_punctuation(word)]
        shown = sum(word in self.shown for word in words)
        unknown = [word for word in words if word not in self.shown | self.neutral]
        if not shown:
            return Reading(tuple(dict.fromkeys(unknown or words)) or (text.strip(),), 0.0)
        return Reading(tuple(dict.fromkeys(unknown)), shown / (shown + len(unknown)))


def _is_punctuation(word: str) -> bool:
    return len(word) == 1 and unicodedata.category(word).startswith("P")
