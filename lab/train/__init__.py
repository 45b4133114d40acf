"""Training of everything that ships: the embedded MLLM, the base diffusion model, the purifier."""
