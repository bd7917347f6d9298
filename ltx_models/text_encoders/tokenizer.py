"""Turn text into token ids by SentencePiece with T5's conventions.

Needs no MLX, and SentencePiece only where a text is split.
"""

from __future__ import annotations

from pathlib import Path

from ltx_models.errors import CheckpointError
from ltx_models.families.ltxv import LTXV
from ltx_models.files.file_kinds import describe_stand_in

__all__ = ["MAX_TOKENS", "Tokenizer"]

MAX_TOKENS = LTXV.limits.text_tokens
"""The number of tokens of a prompt that the text encoder reads, the end token included."""


class Tokenizer:
    """A T5 `spiece.model`.

    Args:
        path: The file.
        vocabulary: The number of tokens that its text encoder has embeddings of; a larger id would be read from beyond
            them. None skips that check.

    Raises:
        CheckpointError: The file is missing, is not a SentencePiece model, or is another text encoder's.
    """

    def __init__(self, path: Path, vocabulary: int | None = None) -> None:
        from sentencepiece import SentencePieceProcessor

        if not path.is_file():
            raise CheckpointError(f"there is no tokenizer at {path}; a SentencePiece model (spiece.model) is expected")
        try:
            self._processor = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            why = describe_stand_in(path) or f": {error}"
            raise CheckpointError(f"{path} is not a SentencePiece model (spiece.model){why}") from error
        pieces = self._processor.get_piece_size()
        if self._processor.eos_id() < 0:
            raise CheckpointError(f"{path} has no end token, unlike T5's; take the spiece.model of the text encoder")
        if vocabulary is not None and pieces > vocabulary:
            raise CheckpointError(
                f"{path} is another text encoder's: it has {pieces:,} tokens, of which this one knows {vocabulary:,};"
                " take the spiece.model of the same model"
            )

    def encode(self, text: str) -> list[int]:
        """Return the ids of the stripped text, cut to 256 with the end token `</s>`, which is always last."""
        return [*self._pieces(text)[: MAX_TOKENS - 1], self._processor.eos_id()]

    def count(self, text: str) -> int:
        """Return the number of tokens of the whole text, with the end token; `encode` cuts at MAX_TOKENS."""
        return len(self._pieces(text)) + 1

    def _pieces(self, text: str) -> list[int]:
        ids: list[int] = self._processor.encode(text.strip())
        return ids
