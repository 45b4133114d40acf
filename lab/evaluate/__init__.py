"""What withstands what: attacked images, defended answers, scored with intervals, in one report."""
