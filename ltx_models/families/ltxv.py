"""The row of LTX-Video 0.9.x, 2B and 13B, and of the bundled model, which is the same made small."""

from __future__ import annotations

from ltx_models.families.family import Component, Family, Layout, Limits, Part, Section
from ltx_models.families.stages import LTXV_STAGES

__all__ = ["FRAME_STRIDE", "LTXV", "SIZE_STRIDE", "TEXT_ENCODER_MATRICES", "TEXT_TOKENS", "TRANSFORMER_MATRICES"]

SIZE_STRIDE = 32
"""Pixels of one latent column or row: the VAE's spatial compression."""
FRAME_STRIDE = 8
"""Frames of one latent frame after the first: the VAE's temporal compression."""
TEXT_TOKENS = 256
"""The number of tokens of a text that the text encoder reads, the end token included."""
TRANSFORMER_MATRICES = r"transformer_blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))"
TEXT_ENCODER_MATRICES = r"encoder\.block\.\d+\.layer\.\d+\.(SelfAttention\.[qkvo]|DenseReluDense\.w(i_0|i_1|o))"

_FOOTPRINT = "ltx_models.ltxv.footprint"
_CONVERSION = "ltx_models.ltxv.conversion"
_NAMES = "ltx_models.ltxv.diffusers_names"

LTXV = Family(
    name="ltxv",
    title="LTX-Video 0.9.x",
    parts=(
        Part(
            name="checkpoint",
            converted="",
            shown_by="transformer.safetensors",
            hashed_as="checkpoint",
            files="ltx_models.checkpoint:checkpoint_files",
            open="ltx_models.checkpoint:open_checkpoint",
            convert=f"{_CONVERSION}:checkpoint",
            check="ltx_models.files.safetensors_header:check_checkpoint",
        ),
        Part(
            name="text_encoder",
            converted="text_encoder",
            shown_by="text_encoder/config.json",
            hashed_as="text_encoder",
            files="ltx_models.text_encoders.t5:text_encoder_files",
            convert=f"{_CONVERSION}:text_encoder",
        ),
        Part(
            name="tokenizer",
            converted="tokenizer/spiece.model",
            shown_by="tokenizer/spiece.model",
            hashed_as="text_encoder",
            files="",
            convert=f"{_CONVERSION}:tokenizer",
            tokenizer="ltx_models.text_encoders.tokenizer:Tokenizer",
        ),
    ),
    components=(
        Component(
            name="vae_encoder",
            title="the VAE's encoder",
            part="checkpoint",
            load="ltx_models.vae:load_vae_encoder",
            weights=f"{_FOOTPRINT}:encoder_weights",
            working=f"{_FOOTPRINT}:encoder_working",
        ),
        Component(
            name="text_encoder",
            title="the text encoder",
            part="text_encoder",
            load="ltx_models.text_encoders.t5:load_text_encoder",
            weights=f"{_FOOTPRINT}:text_encoder_weights",
            working=f"{_FOOTPRINT}:text_encoder_working",
            matrices=TEXT_ENCODER_MATRICES,
            loading=0.0,
            encodes_texts=True,
        ),
        Component(
            name="transformer",
            title="the transformer",
            part="checkpoint",
            load="ltx_models.transformers.ltxv:load_transformer",
            weights=f"{_FOOTPRINT}:transformer_weights",
            working=f"{_FOOTPRINT}:transformer_working",
            matrices=TRANSFORMER_MATRICES,
            loading=0.4,
        ),
        Component(
            name="vae",
            title="the VAE",
            part="checkpoint",
            load="ltx_models.vae:load_vae",
            weights=f"{_FOOTPRINT}:decoder_weights",
            working=f"{_FOOTPRINT}:decoder_working",
            plans=f"{_FOOTPRINT}:all_decode_plans",
            loading=0.8,
        ),
    ),
    unloading=("text_encoder", "vae_encoder", "vae", "transformer"),
    stages=LTXV_STAGES,
    limits=Limits(
        size_stride=SIZE_STRIDE,
        max_size=2_048,
        frame_stride=FRAME_STRIDE,
        max_frames=513,
        text_tokens=TEXT_TOKENS,
        perturbing=("attention_values", "attention_skip", "transformer_block", "residual"),
    ),
    pipeline="ltx_models.pipeline.text_to_video:LTXPipeline",
    layout=Layout(
        sections=(
            Section(
                name="transformer",
                title="a transformer",
                prefixes=("model.diffusion_model.", "diffusion_model.", "transformer.", ""),
                files=("transformer.safetensors",),
                contains="transformer_blocks.",
                rename=f"{_NAMES}:rename_transformer",
                matrices=TRANSFORMER_MATRICES,
            ),
            Section(
                name="vae",
                title="a VAE",
                prefixes=("vae.",),
                files=("vae.safetensors", "vae_decoder.safetensors"),
                config="vae_config.json",
                contains="conv",
                rename=f"{_NAMES}:rename_vae",
                complete=f"{_NAMES}:name_decoder",
            ),
        ),
        shared_file="vae_file",
        diffusers_class="LTXVideoTransformer3DModel",
        classes=("Transformer3DModel",),
        official_config=f"{_NAMES}:official_config",
        prefix_of="ltx_models.files.file_kinds:transformer_prefix",
        title="LTX-Video 0.9.x",
    ),
    benchmark="ltx_models.ltxv.measured.bench:LTXVBench",
    compared="ltx_models.ltxv.measured.parts:COMPARED",
)
"""LTX-Video 0.9.x."""
