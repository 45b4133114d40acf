"""What each noise level, number of steps and training costs, and what it buys."""
