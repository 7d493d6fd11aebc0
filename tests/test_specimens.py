"""Virtual structures: what was asked for is what is there, and it can be differentiated."""

import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import edt
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from fibsim import io
from fibsim.errors import InputError
from fibsim.specimens import (
    KINDS,
    Specimen,
    boolean_spheres,
    draw,
    make,
    make_specimen,
    open_box,
    porosity,
    resample,
    specimen_from_file,
)
from fibsim.specimens.catalog import _generate
from fibsim.specimens.from_file import solid_fraction_of
from fibsim.specimens.grains import cover, log_normal, offsets_nm, side_lengths
from fibsim.specimens.levelling import cut_fraction, fft_size
from fibsim.specimens.waves import field_spread, gaussian_waves, wave_number

SHAPE, VOXEL = (32, 64, 64), (8.0, 4.0, 4.0)  # 256 nm wide
SMALL = {
    "waves": dict(ligament_nm=30.0),
    "hierarchical": dict(upper_ligament_nm=48.0, lower_ligament_nm=18.0),
    "spheres": dict(radius_nm=22.0),
    "fibres": dict(radius_nm=14.0),
    "gyroid": dict(cell_nm=85.3),
}


def fraction_of(kind: str, phi: float) -> dict[str, float]:
    """Parameters that make a total fraction of phi."""
    if kind == "hierarchical":
        return dict(upper_fraction=phi**0.4, lower_fraction=phi**0.6)
    return dict(solid_fraction=phi)


def specimen_of(kind: str, *, seed: int = 0, phi: float = 0.35, periodic: bool = True, **more):
    parameters = {**SMALL[kind], **fraction_of(kind, phi), **more}
    return make(
        kind,
        key=jax.random.key(seed),
        shape=SHAPE,
        voxel_nm=VOXEL,
        periodic=periodic,
        **parameters,
    )


# ------------------------------------------------------------------ what every kind promises


@pytest.mark.parametrize("kind", list(KINDS))
def test_realised_fraction_is_the_one_asked_for(kind):
    for phi in (0.15, 0.35, 0.6):
        solid = np.asarray(specimen_of(kind, phi=phi).solid)
        assert solid.shape == SHAPE
        assert solid.dtype == np.float32
        assert solid.min() >= 0 and solid.max() <= 1
        assert abs(solid.mean() - phi) < 0.005
        assert 0 < np.mean((solid > 0.01) & (solid < 0.99)) < 0.8  # cut voxels are anti-aliased


@pytest.mark.parametrize("kind", list(KINDS))
def test_faces_match_only_where_the_specimen_is_periodic(kind):
    def seam(solid: np.ndarray, axis: int) -> float:
        """Change across the wrap relative to the change between neighbours inside."""
        inside = np.abs(np.diff(solid, axis=axis)).mean()
        return np.abs(solid.take(0, axis) - solid.take(-1, axis)).mean() / inside

    closed, cut = specimen_of(kind), specimen_of(kind, periodic=False)
    assert closed.periodic and not cut.periodic
    assert abs(float(porosity(cut)) - 0.65) < 0.005
    for axis in range(3):
        assert seam(np.asarray(closed.solid), axis) < 1.4
        assert seam(np.asarray(cut.solid), axis) > 1.7


@pytest.mark.parametrize("kind", list(KINDS))
def test_key_alone_decides(kind):
    first, same, other = (np.asarray(specimen_of(kind, seed=s).solid) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).mean() > 0.1


@pytest.mark.parametrize("kind", list(KINDS))
def test_traced_parameters_compile_once_and_stay_finite(kind):
    specimen_of(kind)
    compiled = _generate._cache_size()
    options = tuple(sorted(KINDS[kind].options.items()))
    # Sizes from half a voxel to more than the box: a fit may pass through them on its way.
    for seed, (phi, size) in enumerate([(0.02, 2.0), (0.4, 15.0), (0.98, 400.0)]):
        numbers = dict(KINDS[kind].parameters)
        for name in numbers:
            if name.endswith(("fraction", "nm")):
                numbers[name] = phi if name.endswith("fraction") else size
        solid = _generate(
            {k: jnp.float32(v) for k, v in numbers.items()},
            key=jax.random.key(seed),
            kind=kind,
            shape=SHAPE,
            voxel_nm=VOXEL,
            box=SHAPE,
            options=options,
        )
        solid = np.asarray(solid)
        assert np.all(np.isfinite(solid)) and solid.min() >= 0 and solid.max() <= 1
    assert _generate._cache_size() == compiled


