"""Reads pictures of text as a machine does, and counts the characters that it got wrong."""
