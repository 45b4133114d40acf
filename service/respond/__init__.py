"""Stage respond: the answer, the purified image, what the defence did, and the time it took."""
