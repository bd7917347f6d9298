"""Tell, before a job is queued, whether its texts are longer than the text encoder reads, if a tokenizer is installed.

Otherwise the worker tells, by its event (`CutText`). A laptop's base install has no SentencePiece, and says nothing.
"""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path
from typing import Any

from ltx_client.protocol.events import CutText
from ltx_client.protocol.jobs import Job
from ltx_client.terminal.output import notice
from ltx_models.errors import ModelError
from ltx_models.families.family import named
from ltx_models.families.variants import find_variant
from ltx_models.files.model_files import find_part
from ltx_models.memory import limits_of
from ltx_models.request import TEXT_NAMES

__all__ = ["cut_texts", "tell_of_cut_texts"]


def cut_texts(job: Job) -> tuple[CutText, ...]:
    """Return those of a job's texts of which the text encoder reads only a part."""
    found = []
    read = limits_of(job.variant).text_tokens
    for name, text in zip(TEXT_NAMES, job.request.texts, strict=False):
        tokens = _count(job.variant, text) if _may_be_long(text, read) else 0
        if tokens > read:
            found.append(CutText(text=name, tokens=tokens, read=read))
    return tuple(found)


def tell_of_cut_texts(job: Job, where: str = "") -> None:
    """Print a notice for each such text.

    Args:
        job: The job.
        where: What precedes the notice, such as the place in a batch's file.
    """
    for text in cut_texts(job):
        notice(f"{where}{text.sentence}")


def _may_be_long(text: str, read: int) -> bool:
    """Return whether a text has more bytes than tokens are read: no token is shorter, so else no tokenizer is loaded.

    SentencePiece adds a space before the text, and the end token after it.
    """
    return len(unicodedata.normalize("NFKC", text).encode(errors="replace")) + 2 > read


@functools.lru_cache(maxsize=1000)
def _count(variant: str, text: str) -> int:
    """Return the text's number of tokens; 0 if no tokenizer is installed."""
    row = find_variant(variant)
    for part in row.family.parts:
        if part.tokenizer and (path := find_part(row, part.name)):
            tokenizer = _tokenizer(part.tokenizer, path)
            return tokenizer.count(text) if tokenizer else 0
    return 0


@functools.lru_cache(maxsize=8)
def _tokenizer(place: str, path: Path) -> Any:
    try:
        return named(place)(path)
    except (ImportError, ModelError, OSError):  # the worker's own is decisive, and it will say what is wrong
        return None
