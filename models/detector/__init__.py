"""The detector: how much an upload looks attacked, by what the purifier took out of it."""