def test_one_compilation_serves_all_values_of_draw():
    generate = jax.jit(
        functools.partial(draw, "gyroid", shape=SHAPE, voxel_nm=VOXEL, periodic=False)
    )
    for seed, phi in enumerate((0.2, 0.3, 0.5)):
        values = dict(solid_fraction=jnp.float32(phi), cell_nm=jnp.float32(80 + 5 * seed))
        solid = generate(key=jax.random.key(seed), **values)
        assert float(solid.mean()) == pytest.approx(phi, abs=0.005)
    assert generate._cache_size() == 1


def test_draw_maps_over_keys():
    one = functools.partial(draw, "gyroid", shape=SHAPE, voxel_nm=VOXEL, solid_fraction=0.35)
    keys = jnp.stack([jax.random.key(seed) for seed in (0, 1)])
    many = jax.jit(jax.vmap(lambda key: one(key=key, **SMALL["gyroid"])))(keys)
    for seed in (0, 1):
        alone = specimen_of("gyroid", seed=seed).solid
        np.testing.assert_allclose(many[seed], alone, atol=1e-3)


def correlation_length_nm(solid: np.ndarray, axis: int, voxel_nm: float) -> float:
    """Lag at which the periodic autocovariance falls to half."""
    f = solid - solid.mean()
    power = np.abs(np.fft.fft(f, axis=axis)) ** 2
    covariance = np.fft.ifft(power.sum(tuple(a for a in range(3) if a != axis))).real
    covariance /= covariance[0]
    i = int(np.argmax(covariance < 0.5))
    return (i - 1 + (covariance[i - 1] - 0.5) / (covariance[i - 1] - covariance[i])) * voxel_nm


