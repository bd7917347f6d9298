"""Measure the same parts in diffusers on PyTorch, eager and compiled, for comparison."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from ltx_models.benchmark.measure import Measurement
from ltx_models.families.architectures import Architecture
from ltx_models.ltxv.measured.bench import PROMPT_TOKENS, SMALL
from ltx_models.memory import LatentSize

__all__ = ["compare"]


def compare(model: Architecture, size: LatentSize, runs: int) -> Iterator[Measurement]:
    """Measure diffusers' transformer and decoder with random weights. Raise ImportError without torch or diffusers."""
    import torch
    from diffusers import AutoencoderKLLTXVideo, LTXVideoTransformer3DModel

    on_gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)

    def peak() -> int:
        return int(torch.cuda.max_memory_allocated()) if on_gpu else 0

    def measured(part: str, engine: str, model: Callable[..., Any], inputs: dict[str, Any]) -> Measurement:
        for _ in range(2):
            model(**inputs)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(runs):
            started = time.perf_counter()
            model(**inputs)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        times = [1e3 * value for value in seconds]
        return Measurement(part, statistics.median(times), min(times), runs, peak(), engine=engine)

    transformer: Any = LTXVideoTransformer3DModel(
        in_channels=model.latent_channels,
        out_channels=model.latent_channels,
        num_attention_heads=model.heads,
        attention_head_dim=model.width // model.heads,
        cross_attention_dim=model.width,
        num_layers=model.layers,
        caption_channels=model.caption_channels,
    )
    transformer = transformer.to(device, dtype).eval()

    def inputs(rows: int, size: LatentSize) -> dict[str, Any]:
        return {
            "hidden_states": torch.randn(rows, size.tokens, model.latent_channels, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(
                rows, PROMPT_TOKENS, model.caption_channels, device=device, dtype=dtype
            ),
            "encoder_attention_mask": torch.ones(rows, PROMPT_TOKENS, device=device, dtype=torch.int64),
            "timestep": torch.full((rows,), 700, device=device, dtype=torch.int64),
            "num_frames": size.frames,
            "height": size.height,
            "width": size.width,
            "rope_interpolation_scale": (8 / 25, 32, 32),
            "return_dict": False,
        }

    sizes = [size, SMALL] if size.tokens > SMALL.tokens else [size]
    singles = {f"DiT step, {some.tokens} tokens": inputs(1, some) for some in sizes}
    guided = inputs(3, size)
    with torch.no_grad():
        for step, single in singles.items():
            yield measured(step, "diffusers", transformer, single)
        yield measured(f"DiT step with CFG and STG, {size.tokens} tokens", "diffusers", transformer, guided)
        vae = _decoder(AutoencoderKLLTXVideo, model).to(device, dtype).eval()
        latents = (1, model.latent_channels, size.frames, size.height, size.width)
        decoding = {
            "z": torch.randn(latents, device=device, dtype=dtype),
            "temb": torch.tensor([0.05], device=device, dtype=dtype),
        }
        yield measured("VAE decode", "diffusers", vae.decode, decoding)
        del vae
        transformer.compile_repeated_blocks()
        for step, single in singles.items():
            yield measured(step, "diffusers, blocks compiled", transformer, single)
        compiled: Any = torch.compile(transformer)
        for step, single in singles.items():
            yield measured(step, "diffusers, all compiled", compiled, single)


def _decoder(kind: Any, model: Architecture) -> Any:
    """Return the decoder of 0.9.5 to 0.9.8."""
    levels = list(reversed(model.decoder_levels))
    vae = kind(
        latent_channels=model.latent_channels,
        decoder_block_out_channels=tuple(channels for channels, _ in levels[1:]),
        decoder_layers_per_block=tuple(layers for _, layers in levels),
        decoder_spatio_temporal_scaling=(True,) * (len(levels) - 1),
        decoder_inject_noise=(False,) * len(levels),
        upsample_residual=(True,) * (len(levels) - 1),
        upsample_factor=(2,) * (len(levels) - 1),
        timestep_conditioning=True,
        decoder_causal=False,
    )
    vae.encoder = None
    return vae
