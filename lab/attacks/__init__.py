"""Attacks on a victim's images: a small interface, its algorithms, and what they maximise."""
