"""Stage admit: authenticate, count, refuse, and read the body within its bounds."""
