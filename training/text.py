"""Small tokenizers of the production classes, for the words of our captions and any other."""

from __future__ import annotations

import math
import string

from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer, T5TokenizerFast

from training.captions import vocabulary

T5_TOKENS = 48
CLIP_TOKENS = 64

_MERGES = 1500  # the commonest of CLIP's; rarer words come in pieces
_WORD_START = "\u2581"  # what SentencePiece writes for the space before a word
_SPELLING_SCORE = -20.0
_START, _END = "<|startoftext|>", "<|endoftext|>"


def t5_tokenizer() -> T5TokenizerFast:
    """Return a Unigram tokenizer: the captions' words whole, others spelt."""
    words = {form for word in vocabulary() for form in (word, word.capitalize())}
    scored = {f"{_WORD_START}{word}": -math.log(len(words)) for word in words}
    alphabet = string.ascii_letters + string.digits + ".,!?'-"
    spelling = dict.fromkeys([_WORD_START, *alphabet], _SPELLING_SCORE)
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 2 * _SPELLING_SCORE)]
    return T5TokenizerFast(
        vocab=[*special, *sorted({**spelling, **scored}.items())],
        extra_ids=0,
        model_max_length=T5_TOKENS,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer with its commonest merges alone, so that its table stays small."""
    bundled = SimpleTokenizer()
    ranked = sorted(bundled.bpe_ranks, key=bundled.bpe_ranks.__getitem__)
    merges = _needed_merges(ranked)
    letters = [token for token, number in bundled.encoder.items() if number < 512]
    tokens = [*letters, *("".join(pair) for pair in merges), _START, _END]
    vocab = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CLIP_TOKENS)


def _needed_merges(ranked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the commonest merges, and those that the captions' own words need, in their order."""
    made_by = {"".join(pair): pair for pair in reversed(ranked)}
    wanted = set(ranked[:_MERGES])
    pending = [f"{word}</w>" for part in vocabulary() for word in part.split("-")]
    while pending:
        pair = made_by.get(pending.pop())
        if pair and pair not in wanted:
            wanted.add(pair)
            pending.extend(pair)
    return [pair for pair in ranked if pair in wanted]
