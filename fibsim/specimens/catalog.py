"""The kinds of specimen by name, and their checked construction."""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fibsim.errors import InputError
from fibsim.specimens.boolean import boolean_fibres, boolean_spheres, check_fibres, check_spheres
from fibsim.specimens.hierarchical import check_hierarchical, hierarchical_waves
from fibsim.specimens.levelling import concrete, open_box
from fibsim.specimens.specimen import Specimen, voxel_size
from fibsim.specimens.tpms import check_gyroid, gyroid
from fibsim.specimens.waves import check_waves, levelled_waves

__all__ = ["KINDS", "Kind", "draw", "make"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of specimen.

    Attributes:
        generate: ``(*, key, shape, voxel_nm, box, **parameters, **options) -> solid``.
        check: rejects parameters that the grid cannot carry, called with the same arguments.
        parameters: numbers with their defaults; may be traced and, but for the rounding of a
            periodic gyroid's cell, differentiated. Names end in ``fraction`` (inside (0, 1)),
            ``nm`` (positive), anything else is dimensionless (not negative).
        options: static choices with their defaults.
        features: lengths that set the margin of a non-periodic specimen, with the multiple of
            each over which the structure forgets itself.
        guessed: what a fit starts from: lengths as multiples of the half width of the
            autocorrelation, numbers without unit as they are.
    """

    generate: Callable[..., Array]
    check: Callable[..., None]
    parameters: Mapping[str, float]
    options: Mapping[str, Any]
    features: Mapping[str, float]
    guessed: Mapping[str, float]

    def guess(self, feature_nm: float, solid_fraction: float) -> dict[str, float]:
        """Parameters of a structure whose autocorrelation falls to half at ``feature_nm``.

        Where a kind has several fractions, their product is the solid fraction; all are alike.
        """
        fractions = [name for name in self.parameters if name.endswith("fraction")]
        each = solid_fraction ** (1 / len(fractions))
        units = {name: feature_nm if name.endswith("nm") else 1.0 for name in self.guessed}
        sizes = {name: factor * units[name] for name, factor in self.guessed.items()}
        own = dict.fromkeys(fractions, each) | sizes
        return {name: own[name] for name in self.parameters if name in own}


def _kind(**kwargs) -> Kind:
    frozen = {k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in kwargs.items()}
    return Kind(**frozen)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "waves": _kind(
            generate=levelled_waves,
            check=check_waves,
            parameters=dict(solid_fraction=0.35, ligament_nm=50.0, bandwidth=0.1),
            options=dict(exact=True),
            features=dict(ligament_nm=2.0),
            guessed=dict(ligament_nm=2.5),
        ),
        "hierarchical": _kind(
            generate=hierarchical_waves,
            check=check_hierarchical,
            parameters=dict(
                upper_fraction=0.5,
                upper_ligament_nm=100.0,
                lower_fraction=0.5,
                lower_ligament_nm=20.0,
                bandwidth=0.1,
            ),
            options=dict(exact=True),
            features=dict(upper_ligament_nm=2.0, lower_ligament_nm=2.0),
            guessed=dict(upper_ligament_nm=10.0, lower_ligament_nm=2.0),
        ),
        "spheres": _kind(
            generate=boolean_spheres,
            check=check_spheres,
            parameters=dict(solid_fraction=0.4, radius_nm=50.0, radius_sd=0.0),
            options=dict(num=4096, invert=False),
            features=dict(radius_nm=2.5),
            guessed=dict(radius_nm=1.1, radius_sd=0.4),
        ),
        "fibres": _kind(
            generate=boolean_fibres,
            check=check_fibres,
            parameters=dict(solid_fraction=0.2, radius_nm=20.0, radius_sd=0.0, depth_stretch=1.0),
            options=dict(num=2048),
            features=dict(radius_nm=2.5),
            guessed=dict(radius_nm=1.0),
        ),
        "gyroid": _kind(
            generate=gyroid,
            check=check_gyroid,
            parameters=dict(solid_fraction=0.4, cell_nm=100.0),
            options=dict(form="network"),
            features={},
            guessed=dict(cell_nm=6.4),
        ),
    }
)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"expected one of {', '.join(known)}{hint}"


def _find(kind: str) -> Kind:
    if kind not in KINDS:
        raise InputError(f"specimen kind {kind!r} is unknown, {_nearest(kind, list(KINDS))}")
    return KINDS[kind]


def _sort(kind: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers and static options, defaults filled in, names and ranges checked."""
    found = _find(kind)
    known = [*found.parameters, *found.options]
    for name in given:
        if name not in known:
            raise InputError(f"{kind} has no parameter {name!r}, {_nearest(name, known)}")
    numbers = {name: given.get(name, default) for name, default in found.parameters.items()}
    options = {name: given.get(name, default) for name, default in found.options.items()}
    for name, value in numbers.items():
        _check_range(name, value)
    for name, default in found.options.items():
        _check_option(name, options[name], type(default))
    return numbers, options


def _check_option(name: str, value, expected: type) -> None:
    good = isinstance(value, expected) and (expected is not int or value >= 1)
    if not good or (expected is int and isinstance(value, bool)):
        words = {bool: "True or False", int: "a whole number of at least 1", str: "a word"}
        raise InputError(f"{name} is {value!r}, expected {words[expected]}.")


def _check_range(name: str, value) -> None:
    try:
        number = concrete(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}, expected one number.") from None
    if number is None:
        return
    if name.endswith("fraction"):
        good, expected = 0 < number < 1, "a fraction between 0 and 1, both excluded"
    elif name.endswith("nm") or name == "bandwidth":
        good, expected = 0 < number < float("inf"), "a positive number"
    else:
        good, expected = 0 <= number < float("inf"), "a number that is not negative"
    if not good:
        raise InputError(f"{name} is {number:g}, expected {expected}.")


def _box(
    kind: Kind,
    numbers: Mapping[str, Any],
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    periodic: bool,
) -> tuple[int, int, int]:
    if periodic:
        return shape
    lengths = [numbers[name] for name in kind.features]
    if any(concrete(v) is None for v in lengths):
        return open_box(shape, voxel_nm)
    multiples = kind.features.values()
    return open_box(
        shape, voxel_nm, *[float(v) * m for v, m in zip(lengths, multiples, strict=True)]
    )


def _shape(shape: Sequence[int]) -> tuple[int, int, int]:
    try:
        sizes = tuple(int(n) for n in shape)
        good = len(sizes) == 3 and all(n == m and n >= 1 for n, m in zip(sizes, shape, strict=True))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"shape is {shape!r}, expected three whole numbers (z, y, x) of at least 1."
        )
    return sizes


