"""Stage queue: a bounded line, and the policy that makes batches of it."""
