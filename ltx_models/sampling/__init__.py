"""From noise to latents: guidance, conditioning, the loop over timesteps."""
