"""Whether a job's texts are longer than the text encoder reads, told before it is queued, where its tokenizer is here.

Elsewhere the worker tells, by its event (`CutText`). A laptop's base install has no SentencePiece, and says nothing.
"""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path

from ltx_client.protocol.events import CutText
from ltx_client.protocol.jobs import Job
from ltx_client.terminal.output import notice
from ltx_models.errors import ModelError
from ltx_models.families.variants import find_variant
from ltx_models.files.model_files import find_part
from ltx_models.text_encoders.tokenizer import MAX_TOKENS, NAMES, Tokenizer

__all__ = ["cut_texts", "tell_of_cut_texts"]


def cut_texts(job: Job) -> tuple[CutText, ...]:
    """Those of a job's texts of which the text encoder reads a part only."""
    found = []
    for name, text in zip(NAMES, job.request.texts, strict=False):
        tokens = _count(job.variant, text) if _may_be_long(text) else 0
        if tokens > MAX_TOKENS:
            found.append(CutText(text=name, tokens=tokens, read=MAX_TOKENS))
    return tuple(found)


def tell_of_cut_texts(job: Job, where: str = "") -> None:
    """Print a notice for each of them. where: what stands before it, such as the place in a batch's file."""
    for text in cut_texts(job):
        notice(f"{where}{text.sentence}")


def _may_be_long(text: str) -> bool:
    """Whether it has more bytes than tokens are read, for no token is of less than one: else no tokenizer is loaded.

    SentencePiece puts a space before the text, and the end token behind it.
    """
    return len(unicodedata.normalize("NFKC", text).encode(errors="replace")) + 2 > MAX_TOKENS


@functools.lru_cache(maxsize=1000)
def _count(variant: str, text: str) -> int:
    """The text's tokens, 0 where no tokenizer is here."""
    path = find_part(find_variant(variant), "tokenizer")
    tokenizer = _tokenizer(path) if path else None
    return tokenizer.count(text) if tokenizer else 0


@functools.lru_cache(maxsize=8)
def _tokenizer(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer(path)
    except (ImportError, ModelError, OSError):  # the worker's own is what counts, and it will say what is wrong
        return None
