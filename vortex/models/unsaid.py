"""What a prompt leaves open, said for an image model that has learnt from whole descriptions.

A large model settles by the seed what it is not told. A small one mixes all that might be: hair of
two colours at once, or a moustache that is blue.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from vortex.errors import VortexInitializationError

FILE_NAME = "unsaid.json"


@dataclass(frozen=True)
class Detail:
    """Something that each picture shows, whether or not a prompt speaks of it."""

    said: str
    """Regular expression that finds where a text speaks of it."""
    phrase: str
    """What to say of it, with `{}` for one of the choices."""
    choices: tuple[str, ...] = ()
    when: str = ""
    """Regular expression of the texts that it belongs to; without one, to all."""

    def __post_init__(self) -> None:
        for pattern in (self.said, self.when):
            re.compile(pattern)

    def is_missing(self, text: str) -> bool:
        """Whether a text, in lower case, should speak of it and does not."""
        return re.search(self.when, text) is not None and re.search(self.said, text) is None

    def spoken(self, text: str, seed: int) -> str:
        """Return the phrase, with a choice of the seed's that the text does not have yet."""
        words = set(re.findall(r"\w+", text))
        free = [each for each in self.choices if words.isdisjoint(each.split())] or self.choices
        if not free:
            return self.phrase
        chance = hashlib.sha256(f"{seed} {self.phrase}".encode()).digest()
        return self.phrase.format(free[int.from_bytes(chance[:8]) % len(free)])


@dataclass(frozen=True)
class Unsaid:
    """All details, in the order in which they are said."""

    details: tuple[Detail, ...]

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Read a model folder's `unsaid.json`; None without one: prompts stay as they are.

        Raises:
            VortexInitializationError: the file does not hold a list of details.
        """
        path = directory / FILE_NAME
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            details = (Detail(**{**each, "choices": tuple(each["choices"])}) for each in content)
            return cls(tuple(details))
        except (OSError, ValueError, KeyError, TypeError, re.error) as error:
            raise VortexInitializationError(
                f"{path}: must hold a list of details, each with said, phrase and choices:"
                f" {error!r:.100}"
            ) from error

    def write(self, directory: Path) -> None:
        """Write `unsaid.json` into a model's folder."""
        content = [asdict(detail) for detail in self.details]
        (directory / FILE_NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def completed(self, prompt: str, seed: int) -> str:
        """Return the prompt, and after it what it leaves open; same arguments, same text."""
        text = prompt
        for detail in self.details:
            if detail.is_missing(text.lower()):
                text = f"{text.rstrip(' .,')}, {detail.spoken(text.lower(), seed)}"
        return text
