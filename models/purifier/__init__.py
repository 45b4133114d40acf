"""The diffusion purifiers: in pixels, and in the latents of an autoencoder."""
