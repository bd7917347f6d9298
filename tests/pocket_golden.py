"""Make tests/data/pocket again for a new bundled model: `python -m tests.pocket_golden`; needs the extra `train`.

golden.safetensors: one render in float32 on the CPU by diffusers' and transformers' models, from the bundled files: its
noise, the caption's embeddings, latents, pixels as round(65535 x). prompts.json: 24 held-out captions.
"""

import json
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.numpy import save_file

from ltx_models.pocket.scores import held_out_captions
from ltx_models.pocket.train.data import token_ids, tokenizer_file
from ltx_models.pocket.train.export import load
from ltx_models.pocket.train.latents import decode
from ltx_models.pocket.train.models import PADDING
from ltx_models.pocket.train.optimization.recipe import GUIDANCE, POCKET, Bucket
from ltx_models.pocket.train.sample import Prompts, euler, uniform_timesteps
from ltx_models.text_encoders.tokenizer import Tokenizer

PACKAGE = Path(__file__).parents[1] / "ltx_models" / "pocket"
DATA = Path(__file__).parent / "data" / "pocket"
CAPTIONS = 24
STEPS, FRAME_RATE = 8, 12.0
BUCKET = Bucket(25, 128, 128)


@click.command()
@click.option("--weights", type=click.Path(path_type=Path, exists=True, file_okay=False), default=PACKAGE)
@click.option("--to", "folder", type=click.Path(path_type=Path), default=DATA)
def main(weights: Path, folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = [text for _, text in held_out_captions(CAPTIONS)]
    (folder / "prompts.json").write_text(json.dumps(captions, indent=0) + "\n", encoding="utf-8")

    vae, denoiser = load(weights, POCKET.sizes)
    tokenizer = Tokenizer(tokenizer_file())
    prompts = Prompts.of(denoiser, token_ids(captions[:1], tokenizer), token_ids([""], tokenizer))
    shape = (1, POCKET.sizes.latent_channels, *BUCKET.latent)
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    latents = euler(
        denoiser,
        torch.from_numpy(noise).flatten(2).transpose(1, 2),
        prompts,
        uniform_timesteps(STEPS),
        guidance=GUIDANCE,
        size=BUCKET.latent,
        frame_rate=FRAME_RATE,
    )
    real = int((prompts.ids != PADDING).sum())
    arrays = {
        "noise": noise,
        "prompt_embeds": prompts.embeddings[:, :real].numpy().copy(),
        "latents": latents.transpose(1, 2).unflatten(2, BUCKET.latent).contiguous().numpy(),
        "pixels": np.round(decode(vae, latents, BUCKET).numpy() * 65535).astype(np.uint16),
    }
    settings = {
        "prompt": captions[0],
        "negative_prompt": "",
        "width": BUCKET.width,
        "height": BUCKET.height,
        "num_frames": BUCKET.frames,
        "fps": FRAME_RATE,
        "steps": STEPS,
        "guidance": GUIDANCE,
    }
    save_file(arrays, folder / "golden.safetensors", {name: str(value) for name, value in settings.items()})
    click.echo(folder)


if __name__ == "__main__":
    main()