@pytest.mark.parametrize("kind", list(KINDS))
def test_anisotropic_voxels_carry_isotropic_structures(kind):
    lower = dict(lower_ligament_nm=26.0) if kind == "hierarchical" else {}
    lengths = []
    for seed in range(8):
        solid = np.asarray(specimen_of(kind, seed=seed, **lower).solid)
        lengths.append([correlation_length_nm(solid, a, VOXEL[a]) for a in (0, 2)])
    along_z, along_x = np.mean(lengths, axis=0)
    assert along_z == pytest.approx(along_x, rel=0.1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_guess_has_the_autocorrelation_it_was_made_from(kind):
    # Whole cells of the gyroid; enough upper ligaments in the box.
    feature_nm = {"gyroid": 85.3 / 6.4, "hierarchical": 8.0}.get(kind, 13.0)
    solid_fraction = {"hierarchical": 0.3, "fibres": 0.3}.get(kind, 0.4)
    guess = KINDS[kind].guess(feature_nm, solid_fraction)
    fractions = [value for name, value in guess.items() if name.endswith("fraction")]
    assert np.prod(fractions) == pytest.approx(solid_fraction)
    specimen = make(
        kind,
        key=jax.random.key(5),
        shape=SHAPE,
        voxel_nm=VOXEL,
        **guess,
    )
    solid = np.asarray(specimen.solid)
    measured = np.mean([correlation_length_nm(solid, axis, 4.0) for axis in (1, 2)])
    assert measured == pytest.approx(feature_nm, rel=0.25)


# ---------------------------------------------------------------------------- gradients


def check_gradients() -> None:
    """Autodiff against central differences, float64 (run in a process of its own)."""
    assert jax.config.jax_enable_x64
    shape, voxel_nm = (16, 20, 20), (5.0, 4.0, 4.0)
    z, y, x = np.meshgrid(*[np.arange(n) / n for n in shape], indexing="ij")
    pattern = jnp.asarray(1 + np.sin(2 * np.pi * (z + y)) + np.cos(2 * np.pi * (x - z)))
    waves = dict(solid_fraction=0.35, ligament_nm=18.0, bandwidth=0.15)
    levels = dict(
        upper_fraction=0.6, upper_ligament_nm=24.0, lower_fraction=0.5, lower_ligament_nm=11.0
    )
    spheres = dict(solid_fraction=0.35, radius_nm=14.0, radius_sd=0.2)
    fibres = dict(solid_fraction=0.3, radius_nm=8.0, radius_sd=0.1, depth_stretch=0.7)
    variants = [
        ("waves", True, waves, {}),
        ("hierarchical", True, levels, {}),
        ("spheres", False, spheres, dict(invert=True)),
        ("fibres", True, fibres, {}),
        ("gyroid", False, dict(solid_fraction=0.4, cell_nm=50.0), dict(form="sheet")),
    ]
    for kind, periodic, values, options in variants:
        values = {k: jnp.float64(v) for k, v in values.items()}

        def measure(values, plain, kind=kind, periodic=periodic, options=options):
            solid = draw(
                kind,
                key=jax.random.key(3),
                shape=shape,
                voxel_nm=voxel_nm,
                periodic=periodic,
                **values,
                **options,
            )
            # Not linear in the solid and not even over the volume: the level cannot absorb it.
            return jnp.where(plain, jnp.mean(solid), jnp.mean(pattern * solid**2))

        measure = jax.jit(jax.value_and_grad(measure))
        value, gradient = measure(values, False)
        assert value.dtype == jnp.float64
        for name, number in values.items():
            # Small: where the nearest grain changes the structure has kinks.
            step = 1e-6 * float(number)
            low, high = (measure({**values, name: number + s}, False)[0] for s in (-step, step))
            difference = float(high - low) / (2 * step)
            assert abs(difference) * float(number) > 1e-4, (kind, name, difference)
            error = abs(float(gradient[name]) - difference) / abs(difference)
            assert error < 1e-3, (kind, name, float(gradient[name]), difference)

        # The mean follows the fraction exactly and does not follow the sizes.
        mean, gradient = measure(values, True)
        for name, number in values.items():
            expected = float(mean / number) if name.endswith("fraction") else 0.0
            assert abs(float(gradient[name]) - expected) < 1e-4, (kind, name)

    # Without scatter the logarithmic standard deviation is a root of zero.
    def square(radius_sd):
        return jnp.sum(log_normal(jax.random.key(0), 3.0, radius_sd, 5, jnp.float64) ** 2)

    assert float(jax.grad(square)(0.0)) == 0.0


@pytest.mark.usefixtures("compiled_fast_once")
def test_gradients_match_finite_differences():
    code = "import test_specimens; test_specimens.check_gradients(); print('checked')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "JAX_ENABLE_X64": "1",
            "PYTHONPATH": os.path.dirname(__file__),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "checked" in done.stdout


# ------------------------------------------------------------------------ partial volume


def test_cut_fraction_of_planes():
    # Exact share of a unit voxel on the positive side of a plane, by counting.
    line = (np.arange(40) + 0.5) / 40 - 0.5
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    for normal in [(1, 0, 0), (0.6, 0.8, 0), (1, 1, 1), (0.2, 0.3, 0.9)]:
        normal = np.asarray(normal) / np.linalg.norm(normal)
        inside = normal[0] * z + normal[1] * y + normal[2] * x
        distance = np.linspace(-0.9, 0.9, 37)
        exact = np.array([(inside + d > 0).mean() for d in distance])
        spread = np.sqrt(np.sum(normal**2) / 12)
        error = np.asarray(cut_fraction(jnp.asarray(distance), spread)) - exact
        assert np.abs(error).max() < 0.04
        assert np.sqrt(np.mean(error**2)) < 0.02


def test_waves_on_coarse_voxels_are_the_mean_of_fine_ones():
    q0, level, factor = 2 * np.pi / 24, -0.4, 3
    waves = functools.partial(gaussian_waves, box=(72,) * 3, voxel_nm=(1.0,) * 3, bandwidth=0.1)
    fine, fine_spread = jax.jit(waves)(key=jax.random.key(0), q0=q0)
    assert float(jnp.mean(fine**2)) == pytest.approx(1, abs=0.01)

    def coarsen(field):
        return field.reshape(24, factor, 24, factor, 24, factor).mean((1, 3, 5))

    exact = coarsen(np.asarray(jax.jit(cut_fraction)(level - fine, fine_spread)))

    @jax.jit
    def cut_coarse(field):
        return cut_fraction(level - field, field_spread(field, (3.0, 3.0, 3.0), q0))

    error = np.asarray(cut_coarse(coarsen(np.asarray(fine)))) - exact
    cut = (exact > 0.001) & (exact < 0.999)
    assert np.sqrt(np.mean(error[cut] ** 2)) < 0.025
    assert abs(error.mean()) < 1e-3


def test_one_sphere_cuts_voxels_as_it_should():
    shape, voxel_nm, radius_nm = (12, 24, 24), (8.0, 4.0, 4.0), 30.0
    centre = (47.3, 49.1, 45.0)
    volume = (
        4
        / 3
        * math.pi
        * radius_nm**3
        / math.prod(n * h for n, h in zip(shape, voxel_nm, strict=True))
    )

    @jax.jit
    def sphere(phi):
        vector = offsets_nm(jnp.asarray(centre), shape, voxel_nm, side_lengths(shape, voxel_nm))
        return cover(vector, jnp.full(shape, radius_nm), voxel_nm, phi, invert=False)

    fine = [
        ((np.arange(8 * n) + 0.5) * h / 8 - c) ** 2
        for n, h, c in zip(shape, voxel_nm, centre, strict=True)
    ]
    inside = fine[0][:, None, None] + fine[1][:, None] + fine[2] < radius_nm**2
    exact = inside.reshape(12, 8, 24, 8, 24, 8).mean((1, 3, 5))
    error = np.asarray(sphere(volume)) - exact
    cut = (exact > 0) & (exact < 1)
    assert np.sqrt(np.mean(error[cut] ** 2)) < 0.03
    assert np.abs(error[~cut]).max() < 0.05


def test_coarse_gyroid_is_the_mean_of_a_fine_one():
    coarse = np.asarray(specimen_of("gyroid", phi=0.4).solid)
    fine = make(
        "gyroid",
        key=jax.random.key(0),
        shape=(128, 128, 128),
        voxel_nm=2.0,
        solid_fraction=0.4,
        **SMALL["gyroid"],
    )
    exact = np.asarray(fine.solid).reshape(32, 4, 64, 2, 64, 2).mean((1, 3, 5))
    error, cut = coarse - exact, (exact > 0.001) & (exact < 0.999)
    assert np.sqrt(np.mean(error[cut] ** 2)) < 0.04
    assert np.abs(error[~cut]).mean() < 0.002


# --------------------------------------------------------------------------------- waves


def mean_local_thickness(solid: np.ndarray) -> float:
    """Mean diameter in voxels of the largest inscribed sphere that covers a voxel of the solid.

    Opening by spheres of growing radius with Euclidean distance transforms; the values are those
    of ``porespy.filters.local_thickness`` with the same sizes, without its long import.
    """
    margin, step = 12, 0.5  # inscribed spheres may reach across the faces of the periodic box
    wrapped = np.pad(solid, margin, mode="wrap")
    depth = edt.edt(wrapped.astype(np.uint8))
    radius = np.zeros(wrapped.shape, np.float32)
    for r in np.arange(1.0, depth.max(), step):
        radius[edt.edt((depth < r).astype(np.uint8)) < r] = r
    radius = radius[(slice(margin, -margin),) * 3][solid]
    return 2 * (radius.mean() + step / 2)  # the sizes round down


@pytest.mark.parametrize("phi", [0.25, 0.5])
def test_mean_local_thickness_is_the_ligament_asked_for(phi):
    ligament_nm = 12.0
    specimen = make(
        "waves",
        key=jax.random.key(4),
        shape=(84, 84, 84),
        voxel_nm=1.0,
        solid_fraction=phi,
        ligament_nm=ligament_nm,
    )
    measured = mean_local_thickness(np.asarray(specimen.solid) > 0.5)
    assert measured == pytest.approx(ligament_nm, rel=0.05)


def test_wave_number_falls_with_size_and_rises_with_fraction():
    phi = jnp.linspace(0.02, 0.98, 49)
    q0 = wave_number(phi, 20.0, 0.1)
    assert np.all(np.diff(q0) > 0)
    np.testing.assert_allclose(wave_number(phi, 40.0, 0.1), q0 / 2, rtol=1e-5)
    assert np.all(wave_number(phi, 20.0, 0.3) < q0)


def test_features_grow_with_their_size_also_where_few_waves_fit_into_a_box():
    shape, voxel_nm = (28, 32, 32), (32.0, 16.0, 16.0)

    @jax.jit
    def correlations(ligament_nm):
        def one(key):
            solid = draw(
                "waves",
                key=key,
                shape=shape,
                voxel_nm=voxel_nm,
                solid_fraction=0.45,
                ligament_nm=ligament_nm,
                exact=False,
            )
            return jnp.stack([jnp.mean(solid * jnp.roll(solid, 2, axis)) for axis in range(3)])

        return jax.vmap(one)(jax.random.split(jax.random.key(0), 48)).mean(0)

    # 2.8 to 1.3 waves fit into 512 nm.
    sizes = np.arange(110.0, 250.0, 20.0)
    assert np.all(np.diff([correlations(size) for size in sizes], axis=0) > 0)


def test_level_of_the_endless_structure_keeps_the_fluctuation():
    generate = jax.jit(
        jax.vmap(
            lambda key: jnp.mean(
                draw(
                    "waves",
                    key=key,
                    shape=(24, 24, 24),
                    voxel_nm=(4.0,) * 3,
                    solid_fraction=0.3,
                    ligament_nm=18.0,
                    exact=False,
                )
            )
        )
    )
    means = np.asarray(generate(jax.random.split(jax.random.key(0), 64)))
    assert means.mean() == pytest.approx(0.3, abs=4 * float(means.std()) / 8)
    assert means.mean() == pytest.approx(0.3, abs=0.02)
    assert means.std() > 1e-3


def test_hierarchical_levels_have_their_own_fraction():
    lower_fraction, upper_fraction = 0.5, 0.6
    whole = specimen_of(
        "hierarchical", phi=1.0, upper_fraction=upper_fraction, lower_fraction=0.999
    )
    both = specimen_of(
        "hierarchical", phi=1.0, upper_fraction=upper_fraction, lower_fraction=lower_fraction
    )
    assert 1 - float(porosity(whole)) == pytest.approx(upper_fraction, abs=0.005)
    upper = np.asarray(whole.solid)
    # Nothing outside the upper ligaments (the thousandth is what `whole` lacks).
    assert np.asarray(both.solid)[upper < 0.01].mean() < 0.002
    inside = np.asarray(both.solid)[upper > 0.99].mean()
    assert inside == pytest.approx(lower_fraction, abs=0.03)


# ------------------------------------------------------------------------ Boolean models


def mean_pore_chord_nm(solid: np.ndarray, axis: int, voxel_nm: float) -> float:
    pore = solid < 0.5
    ends = np.sum(pore & ~np.roll(pore, -1, axis))
    return pore.sum() * voxel_nm / ends


@pytest.mark.parametrize(("kind", "shape_factor"), [("spheres", 4 / 3), ("fibres", 2.0)])
def test_pore_chords_of_boolean_models(kind, shape_factor):
    # Pore chords of a Boolean model are exponential with mean 4 V / S / -ln(1 - phi), V and S
    # volume and surface of a grain: V / S is r/3 for spheres and r/2 for cylinders.
    phi, radius_nm = 0.3, 22.0
    chords = []
    for seed in range(6):
        solid = np.asarray(specimen_of(kind, seed=seed, phi=phi, radius_nm=radius_nm).solid)
        chords += [mean_pore_chord_nm(solid, axis, VOXEL[axis]) for axis in (1, 2)]
    expected = shape_factor * radius_nm / -math.log1p(-phi)
    assert np.mean(chords) == pytest.approx(expected, rel=0.1)


def test_fibres_lie_as_they_are_stretched():
    def chord_ratio(stretch: float) -> float:
        specimen = specimen_of("fibres", phi=0.25, depth_stretch=stretch)
        solid = np.asarray(specimen.solid)
        along = [mean_pore_chord_nm(1 - solid, axis, VOXEL[axis]) for axis in range(3)]
        return along[0] / np.mean(along[1:])  # solid chords along z over those in the plane

    assert chord_ratio(0.0) < 0.8
    assert chord_ratio(8.0) > 1.5


def test_inverted_spheres_are_the_pores_of_spheres():
    shared = dict(seed=7, radius_nm=22.0)
    foam = specimen_of("spheres", phi=0.4, invert=True, **shared)
    particles = specimen_of("spheres", phi=0.6, **shared)
    np.testing.assert_allclose(foam.solid, 1 - np.asarray(particles.solid), atol=2e-3)


def test_radii_scatter_as_asked():
    # Few isolated spheres: the volume-weighted size grows with the scatter.
    even, mixed = (
        np.asarray(specimen_of("spheres", phi=0.1, radius_sd=sd).solid) for sd in (0.0, 0.5)
    )
    lengths = [
        np.mean([correlation_length_nm(s, a, VOXEL[a]) for a in range(3)]) for s in (even, mixed)
    ]
    assert lengths[1] > 1.1 * lengths[0]


# -------------------------------------------------------------------------------- gyroid


def test_periodic_gyroid_repeats_with_its_cell():
    solid = np.asarray(
        make("gyroid", key=jax.random.key(0), shape=(32, 32, 48), voxel_nm=4.0, cell_nm=64.0).solid
    )
    for axis in range(3):
        np.testing.assert_allclose(np.roll(solid, 16, axis), solid, atol=2e-3)


def test_sheet_has_pores_on_both_sides_and_network_is_one_of_them():
    common = dict(seed=1, cell_nm=128.0)
    sheet = np.asarray(specimen_of("gyroid", phi=0.3, form="sheet", **common).solid) > 0.5
    one = np.asarray(specimen_of("gyroid", phi=0.35, form="network", **common).solid) > 0.5
    # With 30 % sheet each labyrinth holds 35 %: the network of 35 % fills one and no sheet.
    assert np.mean(one & sheet) < 0.01
    assert np.mean(~one & ~sheet) == pytest.approx(0.35, abs=0.02)


# --------------------------------------------------------------------- specimen, resample


def test_specimen_is_a_pytree_with_static_grid():
    specimen = specimen_of("waves")
    assert len(jax.tree.leaves(specimen)) == 1
    doubled = jax.jit(lambda s: jax.tree.map(lambda a: a / 2, s))(specimen)
    assert doubled.voxel_nm == VOXEL and doubled.periodic
    assert float(porosity(doubled)) == pytest.approx(1 - 0.35 / 2, abs=0.005)


def test_resample_averages_blocks_and_keeps_the_mean():
    specimen = specimen_of("waves")
    coarse = resample(specimen, (16.0, 8.0, 32.0))
    blocks = np.asarray(specimen.solid).reshape(16, 2, 32, 2, 8, 8).mean((1, 3, 5))
    np.testing.assert_allclose(coarse.solid, blocks, atol=1e-6)
    assert coarse.periodic and coarse.voxel_nm == (16.0, 8.0, 32.0)
    for voxel_nm in ((4.0, 5.12, 6.4), (12.8, 2.0, 2.56)):
        other = resample(specimen, voxel_nm)
        assert other.solid.shape == tuple(round(256 / h) for h in voxel_nm)
        assert float(porosity(other)) == pytest.approx(float(porosity(specimen)), abs=1e-5)


def test_resample_interpolates_linearly_between_centres():
    ramp = make_specimen(np.broadcast_to(np.arange(8) / 10, (2, 2, 8)), voxel_nm=4.0)
    fine = np.asarray(resample(ramp, (4.0, 4.0, 2.0)).solid)[0, 0]
    np.testing.assert_allclose(fine[1:-1], np.arange(14) * 0.05 + 0.025, atol=1e-6)
    np.testing.assert_allclose(fine[[0, -1]], [0.0, 0.7], atol=1e-6)  # held past the last centre
    wrapped = Specimen(solid=ramp.solid, voxel_nm=ramp.voxel_nm, periodic=True)
    first = np.asarray(resample(wrapped, (4.0, 4.0, 2.0)).solid)[0, 0, 0]
    assert first > 0.05  # drawn towards the other end


def test_resample_cuts_what_does_not_fit():
    specimen = specimen_of("waves")
    odd = resample(specimen, (8.0, 4.0, 9.0))
    assert odd.solid.shape == (32, 64, 28)
    assert not odd.periodic
    with pytest.raises(InputError, match="smaller voxels"):
        resample(specimen, 500.0)


def test_make_specimen_scales_nothing_and_checks_everything():
    specimen = make_specimen(np.eye(3, dtype=bool)[None], voxel_nm=5)
    assert specimen.solid.dtype == jnp.float32
    assert specimen.voxel_nm == (5.0, 5.0, 5.0) and not specimen.periodic
    for solid, match in [
        (np.zeros((4, 4)), "three axes"),
        (np.zeros((0, 4, 4)), "empty"),
        (np.full((2, 2, 2), np.nan), "not finite"),
        (np.full((2, 2, 2), 255, np.uint8), "from 255 to 255"),
        (np.full((2, 2, 2), -0.5), "from -0.5"),
        (np.full((2, 2, 2), "x"), "dtype"),
    ]:
        with pytest.raises(InputError, match=match):
            make_specimen(solid, voxel_nm=5.0)
    for voxel_nm in (0.0, (1.0, 2.0), (1.0, -2.0, 1.0), "5 nm", (1.0, 1.0, math.nan)):
        with pytest.raises(InputError, match="voxel_nm"):
            make_specimen(np.zeros((2, 2, 2)), voxel_nm=voxel_nm)


def test_box_of_an_open_specimen():
    box = open_box(SHAPE, VOXEL, 30.0)
    assert all(b * h >= n * h + 30 for b, n, h in zip(box, SHAPE, VOXEL, strict=True))
    assert [fft_size(n) for n in (1, 7, 31, 97)] == [2, 8, 32, 100]


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kind", "parameters", "match"),
    [
        ("wave", {}, "did you mean 'waves'"),
        ("plasma", {}, "expected one of waves"),
        ("waves", dict(ligament=20.0), "did you mean 'ligament_nm'"),
        ("waves", dict(solid_fraction=0.0), "between 0 and 1"),
        ("waves", dict(solid_fraction=1.0), "between 0 and 1"),
        ("waves", dict(solid_fraction=math.nan), "between 0 and 1"),
        ("waves", dict(solid_fraction="half"), "expected one number"),
        ("waves", dict(solid_fraction=np.array([0.1, 0.2])), "expected one number"),
        ("waves", dict(ligament_nm=-3.0), "positive"),
        ("waves", dict(ligament_nm=15.0), "two voxels"),
        ("waves", dict(ligament_nm=160.0), "waves of that size"),
        ("waves", dict(bandwidth=0.0), "positive"),
        ("hierarchical", dict(upper_ligament_nm=160.0), "upper_ligament_nm"),
        ("hierarchical", dict(upper_ligament_nm=40.0, lower_ligament_nm=6.0), "lower_ligament"),
        ("spheres", dict(radius_nm=3.0), "less than a voxel"),
        ("spheres", dict(radius_nm=130.0), "at most 128"),
        ("spheres", dict(radius_nm=110.0, solid_fraction=0.2), "expected at least 3"),
        ("spheres", dict(radius_nm=20.0, num=10), "raise num"),
        ("spheres", dict(radius_nm=20.0, radius_sd=-1.0), "not negative"),
        ("fibres", dict(radius_nm=60.0), "at most 51.2"),
        ("gyroid", dict(cell_nm=10.0), "6 voxels"),
        ("gyroid", dict(cell_nm=190.0), "divides every side"),
        ("gyroid", dict(cell_nm=128.0, form="mesh"), "network, sheet"),
        ("gyroid", dict(cell_nm=128.0, form=1), "a word"),
        ("waves", dict(exact=0.5), "True or False"),
        ("spheres", dict(num=12.5), "whole number"),
        ("fibres", dict(num=0), "whole number"),
    ],
)
def test_bad_parameters_are_named(kind, parameters, match):
    with pytest.raises(InputError, match=match):
        make(kind, key=jax.random.key(0), shape=SHAPE, voxel_nm=VOXEL, **parameters)


