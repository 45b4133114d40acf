"""The diffusion purifier."""
