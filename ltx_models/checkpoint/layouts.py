"""The layouts of a checkpoint. Each gives the same: sections of the official config, tensors by official names.

SingleFile        one file: prefixed tensors, the config in the metadata         (Lightricks/LTX-Video)
ShardedFile       the same in several files, with an index that lists them
DiffusersFolder   transformer/, vae/, scheduler/ with names and configs of their own
SplitFolder       transformer.safetensors, vae.safetensors, config.json          (`ltx models convert`)
"""

from __future__ import annotations

import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ltx_models.checkpoint.diffusers_names import official_config, rename_transformer, rename_vae
from ltx_models.checkpoint.files import INDEX_SUFFIXES, Weights, indexed_files, load_tensors, read_json, sharded_files
from ltx_models.errors import CheckpointError
from ltx_models.files.file_kinds import PREFIXES, VAE_PREFIX, describe_other_model, is_lora, transformer_prefix
from ltx_models.files.safetensors_header import read_header
from ltx_models.layers.fp8 import name_scales

__all__ = ["Checkpoint", "DiffusersFolder", "ShardedFile", "SingleFile", "SplitFolder", "open_checkpoint"]

VAE_FILE = "vae_file"
"""The metadata key of this project's files that leave out the VAE: the name of the file in the same folder that has it.
"""
DIFFUSERS_STEM = "diffusion_pytorch_model"
DIFFUSERS_CLASS = "LTXVideoTransformer3DModel"
OFFICIAL_CLASS = "Transformer3DModel"


class Checkpoint(ABC):
    """A transformer and a VAE on disk: the config at once, tensors each time they are asked for.

    Attributes:
        path: The file or folder.
        files: The files with tensors.
        config: The official config, as far as it is known.
        left_out: Names of tensors that are neither the transformer's nor the VAE's.
    """

    path: Path
    files: list[Path]
    config: Any
    left_out: Sequence[str] = ()

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the config: "transformer", "vae" or "scheduler".

        Raises:
            CheckpointError: The section is missing.
        """
        section = self.config.get(name) if isinstance(self.config, dict) else None
        if not isinstance(section, dict):
            raise CheckpointError(f"the config of {self.path} has no section {name!r}")
        return section

    @abstractmethod
    def transformer_weights(self) -> Weights:
        """Return the transformer's tensors, read from disk when first used. The caller has the only references."""

    @abstractmethod
    def vae_weights(self) -> Weights:
        """Return the VAE's tensors, read from disk when first used. The caller has the only references."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, whatever its layout.

    Raises:
        CheckpointError: The path is missing, damaged or something else; the message says what it is instead.
    """
    if not path.is_dir():
        return SingleFile(path)
    if (path / "transformer" / "config.json").is_file():
        return DiffusersFolder(path)
    if (path / SplitFolder.TRANSFORMER).is_file():
        return SplitFolder(path)
    if indexes := [found for suffix in INDEX_SUFFIXES for found in sorted(path.glob(f"*{suffix}"))]:
        return ShardedFile(indexes[0])
    raise CheckpointError(_why_no_folder(path))


def _why_no_folder(path: Path) -> str:
    files = sorted(found.name for found in path.glob("*.safetensors"))
    if (path / "config.json").is_file() and (kind := read_json(path / "config.json").get("_class_name")):
        return (
            f"the folder {path} is one part of a diffusers folder ({reprlib.repr(kind)}); name the folder that it is in"
        )
    text = (
        f"the folder {path} holds neither transformer/config.json, as a diffusers folder does, nor"
        f" {SplitFolder.TRANSFORMER}, as ltx models convert writes; an official checkpoint is named as a file"
    )
    return text + (f", such as {path / files[0]}" if files else "")


