"""What is learned: definitions, formats and weights."""