def test_generators_check_known_sizes_too():
    with pytest.raises(InputError, match="expected at least 3"):
        boolean_spheres(
            key=jax.random.key(0),
            shape=SHAPE,
            voxel_nm=VOXEL,
            solid_fraction=0.1,
            radius_nm=100.0,
        )


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 0), (10.5, 10, 10), "cube"])
def test_bad_shapes_are_named(shape):
    with pytest.raises(InputError, match="shape"):
        make("waves", key=jax.random.key(0), shape=shape, voxel_nm=VOXEL)


# ----------------------------------------------------------------------------- from file


@pytest.mark.parametrize("label", [1, 255])
def test_labels_become_fractions(label):
    solid = np.arange(27).reshape(3, 3, 3) % 2
    np.testing.assert_array_equal(solid_fraction_of((solid * label).astype(np.uint8)), solid)
    np.testing.assert_array_equal(solid_fraction_of(solid * float(label)), solid)
    np.testing.assert_array_equal(
        solid_fraction_of(np.where(solid, 3, 7), solid_value=3), solid.astype(np.float32)
    )


def test_grey_fractions_pass():
    values = np.linspace(0, 1, 8).reshape(2, 2, 2)
    np.testing.assert_allclose(solid_fraction_of(values), values, atol=1e-7)


