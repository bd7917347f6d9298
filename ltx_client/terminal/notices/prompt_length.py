"""Tell, before a job is queued, whether its texts are longer than the text encoder reads, if a tokenizer is installed.

Otherwise the worker tells, by its event (`CutText`). A laptop's base install has no SentencePiece, and says nothing.
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
    """Return those of a job's texts of which the text encoder reads only a part."""
    found = []
    for name, text in zip(NAMES, job.request.texts, strict=False):
        tokens = _count(job.variant, text) if _may_be_long(text) else 0
        if tokens > MAX_TOKENS:
            found.append(CutText(text=name, tokens=tokens, read=MAX_TOKENS))
    return tuple(found)


def tell_of_cut_texts(job: Job, where: str = "") -> None:
    """Print a notice for each such text.

    Args:
        job: The job.
        where: What precedes the notice, such as the place in a batch's file.
    """
    for text in cut_texts(job):
        notice(f"{where}{text.sentence}")


def _may_be_long(text: str) -> bool:
    """Return whether a text has more bytes than tokens are read: no token is shorter, so else no tokenizer is loaded.

    SentencePiece adds a space before the text, and the end token after it.
    """
    return len(unicodedata.normalize("NFKC", text).encode(errors="replace")) + 2 > MAX_TOKENS


@functools.lru_cache(maxsize=1000)
def _count(variant: str, text: str) -> int:
    """Return the text's number of tokens; 0 if no tokenizer is installed."""
    path = find_part(find_variant(variant), "tokenizer")
    tokenizer = _tokenizer(path) if path else None
    return tokenizer.count(text) if tokenizer else 0


@functools.lru_cache(maxsize=8)
def _tokenizer(path: Path) -> Tokenizer | None:
    try:
        return Tokenizer(path)
    except (ImportError, ModelError, OSError):  # the worker's own is decisive, and it will say what is wrong
        return None
