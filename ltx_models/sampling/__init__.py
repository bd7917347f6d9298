"""Turn noise into latents: guidance, conditioning, the loop over timesteps."""
