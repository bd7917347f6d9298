"""The layouts of a checkpoint. Each gives the same: sections of the official config, tensors by official names.

SingleFile        one file: prefixed tensors, the config in the metadata         (as they are published)
ShardedFile       the same in several files, with an index that lists them
DiffusersFolder   a folder for each section, with names and configs of their own
SplitFolder       a file for each section, and config.json                       (`ltx models convert`)

What the sections are, and what they are called, is the family's `Layout`.
"""

from __future__ import annotations

import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ltx_models.checkpoint.files import INDEX_SUFFIXES, Weights, indexed_files, load_tensors, read_json, sharded_files
from ltx_models.errors import CheckpointError
from ltx_models.families.family import Layout, Section, named
from ltx_models.families.variants import known_families
from ltx_models.files.file_kinds import describe_other_model, is_lora
from ltx_models.files.safetensors_header import read_header
from ltx_models.layers.fp8 import name_scales

__all__ = [
    "Checkpoint",
    "DiffusersFolder",
    "ShardedFile",
    "SingleFile",
    "SplitFolder",
    "checkpoint_files",
    "open_checkpoint",
]

DIFFUSERS_STEM = "diffusion_pytorch_model"


class Checkpoint(ABC):
    """The networks of a checkpoint on disk: the config at once, tensors each time they are asked for.

    Attributes:
        path: The file or folder.
        layout: The sections that it holds.
        files: The files with tensors.
        config: The official config, as far as it is known.
        left_out: Names of tensors that belong to no section.
    """

    path: Path
    layout: Layout
    files: list[Path]
    config: Any
    left_out: Sequence[str] = ()

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the config: one of the layout's, or another one, such as "scheduler".

        Raises:
            CheckpointError: The section is missing.
        """
        section = self.config.get(name) if isinstance(self.config, dict) else None
        if not isinstance(section, dict):
            raise CheckpointError(f"the config of {self.path} has no section {name!r}")
        return section

    def weights(self, name: str) -> Weights:
        """Return the tensors of a section of the layout, by their official names.

        They are read from disk when first used. The caller has the only references.
        """
        return self._weights(next(each for each in self.layout.sections if each.name == name))

    @abstractmethod
    def _weights(self, section: Section) -> Weights:
        """Return a section's tensors."""


def layouts() -> Iterator[Layout]:
    """Yield the layouts of all families, those of the variant table first."""
    return (family.layout for family in known_families() if family.layout is not None)


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, whatever its layout.

    Raises:
        CheckpointError: The path is missing, damaged or something else; the message says what it is instead.
    """
    if not path.is_dir():
        return SingleFile(path)
    for layout in layouts():
        first = layout.sections[0]
        if (path / first.name / "config.json").is_file():
            return DiffusersFolder(path, layout)
        if (path / first.files[0]).is_file():
            return SplitFolder(path, layout)
    if indexes := [found for suffix in INDEX_SUFFIXES for found in sorted(path.glob(f"*{suffix}"))]:
        return ShardedFile(indexes[0])
    raise CheckpointError(_why_no_folder(path))


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files with tensors of the checkpoint at `path`. Raise CheckpointError."""
    return list(open_checkpoint(path).files)


def _why_no_folder(path: Path) -> str:
    first = next(layouts()).sections[0]
    files = sorted(found.name for found in path.glob("*.safetensors"))
    if (path / "config.json").is_file() and (kind := read_json(path / "config.json").get("_class_name")):
        return (
            f"the folder {path} is one part of a diffusers folder ({reprlib.repr(kind)}); name the folder that it is in"
        )
    text = (
        f"the folder {path} holds neither {first.name}/config.json, as a diffusers folder does, nor"
        f" {first.files[0]}, as ltx models convert writes; an official checkpoint is named as a file"
    )
    return text + (f", such as {path / files[0]}" if files else "")


