"""Child processes and the memory they share with the service."""
