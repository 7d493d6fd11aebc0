"""The one exception that a user's own mistake raises."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something the user handed in cannot be used.

    The message is one sentence: what was found, what was expected, what to do. The command
    line prints it and exits with status 2; library callers may catch it as a ``ValueError``.
    """
