"""A user's own pictures in place of the embedded world: found, grouped, split, and told about."""
