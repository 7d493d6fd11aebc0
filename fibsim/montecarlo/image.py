"""Whole images by Monte Carlo: batches of pixels through the transport kernel."""

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fibsim.errors import InputError
from fibsim.materials import Composition
from fibsim.montecarlo.detectors import Detector, detector, detector_windows
from fibsim.montecarlo.random_bits import seed_lanes
from fibsim.montecarlo.scattering import transport_tables
from fibsim.montecarlo.scene import check_phases, make_scene
from fibsim.montecarlo.transport import Beam, transport
from fibsim.threads import available_cores

__all__ = ["Yields", "bulk_yields", "film_yields", "image_yields"]

# Lanes per batch. On a CPU they advance in blocks, at least this many at a time.
_LANES_CPU = 16384
_LANES_ACCELERATOR = 1 << 18
_LEAST_LANES = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yields:
    """Electrons counted per beam electron.

    Attributes:
        mean: ``(detector, face, y, x)``, or ``(detector,)`` for flat specimens.
        error: standard error of the mean from the spread between electrons, same shape. Where
            all electrons did the same it is 0, however few they were.
        detectors: what was counted.
        electrons: beam electrons per pixel.
        steps: steps of all electrons, a measure of the work.
    """

    mean: np.ndarray
    error: np.ndarray
    detectors: tuple[Detector, ...]
    electrons: int
    steps: int


def _statistics(total: np.ndarray, squares: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0) * count / max(count - 1, 1)
    return mean, np.sqrt(variance / count)


def _check_beam(beam_kev: float, tilt_deg: float, electrons: int) -> None:
    if not 0.1 <= beam_kev <= 30:
        raise InputError(f"beam energy is {beam_kev:g} keV, expected 0.1 to 30.")
    if not -80 <= tilt_deg <= 80:
        raise InputError(f"tilt is {tilt_deg:g} degrees, expected -80 to 80.")
    if electrons < 1:
        raise InputError(f"electrons per pixel is {electrons}, expected at least 1.")


def _named(detectors: Sequence[str | Detector]) -> tuple[Detector, ...]:
    return tuple(detector(d) if isinstance(d, str) else d for d in detectors)


