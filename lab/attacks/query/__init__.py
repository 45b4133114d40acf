"""Attackers who see only what a running service answers (T4)."""
