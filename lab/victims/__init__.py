"""Models that are attacked and questioned: loading, differentiable preprocessing, generation."""