def draw(
    kind: str,
    *,
    key: Array,
    shape: tuple[int, int, int],
    voxel_nm: tuple[float, float, float],
    periodic: bool = True,
    **parameters,
) -> Float[Array, "z y x"]:
    """Solid fraction of a random specimen; the traceable core of `make`.

    Args:
        kind: a name in `KINDS`, static.
        key: random key.
        shape, voxel_nm: grid (z, y, x), static.
        periodic: False draws in a larger box and cuts out ``shape``; static.
        parameters: those of the kind; its numbers may be traced, its options are static.

    Raises:
        InputError: unknown names; values out of range where they are known.
    """
    found = _find(kind)
    numbers, options = _sort(kind, parameters)
    shape, voxel_nm = _shape(shape), voxel_size(voxel_nm)
    box = _box(found, numbers, shape, voxel_nm, periodic)
    return found.generate(key=key, shape=shape, voxel_nm=voxel_nm, box=box, **numbers, **options)


@functools.partial(jax.jit, static_argnames=("kind", "shape", "voxel_nm", "box", "options"))
def _generate(numbers, *, key, kind, shape, voxel_nm, box, options) -> Array:
    return KINDS[kind].generate(
        key=key, shape=shape, voxel_nm=voxel_nm, box=box, **numbers, **dict(options)
    )


def make(
    kind: str,
    *,
    key: Array,
    shape: Sequence[int],
    voxel_nm: float | Sequence[float],
    periodic: bool = True,
    **parameters,
) -> Specimen:
    """A random specimen of a kind, every input checked.

    Compiled once for each kind, grid and choice of options, whatever the numbers (but a
    non-periodic specimen's box, hence its compilation, depends on its largest length).

    Args:
        kind: "waves", "hierarchical", "spheres", "fibres" or "gyroid" (`KINDS`).
        key: random key; the same key and parameters give the same specimen.
        shape: voxels (z, y, x).
        voxel_nm: voxel size (z, y, x), or one number for cubes.
        periodic: whether opposite faces fit together. False cuts the specimen out of a larger
            one; the fraction asked for is that of the part cut out.
        parameters: those of the kind, see its generator; defaults in ``KINDS[kind]``.

    Raises:
        InputError: unknown kind or parameter (the nearest name is suggested), sizes that are not
            positive, fractions outside (0, 1), sizes that the grid cannot carry.
    """
    found = _find(kind)
    numbers, options = _sort(kind, parameters)
    shape, voxel_nm = _shape(shape), voxel_size(voxel_nm)
    box = _box(found, numbers, shape, voxel_nm, periodic)
    found.check(shape=shape, box=box, voxel_nm=voxel_nm, **numbers, **options)
    solid = _generate(
        {k: jnp.asarray(v, jnp.result_type(float, v)) for k, v in numbers.items()},
        key=key,
        kind=kind,
        shape=shape,
        voxel_nm=voxel_nm,
        box=box,
        options=tuple(sorted(options.items())),
    )
    return Specimen(solid=solid, voxel_nm=voxel_nm, periodic=bool(periodic))
