"""Offline: data, attacks, training, evaluation."""