@pytest.mark.parametrize(
    ("values", "solid_value", "match"),
    [
        (np.full((2, 2, 2), np.nan), None, "not finite"),
        (np.arange(8).reshape(2, 2, 2), None, "more than two values"),
        (np.full((2, 2, 2), 5), None, "expected 0 for pore"),
        (np.full((2, 2, 2), 5), 4, "no voxel has it"),
        (np.array([[[1, 2]]]), None, "expected 0 for pore"),
        (np.array([[["a"]]]), None, "dtype"),
    ],
)
def test_bad_volumes_are_named(values, solid_value, match):
    with pytest.raises(InputError, match=match):
        solid_fraction_of(values, solid_value)


def test_specimen_from_file_reads_values_and_voxel_size(tmp_path):
    solid = np.random.default_rng(0).random((3, 4, 5)) > 0.5
    io.write_volume(tmp_path / "labels.tif", (255 * solid).astype(np.uint8), voxel_nm=(10, 4, 4))
    specimen = specimen_from_file(tmp_path / "labels.tif")
    np.testing.assert_array_equal(specimen.solid, solid)
    np.testing.assert_allclose(specimen.voxel_nm, (10, 4, 4), rtol=1e-4)
    assert not specimen.periodic
    asked = specimen_from_file(tmp_path / "labels.tif", voxel_nm=3.0, periodic=True)
    assert asked.voxel_nm == (3.0, 3.0, 3.0) and asked.periodic
    pores = specimen_from_file(tmp_path / "labels.tif", solid_value=0)
    np.testing.assert_array_equal(pores.solid, ~solid)


