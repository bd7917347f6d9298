"""The layouts of a checkpoint. Each gives the same: sections of the official config, tensors by official names.

SingleFile        one file: prefixed tensors, the config in the metadata         (Lightricks/LTX-Video)
DiffusersFolder   transformer/, vae/, scheduler/ with names and configs of their own
SplitFolder       transformer.safetensors, vae.safetensors, config.json          (`ltx models convert`)
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ltx_models.checkpoint.files import Weights, load_tensors, read_json, sharded_files
from ltx_models.diffusers_names import official_config, rename_transformer, rename_vae
from ltx_models.errors import CheckpointError
from ltx_models.safetensors_header import read_header

__all__ = ["Checkpoint", "DiffusersFolder", "SingleFile", "SplitFolder", "open_checkpoint"]

TRANSFORMER_PREFIX = "model.diffusion_model."
VAE_PREFIX = "vae."
VAE_FILE = "vae_file"
"""The metadata of a file of our own that leaves out the VAE: which file beside it holds it."""
DIFFUSERS_STEM = "diffusion_pytorch_model"


class Checkpoint(ABC):
    """A transformer and a VAE on disk: the config at once, tensors each time they are asked for.

    path: the file or folder.  files: those that hold tensors.  config: the official config, as far as it is known.
    """

    path: Path
    files: list[Path]
    config: Any

    def section(self, name: str) -> dict[str, Any]:
        """One part of the config: "transformer", "vae" or "scheduler". Raises CheckpointError."""
        section = self.config.get(name) if isinstance(self.config, dict) else None
        if not isinstance(section, dict):
            raise CheckpointError(f"the config of {self.path} has no section {name!r}")
        return section

    @abstractmethod
    def transformer_weights(self) -> Weights:
        """The transformer's tensors, read from disk when first used. The caller holds the only references."""

    @abstractmethod
    def vae_weights(self) -> Weights:
        """The VAE's tensors, likewise."""


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`, whatever its layout. Raises CheckpointError."""
    if not path.is_dir():
        return SingleFile(path)
    if (path / "transformer" / "config.json").is_file():
        return DiffusersFolder(path)
    if (path / SplitFolder.TRANSFORMER).is_file():
        return SplitFolder(path)
    raise CheckpointError(
        f"the folder {path} holds neither transformer/config.json, as a diffusers folder does, nor"
        f" {SplitFolder.TRANSFORMER}, as ltx models convert writes; an official checkpoint is named as a file"
    )


class SingleFile(Checkpoint):
    """The official checkpoint file.

    Two models may share a VAE: the file of one then holds the transformer alone, and its metadata names the file in the
    same folder that the VAE is in.
    Raises CheckpointError if it is missing, truncated, not safetensors, or has no usable config.
    """

    def __init__(self, path: Path) -> None:
        self.path = self._vae_path = path
        self.files = [path]
        metadata = read_header(path).metadata
        if "config" not in metadata:
            raise CheckpointError(f"{path} has no 'config' in its metadata, which the official single files have")
        try:
            self.config = json.loads(metadata["config"])
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"the config in the metadata of {path} is not JSON: {error}") from error
        if not isinstance(self.config, dict):
            raise CheckpointError(f"the config in the metadata of {path} is not a JSON object")
        if VAE_FILE in metadata:
            self._vae_path = path.with_name(Path(metadata[VAE_FILE]).name)
            if VAE_FILE in read_header(self._vae_path).metadata:
                raise CheckpointError(f"{path} says that its VAE is in {self._vae_path}, which holds none either")
            self.files.append(self._vae_path)
            self.config["vae"] = SingleFile(self._vae_path).section("vae")

    def transformer_weights(self) -> Weights:
        """The tensors under `model.diffusion_model.`, without that prefix."""
        return _under(TRANSFORMER_PREFIX, load_tensors(self.path)[0])

    def vae_weights(self) -> Weights:
        """The tensors under `vae.`, without that prefix."""
        return _under(VAE_PREFIX, load_tensors(self._vae_path)[0])


class DiffusersFolder(Checkpoint):
    """What diffusers' `save_pretrained` writes, and the Hub's `-diffusers` repositories hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
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
        """The transformer's tensors, by their official names."""
        return rename_transformer(_load_all(self.transformer_files))

    def vae_weights(self) -> Weights:
        """The VAE's tensors, by their official names."""
        return rename_vae(_load_all(self.vae_files), self.config["vae"])


class SplitFolder(Checkpoint):
    """Transformer and VAE in files of their own, beside a `config.json`: what `ltx models convert` writes.

    `config.json` is the official config. It may also be the transformer's section alone, beside a `vae_config.json`
    and a `vae_decoder.safetensors`, as in MLX folders that others made; tensors have their official names in any
    case. What such a folder leaves out, as the scheduler's section, is missed when it is needed.
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
        """The tensors of the transformer's file, which may have their prefix."""
        return _without(TRANSFORMER_PREFIX, load_tensors(self.files[0])[0])

    def vae_weights(self) -> Weights:
        """The tensors of the VAE's file, which may have their prefix; a file of the decoder alone may leave it out."""
        weights = _without(VAE_PREFIX, load_tensors(self.vae_file)[0])
        if any(name.startswith("decoder.") for name in weights):
            return weights
        statistics = "per_channel_statistics."
        return {name if name.startswith(statistics) else f"decoder.{name}": value for name, value in weights.items()}


def _under(prefix: str, tensors: Weights) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _without(prefix: str, tensors: Weights) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _load_all(paths: Iterable[Path]) -> Weights:
    weights: Weights = {}
    for path in paths:
        weights |= load_tensors(path)[0]
    return weights
