"""Defensive prompts."""
