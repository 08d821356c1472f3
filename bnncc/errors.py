"""The errors that a user of bnncc can cause."""


class BnnccError(Exception):
    """Base of every error that a user can cause."""


class BadInput(BnnccError):
    """A file, argument or model that cannot be used; one line that names file, node and cause (exit status 2)."""


class GateFailed(BnnccError):
    """A requested gate or the verification did not hold (exit status 1)."""
