"""Defensive prompts: searched for, compared with hand-written ones, and measured."""
