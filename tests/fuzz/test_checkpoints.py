"""Fuzz checkpoints: a file's header, its config, and what is loaded by them; and the JSON files of a folder."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from safetensors.numpy import save

from ltx_models.checkpoint import load_tensors, open_checkpoint, parse_config
from ltx_models.errors import CheckpointError
from ltx_models.files.safetensors_header import read_header
from ltx_models.schedulers import SchedulerConfig
from ltx_models.transformers.ltxv import Transformer, TransformerConfig, load_transformer
from ltx_models.vae import VAE, VAEConfig, load_vae
from tests.fuzz.campaign import Kind
from tests.fuzz.mutations import ODD_NUMBERS, mutated_bytes, mutated_json, odd_bytes, odd_json

TRANSFORMER = {
    "attention_head_dim": 6,
    "num_attention_heads": 1,
    "num_layers": 1,
    "in_channels": 2,
    "out_channels": 2,
    "caption_channels": 2,
    "cross_attention_dim": 6,
    "qk_norm": "rms_norm",
    "norm_eps": 1e-6,
    "positional_embedding_max_pos": [20, 2048, 2048],
    "timestep_scale_multiplier": 1000,
}
BLOCKS = [["res_x", {"num_layers": 1, "inject_noise": False}], ["compress_all", {"residual": True, "multiplier": 2}]]
VAE_SECTION = {
    "latent_channels": 2,
    "patch_size": 1,
    "decoder_base_channels": 1,
    "encoder_base_channels": 1,
    "dims": 3,
    "decoder_blocks": [*BLOCKS, ["res_x", 1]],
    "timestep_conditioning": False,
    "latent_log_var": "uniform",
}
SCHEDULER = {"sampler": "LinearQuadratic", "shifting": None, "target_shift_terminal": None}
CONFIG = {"transformer": TRANSFORMER, "vae": VAE_SECTION, "scheduler": SCHEDULER}


def small_file():
    """Return the two parts of a whole checkpoint of some kilobytes: the header as JSON, and the rest."""
    models = {
        "model.diffusion_model.": Transformer(parse_config(TransformerConfig, TRANSFORMER, {}, source="here")),
        "vae.": VAE(parse_config(VAEConfig, VAE_SECTION, {}, source="here")),
    }
    tensors = {
        prefix + name: np.zeros(array.shape, np.float32)
        for prefix, model in models.items()
        for name, array in tree_flatten(model.parameters())
    }
    data = save(tensors, {"config": json.dumps(CONFIG)})
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


HEADER, TENSORS = small_file()


def file_of(header, length=None, tensors=TENSORS):
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + tensors


VALID = (file_of(json.dumps(HEADER).encode()),)


@st.composite
def mutated_files(draw):
    """Draw files in which the tensors' offsets, the config, the header's length, or any bytes are changed."""
    match draw(st.sampled_from(("header", "config", "config", "length", "bytes", "cut"))):
        case "header":
            few = dict(draw(st.lists(st.sampled_from(sorted(HEADER.items())), max_size=4)))
            data = draw(mutated_json([few, {"__metadata__": HEADER["__metadata__"], **few}]))
            return file_of(data) if draw(st.booleans()) else file_of(json.dumps(HEADER).encode()[:-1] + b"," + data[1:])
        case "config":
            text = draw(mutated_json([CONFIG])).decode("utf-8", "replace")
            return file_of(json.dumps({**HEADER, "__metadata__": {"config": text}}).encode())
        case "length":
            return file_of(json.dumps(HEADER).encode(), draw(st.sampled_from(ODD_NUMBERS) | st.integers(0, 2**64 - 1)))
        case "bytes":
            return draw(mutated_bytes(VALID))
        case _:
            return VALID[0][: draw(st.integers(0, len(VALID[0])))]


@pytest.fixture
def read_file(tmp_path):
    path = tmp_path / "c.safetensors"

    def read(data):
        path.write_bytes(data)
        try:
            read_header(path)
            tensors, _ = load_tensors(path)
            mx.eval(tensors)
            file = open_checkpoint(path)
            load_transformer(file, mx.float32)
            load_vae(file, mx.float32)
            parse_config(SchedulerConfig, file.section("scheduler"), {}, source="the scheduler config")
        except CheckpointError as error:
            return str(error)
        return None

    return read


@pytest.fixture
def read_folder(tmp_path):
    """Read a diffusers folder's configs as `ltx models convert` does."""
    (tmp_path / "transformer").mkdir()
    (tmp_path / "vae").mkdir()

    def read(configs):
        (tmp_path / INDEX).unlink(missing_ok=True)
        for name, data in configs.items():
            (tmp_path / name).write_bytes(data)
        try:
            file = open_checkpoint(tmp_path)
            parse_config(TransformerConfig, file.section("transformer"), {}, source="the transformer config")
            parse_config(VAEConfig, file.section("vae"), {}, source="the VAE config")
        except CheckpointError as error:
            return str(error)
        return None

    return read


DIFFUSERS_TRANSFORMER = {**TRANSFORMER, "patch_size": 1, "patch_size_t": 1, "qk_norm": "rms_norm_across_heads"}
DIFFUSERS_VAE = {
    "latent_channels": 2,
    "patch_size": 4,
    "patch_size_t": 1,
    "encoder_causal": True,
    "decoder_causal": False,
    "block_out_channels": [8, 16],
    "layers_per_block": [1, 1, 1],
    "spatio_temporal_scaling": [True, False],
    "down_block_types": ["LTXVideoDownBlock3D"] * 2,
    "decoder_block_out_channels": [8, 16],
    "decoder_layers_per_block": [1, 1, 1],
    "decoder_spatio_temporal_scaling": [True, True],
    "upsample_factor": [2, 2],
    "upsample_residual": [True, True],
    "decoder_inject_noise": [False] * 3,
}
NAMES = ("transformer/config.json", "vae/config.json")
FOLDER = dict(zip(NAMES, (json.dumps(c).encode() for c in (DIFFUSERS_TRANSFORMER, DIFFUSERS_VAE)), strict=True))
INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"


def folders(draw_from):
    names = st.sampled_from((*NAMES, NAMES[1]))
    index = draw_from[2].map(lambda data: {**FOLDER, INDEX: data})
    changed = st.builds(
        lambda name, one, two: {**FOLDER, name: one if name == NAMES[0] else two}, names, *draw_from[:2]
    )
    return changed | changed | changed | index


def test_files(campaign, read_file):
    odd = odd_bytes() | (odd_json() | odd_bytes()).map(file_of)
    campaign(Kind("checkpoints", read_file, VALID, mutated_files(), odd))


def test_folders(campaign, read_folder):
    index = {"metadata": {"total_size": 3}, "weight_map": {"proj_in.weight": "a.safetensors", "b": "../c.safetensors"}}
    mutated = folders([mutated_json([value]) for value in (DIFFUSERS_TRANSFORMER, DIFFUSERS_VAE, index)])
    odd = folders([odd_json() | odd_bytes()] * 3)
    campaign(Kind("configs of diffusers folders", read_folder, (FOLDER,), mutated, odd))


def test_a_header_that_claims_too_much_takes_no_memory(tmp_path):
    path = tmp_path / "c.safetensors"
    for length in (2**60, 100_000_000, 10**8 + 1):
        path.write_bytes(file_of(b"{}", length))
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_header(path)
