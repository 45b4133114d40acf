"""Stage purify: one worker process per device runs batches through the purifier."""