def image_yields(
    phases: np.ndarray,
    materials: Sequence[Composition | None],
    *,
    voxel_nm: tuple[float, float, float],
    beam_kev: float,
    faces_nm: Sequence[float],
    pixel_nm: float,
    electrons: int,
    key: jax.Array,
    tilt_deg: float = 0.0,
    probe_nm: float = 1.5,
    detectors: Sequence[str | Detector] = ("SE", "BSE"),
    periodic: bool = True,
    open_below: bool = False,
    elastic: str = "mott",
    fast_secondaries: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Yields:
    """Image milled faces of a voxel specimen electron by electron.

    Args:
        phases: index into ``materials`` per voxel, ``(z, y, x)``.
        materials: composition of every phase; None is vacuum.
        faces_nm: depths of the faces; what lies above a face is milled away.
        pixel_nm: side of a pixel. Pixel (0, 0) covers the specimen's corner.
        electrons: beam electrons per pixel.
        tilt_deg: angle of the beam to the faces' normal, leaning towards +y.
        detectors: names (see `detectors.detector`) or `Detector` objects.
        open_below: vacuum below the specimen; otherwise its lowest layer goes on.
        elastic: ``"mott"`` or ``"browning"``.
        fast_secondaries: whether electrons that are knocked on with more than 50 eV, and Auger
            electrons, are followed, too, and count as BSE where they leave above 50 eV, as in
            measurements (`fast_secondaries`). Takes two to three times as long, and up to
            twice the electrons for the same error.
        progress: called with (pixels done, all pixels).

    Memory holds the specimen (2 bytes a voxel), the result, and one batch per core.

    Raises:
        InputError: values out of range, phases without material, a face outside the specimen.
    """
    _check_beam(beam_kev, tilt_deg, electrons)
    chosen = _named(detectors)
    windows = detector_windows(chosen, beam_kev)
    tables = transport_tables(tuple(materials), elastic=elastic, fast_secondaries=fast_secondaries)
    phases = check_phases(phases)
    if np.max(phases) >= len(materials):
        raise InputError(
            f"the specimen has phase {int(np.max(phases))} but {len(materials)} materials were "
            "given; give one material (or vacuum) per phase index, beginning with 0."
        )
    depth = phases.shape[0] * voxel_nm[0]
    if any(not 0 <= f < depth for f in faces_nm):
        raise InputError(f"faces lie at {list(faces_nm)} nm, expected 0 to below {depth:g} nm.")
    height = math.floor(phases.shape[1] * voxel_nm[1] / pixel_nm + 1e-6)
    width = math.floor(phases.shape[2] * voxel_nm[2] / pixel_nm + 1e-6)
    if min(height, width) < 1:
        raise InputError(f"a pixel of {pixel_nm:g} nm is wider than the specimen.")
    scene = make_scene(phases, voxel_nm, periodic=periodic, open_below=open_below)
    y, x = np.meshgrid((np.arange(height) + 0.5) * pixel_nm, (np.arange(width) + 0.5) * pixel_nm,
                       indexing="ij")  # fmt: skip
    shape = (len(faces_nm), height, width)
    entry = np.stack(
        [np.broadcast_to(y, shape), np.broadcast_to(x, shape),
         np.broadcast_to(np.asarray(faces_nm, float)[:, None, None], shape)]
    ).reshape(3, -1).astype(np.float32)  # fmt: skip
    total, squares, steps = _run(
        entry, scene, tables, windows, beam_kev, pixel_nm, probe_nm, tilt_deg, electrons, key,
        progress,
    )  # fmt: skip
    mean, error = _statistics(total, squares, electrons)
    return Yields(
        mean=mean.reshape(len(chosen), *shape),
        error=error.reshape(len(chosen), *shape),
        detectors=chosen,
        electrons=electrons,
        steps=steps,
    )


def _run(entry, scene, tables, windows, beam_kev, pixel_nm, probe_nm, tilt_deg, electrons, key,
         progress):  # fmt: skip
    """Sums over the electrons of every pixel; batches run side by side, one per core or device."""
    pixels = entry.shape[1]
    cpu = jax.default_backend() == "cpu"
    devices = jax.local_devices()
    workers = max(len(devices), available_cores()) if cpu else len(devices)
    share = max(math.ceil(pixels / workers), min(_LEAST_LANES, pixels))  # work for every core
    lanes = min(_LANES_CPU if cpu else _LANES_ACCELERATOR, share)
    starts = list(range(0, pixels, lanes))
    # Seeds belong to pixels, so that the batches a machine makes do not change the result.
    seeds = np.stack(seed_lanes(key, pixels))
    total = np.zeros((windows.kind.shape[0], pixels), np.float32)
    squares = np.zeros_like(total)

    def scalar(value):
        return jnp.asarray(value, jnp.float32)

    def batch(number):
        start = starts[number]
        part = entry[:, start : start + lanes]
        # The last batch repeats its last pixel, so that one compiled program serves all.
        pad = ((0, 0), (0, lanes - part.shape[1]))
        filled = np.pad(part, pad, mode="edge")
        words = np.pad(seeds[:, start : start + lanes], pad)
        beam = Beam(
            y_nm=jnp.asarray(filled[0]),
            x_nm=jnp.asarray(filled[1]),
            face_nm=jnp.asarray(filled[2]),
            energy_kev=scalar(beam_kev),
            pixel_nm=scalar(pixel_nm),
            probe_nm=scalar(probe_nm),
            tilt=scalar(np.deg2rad(tilt_deg)),
        )
        with jax.default_device(devices[number % len(devices)]):
            tally = transport(
                scene,
                tables,
                windows,
                beam,
                keys=tuple(jnp.asarray(word) for word in words),
                electrons=electrons,
            )
        size = part.shape[1]
        total[:, start : start + size] = np.asarray(tally.total)[:, :size]
        squares[:, start : start + size] = np.asarray(tally.squares)[:, :size]
        return size, int(tally.steps)

    done, steps = 0, 0
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for size, taken in pool.map(batch, range(len(starts))):
            done, steps = done + size, steps + taken
            if progress is not None:
                progress(done, pixels)
    return total, squares, steps


def _flat(
    scene, materials, beam_kev, tilt_deg, electrons, key, detectors, elastic, fast_secondaries
):
    _check_beam(beam_kev, tilt_deg, electrons)
    chosen = _named(detectors)
    cpu = jax.default_backend() == "cpu"
    lanes = min(electrons, _LEAST_LANES if cpu else _LANES_ACCELERATOR)
    each = math.ceil(electrons / lanes)
    tables = transport_tables(materials, elastic=elastic, fast_secondaries=fast_secondaries)
    total, squares, steps = _run(
        np.zeros((3, lanes), np.float32), scene, tables,
        detector_windows(chosen, beam_kev), beam_kev, 1.0, 0.0, tilt_deg, each, key, None,
    )  # fmt: skip
    mean, error = _statistics(total.sum(1), squares.sum(1), lanes * each)
    return Yields(mean=mean, error=error, detectors=chosen, electrons=lanes * each, steps=steps)


def bulk_yields(
    solid: Composition,
    *,
    beam_kev: float,
    electrons: int,
    key: jax.Array,
    tilt_deg: float = 0.0,
    detectors: Sequence[str | Detector] = ("SE", "BSE"),
    elastic: str = "mott",
    fast_secondaries: bool = False,
) -> Yields:
    """Yields of a flat half-space; arguments as for `image_yields`."""
    scene = make_scene(np.ones((1, 1, 1), np.uint8), (1e4, 1e4, 1e4), periodic=True)
    return _flat(
        scene, (None, solid), beam_kev, tilt_deg, electrons, key, detectors, elastic,
        fast_secondaries,
    )  # fmt: skip


def film_yields(
    solid: Composition,
    thickness_nm: float,
    *,
    beam_kev: float,
    electrons: int,
    key: jax.Array,
    gap_nm: float | None = None,
    tilt_deg: float = 0.0,
    detectors: Sequence[str | Detector] = ("BSE", "transmitted"),
    elastic: str = "mott",
    fast_secondaries: bool = False,
) -> Yields:
    """Yields of an endless film, free-standing or ``gap_nm`` above a half-space of the same.

    Raises:
        InputError: a thickness that is not positive.
    """
    if thickness_nm <= 0 or (gap_nm is not None and gap_nm <= 0):
        raise InputError(f"film of {thickness_nm} nm, gap {gap_nm} nm: expected positive numbers.")
    # Voxels an eighth of the thinnest part, so that the borders are exact.
    layers = [1] * 8 if gap_nm is None else None
    if layers is not None:
        voxel = thickness_nm / 8
    else:
        voxel = math.gcd(round(thickness_nm * 8), round(gap_nm * 8)) / 8
        layers = [1] * round(thickness_nm / voxel) + [0] * round(gap_nm / voxel) + [1]
    phases = np.asarray(layers, np.uint8)[:, None, None]
    scene = make_scene(phases, (voxel, 1e4, 1e4), periodic=True, open_below=gap_nm is None)
    return _flat(
        scene, (None, solid), beam_kev, tilt_deg, electrons, key, detectors, elastic,
        fast_secondaries,
    )  # fmt: skip
