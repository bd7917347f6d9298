"""Find a variant's files on this machine. Needs neither MLX nor the hub's client.

They are searched in the folder of LTX_MODELS_DIR, if that is set, and else in the hub's cache (HF_HUB_CACHE, HF_HOME).
A models folder may be a share that serves a whole farm. In it, files of the hub are under OWNER/REPOSITORY, and a
folder named after a variant, as `ltx models convert` writes it, replaces the parts that it contains.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ltx_models.errors import CheckpointError
from ltx_models.families.variant import Source, Variant

__all__ = ["cache_folder", "find_files", "missing_parts", "models_folder", "repository_folders"]

PACKAGE = Path(__file__).parents[1]


def find_files(variant: Variant) -> dict[str, Path]:
    """Return where the variant's parts are, each a file or a folder, by name.

    Raises:
        CheckpointError: A part is not on this machine; the message names the command that downloads it.
    """
    missing = missing_parts(variant)
    if missing:
        folder = models_folder() or cache_folder()
        raise CheckpointError(
            f"the {' and the '.join(missing)} of {variant.name} {'is' if len(missing) == 1 else 'are'} not on this"
            f" machine (looked in {folder}); this downloads what is missing: ltx models download {variant.name}"
        )
    found = {part.name: find_part(variant, part.name) for part in variant.family.parts}
    return {name: path for name, path in found.items() if path is not None}


def missing_parts(variant: Variant) -> list[str]:
    """Return the names of the parts that are not on this machine, for people."""
    names = [part.name for part in variant.family.parts]
    return [name.replace("_", " ") for name in names if find_part(variant, name) is None]


def find_part(variant: Variant, name: str) -> Path | None:
    """Return where a part of a variant is, by its name in the family's row, or None where it is missing."""
    folder, part = models_folder(), variant.family.part(name)
    if folder and _is_file(folder / variant.name / part.shown_by):
        return folder / variant.name / Path(part.converted)
    files = variant.files[name]
    if isinstance(files, str):
        return PACKAGE / files  # an absolute path stays itself
    for source in files:
        for candidate in repository_folders(source.repository):
            if source_files(candidate, source):
                return candidate / source.path
    return None


def source_files(folder: Path, source: Source) -> list[Path]:
    """Return the files of a source in a folder; none unless all are there, including the shards of every index."""
    found: list[Path] = []
    for pattern in source.patterns:
        matches = _glob(folder, pattern)
        if not matches:
            return []
        found += matches
    shards = [shard for index in found if ".index." in index.name for shard in _shards(index)]
    return found if all(_is_file(shard) for shard in shards) else []


def _is_file(path: Path) -> bool:
    """Return whether a readable file exists; False, not an error, for a name that is too long or in a closed folder."""
    return os.path.isfile(path)  # noqa: PTH113 - which raises no OSError


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _shards(index: Path) -> set[Path]:
    try:
        return {index.parent / Path(name).name for name in json.loads(index.read_text())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()  # reading it says what is wrong with it


def models_folder() -> Path | None:
    """Return the folder of LTX_MODELS_DIR, or None where it is not set."""
    value = os.environ.get("LTX_MODELS_DIR")
    return Path(os.path.expanduser(value)).absolute() if value else None  # noqa: PTH111 - leaves what it cannot


def cache_folder() -> Path:
    """Return the hub's cache, by the rules of the hub's client."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home or f"{caches}/huggingface").expanduser() / "hub"


def repository_folders(repository: str) -> list[Path]:
    """Return the folders that may have files of a repository; of the cache's snapshots, the current one first."""
    models = models_folder()
    if models:
        return [models / repository]
    storage = cache_folder() / f"models--{repository.replace('/', '--')}"
    snapshots = _glob(storage / "snapshots", "*")
    reference = storage / "refs" / "main"
    current = reference.read_text(errors="replace").strip() if _is_file(reference) else ""
    return sorted(snapshots, key=lambda snapshot: snapshot.name != current)
