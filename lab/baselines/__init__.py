"""Defences to compare with, each with the grid that its best setting is chosen from."""
