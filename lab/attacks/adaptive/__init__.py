"""Attackers who know of a defence: through one of their own (T1), or the deployed one (T2)."""
