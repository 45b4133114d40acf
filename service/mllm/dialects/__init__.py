"""The protocols that the embedded model is asked in: one module each."""
