"""The one error of the lab that a user is meant to read; the command line prints it bare."""

__all__ = ["LabError"]


class LabError(Exception):
    """Something that the user can put right: a missing folder, package, weight or setting."""
