"""The causal video VAE: latents ↔ pixels, 32x32 pixels and 8 frames to a latent."""

from ltx_models.vae.model import VAE, VAEConfig, load_vae

__all__ = ["VAE", "VAEConfig", "load_vae"]