class SingleFile(Checkpoint):
    """The official checkpoint file.

    Two models may share a VAE: the file of one then has the transformer alone, and its metadata names the file in the
    same folder that has the VAE.

    Raises:
        CheckpointError: The file is missing, truncated, not safetensors, another model's, or has no usable config.
    """

    def __init__(self, path: Path, files: Sequence[Path] = ()) -> None:
        self.path = path
        self.files = self._own_files = list(files or [path])
        self._vae_files = self._own_files
        headers = [read_header(file) for file in self.files]
        metadata = {name: value for header in reversed(headers) for name, value in header.metadata.items()}
        names = [name for header in headers for name in header.tensors]
        if other := describe_other_model(names):
            raise CheckpointError(f"{path} is {other}")
        self._prefix = transformer_prefix(names) or ""
        self.config = self._read_config(metadata)
        if VAE_FILE in metadata:
            self._share_vae(path.parent / Path(metadata[VAE_FILE]).name)
        elif not any(name.startswith(VAE_PREFIX) for name in names):
            raise CheckpointError(
                f"{path} is a transformer without a VAE; take the official single file, which holds both, or a folder"
                " with transformer/ and vae/"
            )
        self.left_out = [name for name in names if not name.startswith((self._prefix, VAE_PREFIX))]

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

    def _share_vae(self, owner: Path) -> None:
        if VAE_FILE in read_header(owner).metadata:
            raise CheckpointError(f"{self.path} says that its VAE is in {owner}, which has none either")
        self.files = [*self._own_files, owner]
        self._vae_files = [owner]
        self.config["vae"] = SingleFile(owner).section("vae")

    def transformer_weights(self) -> Weights:
        """Return the tensors under the transformer's prefix, without it."""
        weights = _under(self._prefix, _load_all(self._own_files))
        return name_scales(
            weights if self._prefix else {n: v for n, v in weights.items() if not n.startswith(VAE_PREFIX)}, self.path
        )

    def vae_weights(self) -> Weights:
        """Return the tensors under `vae.`, without that prefix."""
        return name_scales(_under(VAE_PREFIX, _load_all(self._vae_files)), self._vae_files[0])


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

    def __init__(self, path: Path) -> None:
        self.path = path
        kind = read_json(path / "transformer" / "config.json").get("_class_name", DIFFUSERS_CLASS)
        if kind not in (DIFFUSERS_CLASS, OFFICIAL_CLASS):
            raise CheckpointError(
                f"the folder {path} holds another model ({reprlib.repr(kind)}); a diffusers folder of LTX-Video 0.9.x"
                f" ({DIFFUSERS_CLASS}) is read"
            )
        self.transformer_files = sharded_files(path / "transformer", DIFFUSERS_STEM)
        self.vae_files = sharded_files(path / "vae", DIFFUSERS_STEM)
        self.files = [*self.transformer_files, *self.vae_files]
        scheduler = path / "scheduler" / "scheduler_config.json"
        self.config = official_config(
            transformer=read_json(path / "transformer" / "config.json"),
            vae=read_json(path / "vae" / "config.json"),
            scheduler=read_json(scheduler) if scheduler.is_file() else None,
            source=str(path),
        )

    def transformer_weights(self) -> Weights:
        """Return the transformer's tensors by their official names."""
        _refuse_others(self.transformer_files, "transformer_blocks.")
        return name_scales(rename_transformer(_load_all(self.transformer_files)), self.path)

    def vae_weights(self) -> Weights:
        """Return the VAE's tensors by their official names."""
        _refuse_others(self.vae_files, "conv")
        return name_scales(rename_vae(_load_all(self.vae_files), self.config["vae"]), self.path)


class SplitFolder(Checkpoint):
    """A folder with transformer and VAE in files of their own and a `config.json`: what `ltx models convert` writes.

    `config.json` is the official config. It may also be the transformer's section alone, together with a
    `vae_config.json` and a `vae_decoder.safetensors`, as in MLX folders that others made; tensors have their official
    names in any case. A section that such a folder leaves out, such as the scheduler's, is an error only when it is
    needed.
    """

    TRANSFORMER = "transformer.safetensors"
    VAES = ("vae.safetensors", "vae_decoder.safetensors")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vae_file = next((path / name for name in self.VAES if (path / name).is_file()), path / self.VAES[0])
        self.files = [path / self.TRANSFORMER, self.vae_file]
        config = read_json(path / "config.json")
        if "transformer" not in config and (path / "vae_config.json").is_file():
            config = {"transformer": config, "vae": read_json(path / "vae_config.json")}
        self.config = config

    def transformer_weights(self) -> Weights:
        """Return the tensors of the transformer's file, which may have their prefix."""
        _refuse_others(self.files[:1], "transformer_blocks.")
        return name_scales(_without(PREFIXES[0], load_tensors(self.files[0])[0]), self.files[0])

    def vae_weights(self) -> Weights:
        """Return the tensors of the VAE's file, which may have a prefix; one of the decoder alone may have none."""
        _refuse_others([self.vae_file], "conv")
        weights = name_scales(_without(VAE_PREFIX, load_tensors(self.vae_file)[0]), self.vae_file)
        if any(name.startswith("decoder.") for name in weights):
            return weights
        statistics = "per_channel_statistics."
        return {name if name.startswith(statistics) else f"decoder.{name}": value for name, value in weights.items()}


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