def test_bad_files_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", np.stack([np.tri(5, 6, dtype=np.uint8)] * 2))
    with pytest.raises(InputError, match="voxel_nm"):
        specimen_from_file(tmp_path / "plain.tif")
    with pytest.raises(InputError, match="does not exist"):
        specimen_from_file(tmp_path / "absent.tif", voxel_nm=1.0)
    grey = np.linspace(0, 255, 64).reshape(4, 4, 4).astype(np.uint8)
    io.write_volume(tmp_path / "grey.tif", grey, voxel_nm=4.0)
    with pytest.raises(InputError, match="more than two values"):
        specimen_from_file(tmp_path / "grey.tif")
    holes = np.full((2, 3, 3), np.nan, np.float32)
    io.write_volume(tmp_path / "holes.tif", holes, voxel_nm=4.0)
    with pytest.raises(InputError, match="not finite"):
        specimen_from_file(tmp_path / "holes.tif")


def test_file_of_a_known_specimen():
    path = Path(__file__).parents[2] / "shared" / "data" / "instrument_a" / "specimen.tif"
    if not path.exists():
        pytest.skip(f"{path.name} of instrument_a is not here")
    specimen = specimen_from_file(path, voxel_nm=2.0, periodic=True)
    assert float(porosity(specimen)) == pytest.approx(0.65, abs=0.01)
