"""The causal video VAE: latents ↔ pixels, 32x32 pixels and 8 frames to a latent."""

from ltx_models.vae.model import VAE, VAEConfig, VAEEncoder, check_vae, load_vae, load_vae_encoder, to_floats, to_uint8

__all__ = ["VAE", "VAEConfig", "VAEEncoder", "check_vae", "load_vae", "load_vae_encoder", "to_floats", "to_uint8"]
