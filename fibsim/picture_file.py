"""Pictures beside a command's results, where matplotlib is there to draw them."""

from collections.abc import Callable
from pathlib import Path

from fibsim import io

__all__ = ["write_picture"]


def write_picture(
    path: Path, draw: Callable[[Path], None], *, announce: Callable[[str], None]
) -> bool:
    """Let ``draw`` write a file that takes its place when whole; says so where it cannot.

    Returns:
        Whether it was drawn.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        announce("matplotlib is not installed: the picture was left out")
        return False
    with io.atomic_path(path) as temporary:
        draw(temporary)
    return True
