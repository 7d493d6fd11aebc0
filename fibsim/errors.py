"""The one exception that a user's own mistake raises, and a word of its sentences."""

__all__ = ["InputError", "counted"]


class InputError(ValueError):
    """Something the user handed in cannot be used.

    The message is one sentence: what was found, what was expected, what to do. The command
    line prints it and exits with status 2; library callers may catch it as a ``ValueError``.
    """


def counted(number: int, noun: str) -> str:
    """``1 slice``, ``2 slices``."""
    return f"{number} {noun}" + "s" * (number != 1)
