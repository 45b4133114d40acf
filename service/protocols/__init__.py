"""The protocols that clients speak: one module each, and what all of them are described by."""