class SingleFile(Checkpoint):
    """The official checkpoint file.

    Two models may share their second section: the file of one then has the first section alone, and its metadata names
    the file in the same folder that has the second.

    Raises:
        CheckpointError: The file is missing, truncated, not safetensors, another model's, or has no usable config.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self.path = path
        self.files = self._own_files = list(files or [path])
        self._shared_files = self._own_files
        headers = [read_header(file) for file in self.files]
        metadata = {name: value for header in reversed(headers) for name, value in header.metadata.items()}
        names = [name for header in headers for name in header.tensors]
        if other := describe_other_model(names):
            raise CheckpointError(f"{path} is {other}")
        found = ((each, named(each.prefix_of)(names)) for each in layouts())
        self.layout, prefix = next((pair for pair in found if pair[1] is not None), (next(layouts()), None))
        self._prefix: str = prefix or ""
        self.config = self._read_config(metadata)
        self._find_second(metadata, names)
        self._others = tuple(prefix for section in self.layout.sections[1:] for prefix in section.prefixes)
        self.left_out = [name for name in names if not name.startswith((self._prefix, *self._others))]

    def _read_config(self, metadata: dict[str, str]) -> dict[str, Any]:
        if "config" not in metadata:
            raise CheckpointError(
                f"{self.path} has no 'config' in its metadata, which the official single files have, and which"
                " other tools may leave out when they save one again; take the official file"
            )
        try:
            config = json.loads(metadata["config"])
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the config in the metadata of {self.path} is not JSON: {error}") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"the config in the metadata of {self.path} is not a JSON object")
        return config

    def _find_second(self, metadata: dict[str, str], names: Sequence[str]) -> None:
        """Find the second section, if the layout has one, here or in the file that the metadata names."""
        first, *others = self.layout.sections
        if not others:
            return
        second = others[0]
        if self.layout.shared_file in metadata:
            self._share(second, self.path.parent / Path(metadata[self.layout.shared_file]).name)
        elif not any(name.startswith(second.prefixes) for name in names):
            raise CheckpointError(
                f"{self.path} is {first.title} without {second.title}; take the official single file, which holds both,"
                f" or a folder with {first.name}/ and {second.name}/"
            )

    def _share(self, section: Section, owner: Path) -> None:
        if self.layout.shared_file in read_header(owner).metadata:
            what = section.title.partition(" ")[2]
            raise CheckpointError(f"{self.path} says that its {what} is in {owner}, which has none either")
        self.files = [*self._own_files, owner]
        self._shared_files = [owner]
        self.config[section.name] = SingleFile(owner).section(section.name)

    def _weights(self, section: Section) -> Weights:
        """Return the tensors under the section's prefix, without it."""
        first, *others = self.layout.sections
        if section is not first:
            files = self._shared_files if section is others[0] else self._own_files
            return name_scales(_under(section.prefixes[0], _load_all(files)), files[0])
        weights = _under(self._prefix, _load_all(self._own_files))
        if not self._prefix:
            weights = {name: value for name, value in weights.items() if not name.startswith(self._others)}
        return name_scales(weights, self.path)


class ShardedFile(SingleFile):
    """The official checkpoint in several files, listed by a `….safetensors.index.json` in the same folder.

    The config is in the metadata of one of the files.

    Raises:
        CheckpointError: A file is missing or damaged, or none has a usable config.
    """

    def __init__(self, index: Path) -> None:
        super().__init__(index, indexed_files(index))


class DiffusersFolder(Checkpoint):
    """The folder that diffusers' `save_pretrained` writes, as in the hub's `-diffusers` repositories."""

    def __init__(self, path: Path, layout: Layout | None = None) -> None:
        self.path = path
        self.layout = layout = layout or next(layouts())
        names = [section.name for section in layout.sections]
        kind = read_json(path / names[0] / "config.json").get("_class_name", layout.diffusers_class)
        if kind not in (layout.diffusers_class, *layout.classes):
            raise CheckpointError(
                f"the folder {path} holds another model ({reprlib.repr(kind)}); a diffusers folder of {layout.title}"
                f" ({layout.diffusers_class}) is read"
            )
        self._files = {name: sharded_files(path / name, DIFFUSERS_STEM) for name in names}
        self.files = [file for name in names for file in self._files[name]]
        scheduler = path / "scheduler" / "scheduler_config.json"
        configs = {name: read_json(path / name / "config.json") for name in names}
        self.config = named(layout.official_config)(
            **configs, scheduler=read_json(scheduler) if scheduler.is_file() else None, source=str(path)
        )

    def _weights(self, section: Section) -> Weights:
        files = self._files[section.name]
        _refuse_others(files, section.contains)
        return name_scales(named(section.rename)(_load_all(files), self.config[section.name]), self.path)


class SplitFolder(Checkpoint):
    """A folder with a file for each section and a `config.json`: what `ltx models convert` writes.

    `config.json` is the official config. It may also be the first section alone, together with configs of the others,
    as in MLX folders that others made; tensors have their official names in any case. A section that such a folder
    leaves out, such as the scheduler's, is an error only when it is needed.
    """

    def __init__(self, path: Path, layout: Layout | None = None) -> None:
        self.path = path
        self.layout = layout = layout or next(layouts())
        self._files = {
            each.name: next((path / name for name in each.files if (path / name).is_file()), path / each.files[0])
            for each in layout.sections
        }
        self.files = list(self._files.values())
        config = read_json(path / "config.json")
        first, *others = layout.sections
        if first.name not in config and all((path / each.config).is_file() for each in others):
            config = {first.name: config} | {each.name: read_json(path / each.config) for each in others}
        self.config = config

    def _weights(self, section: Section) -> Weights:
        """Return the tensors of the section's file, which may have their prefix."""
        file = self._files[section.name]
        _refuse_others([file], section.contains)
        weights = name_scales(_without(section.prefixes[0], load_tensors(file)[0]), file)
        return named(section.complete)(weights) if section.complete else weights


def _refuse_others(files: Sequence[Path], expected: str) -> None:
    """Raise CheckpointError where a part's files are of something else, such as a LoRA.

    That is so where no tensor's name contains `expected`, or one is another model's.
    """
    names = [name for path in files for name in read_header(path).tensors]
    if (other := describe_other_model(names)) and (is_lora(names) or not any(expected in name for name in names)):
        raise CheckpointError(f"{files[0]} is {other}")


def _under(prefix: str, tensors: Weights) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _without(prefix: str, tensors: Weights) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _load_all(paths: Iterable[Path]) -> Weights:
    weights: Weights = {}
    for path in paths:
        weights |= load_tensors(path)[0]
    return weights
