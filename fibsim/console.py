"""What both command lines share: options of a stack, progress, and errors as one sentence."""

import dataclasses
import difflib
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fibsim.errors import InputError

__all__ = [
    "ImageOptions",
    "StackOptions",
    "announce",
    "progress_bar",
    "run_command",
    "use_compilation_cache",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What is known of a stack's images; each overrides stack.yaml, headers and file names."""

    pixel_nm: float | None = None
    """Side of a pixel in nm."""
    slice_nm: float | None = None
    """Slice thickness in nm."""
    beam_kev: tuple[float, ...] = ()
    """Beam energy of every channel in keV."""
    detector: tuple[str, ...] = ()
    """Detector of every channel: SE or BSE."""
    channels: tuple[str, ...] = ()
    """Names of the channel files to use."""

    def overrides(self) -> dict:
        """The options that were given."""
        given = dataclasses.asdict(self)
        return {k: (list(v) if isinstance(v, tuple) else v) for k, v in given.items()
                if v is not None and v != ()}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackOptions(ImageOptions):
    """What is known of a stack; each overrides stack.yaml, headers and file names."""

    tilt_deg: float | None = None
    """Angle between beam and slice normal in degrees (38 on a 52-degree machine, 0 on an
    orthogonal one); estimated if nothing states it."""
    material: str | None = None
    """Solid, for example Au, Ni, ZrO2 (default Au), or an .npz that fibsim calibrate wrote."""
    pores: str | None = None
    """Material that fills the pores, for example resin or an .npz (default: they are open)."""
    specimen: str | None = None
    """Kind of structure: waves, hierarchical, spheres, fibres, gyroid; chosen if not given."""


Options = Annotated[StackOptions, tyro.conf.OmitArgPrefixes]
OptionsOfImages = Annotated[ImageOptions, tyro.conf.OmitArgPrefixes]


def announce(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def progress_bar(stage: str, *, compiles: bool = True) -> Callable[[int, int, str], None]:
    """A callback (done, total, text) that shows a bar; the first call takes the compilation."""
    from tqdm import tqdm

    started = time.perf_counter()
    state: dict = {"bar": None, "last": 0}
    if compiles:
        announce(f"{stage}: compiling (up to a minute the first time, seconds later)")

    def show(done: int, total: int, text: str) -> None:
        bar = state["bar"]
        if bar is None or done <= state["last"] or total != bar.total:
            if bar is None and compiles:
                announce(f"{stage}: compiled in {time.perf_counter() - started:.0f} s")
            if bar is not None:
                bar.close()
            bar = state["bar"] = tqdm(total=total, desc=stage, mininterval=1.0, initial=done - 1)
        bar.set_postfix_str(text, refresh=False)
        bar.update(done - bar.n)
        state["last"] = done
        if done == total:
            bar.close()

    return show


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache folder.

    ``FIBSIM_CACHE`` names another folder; empty turns the cache off.
    """
    import jax

    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "fibsim"
    folder = os.environ.get("FIBSIM_CACHE", str(default))
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _option_names(command: type) -> list[str]:
    """Long options of a command's dataclass, those of nested option groups included."""
    names = []
    for field in dataclasses.fields(command):
        if dataclasses.is_dataclass(field.default_factory):
            names += _option_names(field.default_factory)
        else:
            names.append("--" + field.name.replace("_", "-"))
    return names


def _check_names(commands: dict[str, type], argv: Sequence[str]) -> None:
    """Refuse unknown commands and options in one sentence, before tyro prints its page.

    Raises:
        InputError: with the nearest known name.
    """
    if not argv or argv[0].startswith("-"):
        return
    if argv[0] not in commands:
        near = difflib.get_close_matches(argv[0], commands, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(commands)}."
        raise InputError(f"unknown command {argv[0]}; {hint}")
    known = [*_option_names(commands[argv[0]]), "--help"]
    for word in argv[1:]:
        name = word.split("=")[0].replace("_", "-")
        if word.startswith("--") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else "see --help."
            raise InputError(f"unknown option {word.split('=')[0]} of {argv[0]}; {hint}")


def _use_large_pages() -> None:
    """Begin the process anew with large memory pages, where that was not decided by the user.

    Large arrays come and go in every step, and first touching their memory in pages of 4 kB costs
    up to half the time. glibc (2.35 or later; others ignore it) reads this setting once, as the
    process starts.
    """
    if sys.platform == "linux" and sys.executable and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_command(
    program: str, commands: dict[str, type], description: str, argv: Sequence[str] | None
) -> int:
    """Parse the command line, run the command, and turn `InputError` into status 2.

    ``commands`` maps names to dataclasses whose fields are options and whose ``run`` does the
    work. It may return a status of its own.
    """
    if argv is None:
        _use_large_pages()
    words = list(sys.argv[1:] if argv is None else argv)
    # Orbax reports harmless details of its storage format through absl.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        _check_names(commands, words)
        parsed = tyro.extras.subcommand_cli_from_dict(
            commands, prog=program, description=description, args=words, sort_subcommands=False
        )
        status = parsed.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; call again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output (head, less) has gone; what is left to flush goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{name}; choose another place.", file=sys.stderr)
        return 2
    return int(status or 0)
