"""Text → token ids: SentencePiece with T5's conventions. Needs no MLX, and SentencePiece only where a text is split."""

from __future__ import annotations

from pathlib import Path

from ltx_models.errors import CheckpointError

__all__ = ["MAX_TOKENS", "NAMES", "Tokenizer"]

MAX_TOKENS = 256
"""Tokens of a prompt that the text encoder reads, the end token included."""
NAMES = ("prompt", "negative prompt")
"""What a request's texts are called, in the order of `GenerationRequest.texts`."""


class Tokenizer:
    """A T5 `spiece.model`. Raises CheckpointError if the file is missing or is no SentencePiece model."""

    def __init__(self, path: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        if not path.is_file():
            raise CheckpointError(f"there is no tokenizer at {path}; a SentencePiece model (spiece.model) is expected")
        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise CheckpointError(f"{path} is not a SentencePiece model (spiece.model): {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of the stripped text, cut to 256 with the end token `</s>`, which is always last."""
        return [*self._pieces(text)[: MAX_TOKENS - 1], self._processor.eos_id()]

    def count(self, text: str) -> int:
        """Tokens of the whole text, the end token included: of more than MAX_TOKENS, `encode` cuts off the rest."""
        return len(self._pieces(text)) + 1

    def _pieces(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text.strip())
        return ids
