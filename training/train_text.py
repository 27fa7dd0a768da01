"""Trains the text encoders, T5 and CLIP, to know what a caption claims, before any picture is made.

From pictures alone, a transformer learns slowly which colour belongs to which thing. Asked
directly, the encoders learn it in minutes: from each one's output, one linear layer must tell the
value of every attribute, or that the caption does not name it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from training.captions import Caption, describe
from training.faces import ATTRIBUTES, Attributes
from training.loop import Chance, Report, Schedule, train
from training.text import CLIP_TOKENS, T5_TOKENS, clip_tokenizer, t5_tokenizer

SCHEDULE = Schedule(steps=1500, learning_rate=3e-3, ema_steps=100, checkpoint_every=250)
T5_WIDTH, CLIP_WIDTH = 128, 64

_SIZES = [len(values) + 1 for values in ATTRIBUTES.values()]
ANSWERS = sum(_SIZES)
"""How many values all attributes have, and for each, that it is not named."""

_BATCH = 96
_COMPLETE_SHARE = 0.2
_UNSEEN_CAPTIONS = 500


class TextEncoders(nn.Module):
    """Both encoders with their tokenizers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = t5_tokenizer()
        self.pieces = clip_tokenizer()
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.words),
                d_model=T5_WIDTH,
                d_kv=32,
                d_ff=2 * T5_WIDTH,
                num_layers=3,
                num_heads=4,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.pieces),
                hidden_size=CLIP_WIDTH,
                intermediate_size=2 * CLIP_WIDTH,
                projection_dim=CLIP_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=CLIP_TOKENS,
                bos_token_id=self.pieces.bos_token_id,
                eos_token_id=self.pieces.eos_token_id,
                pad_token_id=self.pieces.pad_token_id,
            )
        )

    def forward(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `[n, tokens, width]` of T5 and `[n, width]` of CLIP, as FluxPipeline asks."""
        device = self.t5.device
        fixed = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        words = self.words(list(prompts), max_length=T5_TOKENS, **fixed).input_ids.to(device)
        pieces = self.pieces(list(prompts), max_length=CLIP_TOKENS, **fixed).input_ids.to(device)
        return self.t5(words)[0], self.clip(pieces).pooler_output

    def save(self, path: Path) -> None:
        """Write the weights alone."""
        # Copies, because T5 has its table of words under two names.
        save_file({name: value.clone() for name, value in self.state_dict().items()}, path)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        self.load_state_dict(load_file(path))


class Reading:
    """What does this caption claim?"""

    def __init__(self, device: torch.device, batch: int = _BATCH) -> None:
        self.text = TextEncoders().to(device)
        self.heads = nn.ModuleDict(
            {"t5": nn.Linear(T5_WIDTH, ANSWERS), "clip": nn.Linear(CLIP_WIDTH, ANSWERS)}
        ).to(device)
        self.modules = nn.ModuleDict({"text": self.text, "heads": self.heads})
        self._device = device
        self._batch = batch

    def loss(self, chance: Chance, progress: float) -> torch.Tensor:
        """Return the sum over both encoders of `wrong_answers`."""
        captions = [_caption(chance.numpy) for _ in range(self._batch)]
        wanted = claimed([caption.claims for caption in captions]).to(self._device)
        answers = self._answers(captions).values()
        return torch.stack([wrong_answers(some, wanted) for some in answers]).sum()

    @torch.no_grad()
    def shares_right(self, captions: Sequence[Caption]) -> dict[str, float]:
        """Return for each encoder how many of the claims it reads as they are."""
        wanted = claimed([caption.claims for caption in captions])
        shares = {}
        for encoder, logits in self._answers(captions).items():
            best = [some.argmax(dim=1).cpu() for some in torch.split(logits, _SIZES, dim=1)]
            shares[encoder] = round(float((torch.stack(best, dim=1) == wanted).float().mean()), 4)
        return shares

    def _answers(self, captions: Sequence[Caption]) -> dict[str, torch.Tensor]:
        tokens, pooled = self.text([caption.text for caption in captions])
        return {"t5": self.heads["t5"](tokens.mean(dim=1)), "clip": self.heads["clip"](pooled)}


def _caption(rng: np.random.Generator, *, held_out: bool = False) -> Caption:
    attributes = Attributes.sample(rng, held_out=held_out)
    return describe(attributes, rng, complete=bool(rng.random() < _COMPLETE_SHARE))


def claimed(claims: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """Return the number of each attribute's value, one after the last if it is not named."""
    return torch.tensor(
        [
            [
                values.index(some[name]) if name in some else len(values)
                for name, values in ATTRIBUTES.items()
            ]
            for some in claims
        ]
    )


def wrong_answers(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy over all attributes of `[n, ANSWERS]` against `claimed`."""
    errors = [
        functional.cross_entropy(some.float(), wanted[:, number])
        for number, some in enumerate(torch.split(logits, _SIZES, dim=1))
    ]
    return torch.stack(errors).mean()


def run(
    directory: Path,
    *,
    seed: int,
    device: torch.device,
    schedule: Schedule = SCHEDULE,
    say: Callable[[str], None] = print,
) -> Report:
    """Train, measure on captions of held-out combinations, save as `directory/text.safetensors`."""
    torch.manual_seed(seed)  # modules initialise from the global generator
    lesson = Reading(device)
    report = train(lesson, schedule, seed=seed, checkpoint=directory / "text.pt", say=say)
    rng = np.random.default_rng(seed + 1)
    unseen = [_caption(rng, held_out=True) for _ in range(_UNSEEN_CAPTIONS)]
    say(f"claims of held-out captions read right: {lesson.shares_right(unseen)}")
    lesson.text.save(directory / "text.safetensors")
    return report
