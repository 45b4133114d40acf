"""Prompt templates, which go around a question; an optimised one is still to come."""
