"""The forward model against its closed forms, its symmetries and its limits.

One instrument records secondaries and backscatter of one voltage as two channels with gain one,
so that `expected_stack` returns electrons per beam electron. All tests share one grid and hence
one compiled program per border condition.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import fibsim
from fibsim.interaction import bulk_yields, channel_coefficients
from fibsim.render import wall_density
from fibsim.specimens import make_specimen

SLICES, DEPTH, SIZE = 4, 24, 24
VOXEL_NM = (5.0, 4.0, 4.0)  # two layers a slice, as many as sub-layers
Z, Y, X = np.meshgrid(np.arange(DEPTH), np.arange(SIZE), np.arange(SIZE), indexing="ij")
FLAT = dict(edge_gain=0.0, se_incidence=0.0, bse_incidence=0.0)
NO_LOSS = dict(se_wall_loss=0.0, bse_wall_loss=0.0)


def instrument(kev=2.0, tilt_deg=38.0, **interaction):
    base = fibsim.make_instrument(
        beam_kev=(kev, kev), detectors=("SE", "BSE"), pixel_nm=4.0, slice_nm=10.0, tilt_deg=tilt_deg
    )
    leaves = {name: jnp.asarray(value, float) for name, value in interaction.items()}
    detector = dataclasses.replace(
        base.detector,
        se_fraction=jnp.array([1.0, 0.0]),
        gain=jnp.ones(2),
        offset=jnp.zeros(2),
        probe_nm=jnp.zeros(2),
    )
    return dataclasses.replace(
        base,
        interaction=dataclasses.replace(base.interaction, **leaves),
        detector=detector,
    )


def emitted(solid, lens, *, periodic=True, sublayers=2):
    """Secondaries and backscatter, each ``(slice, y, x)``."""
    specimen = make_specimen(np.asarray(solid, np.float32), voxel_nm=VOXEL_NM, periodic=periodic)
    return np.asarray(fibsim.expected_stack(specimen, lens, num_slices=SLICES, sublayers=sublayers))


def waves(size=SIZE, seed=0):
    """Bicontinuous structure of 16 nm ligaments on the common grid."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.arange(n) * 2 * np.pi / n for n in (DEPTH, size, size)), indexing="ij")
    field = np.zeros((DEPTH, size, size))
    cycles = size // 8
    for _ in range(30):
        kz, ky, kx = rng.normal(size=3) * np.array([3, cycles, cycles]) * 0.7
        phase = rng.uniform(0, 2 * np.pi)
        field += np.cos(round(kz) * grids[0] + round(ky) * grids[1] + round(kx) * grids[2] + phase)
    return 1 / (1 + np.exp(-3 * (field - np.median(field))))


# Closed forms


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kev", [1.0, 5.0])
def test_bulk_emits_its_bulk_yields_at_every_face(kev, periodic):
    """``B = eta`` and ``S = delta (1 + b eta)``, whatever the tilt, edge and pore terms."""
    lens = instrument(kev)
    secondary, backscatter = emitted(np.ones((DEPTH, SIZE, SIZE)), lens, periodic=periodic)
    c = channel_coefficients(lens)
    eta, delta, b = float(c.eta[1]), float(c.delta[0]), float(c.se_by_bse[0])
    np.testing.assert_allclose(backscatter, eta, rtol=2e-5)
    np.testing.assert_allclose(secondary, delta * (1 + b * eta), rtol=2e-5)
    np.testing.assert_allclose(float(bulk_yields(lens).secondary[0]), secondary.mean(), rtol=2e-5)


@pytest.mark.parametrize("periodic", [True, False])
def test_empty_space_is_dark(periodic):
    out = emitted(np.zeros((DEPTH, SIZE, SIZE)), instrument(), periodic=periodic)
    np.testing.assert_array_equal(out, 0.0)


@pytest.mark.parametrize(("layers", "fraction"), [(1, 1.0), (2, 1.0), (4, 1.0), (4, 0.5)])
def test_film_over_vacuum(layers, fraction):
    """``eta (1 - exp(-mu rho t))``; without backscattered electrons' help the same for S.

    A dilute film is a mixture of solid and pore without walls' losses.
    """
    lens = instrument(se_by_bse=0.0, **FLAT, **NO_LOSS)
    secondary, backscatter = emitted(fraction * (Z < layers), lens)
    c = channel_coefficients(lens)
    t = 5.0 * layers * fraction
    for signal, peak, mu in (
        (backscatter, c.eta[1], c.bse_attenuation[1]),
        (secondary, c.delta[0], c.se_attenuation[0]),
    ):
        expected = float(peak) * (1 - np.exp(-float(mu) * t))
        np.testing.assert_allclose(signal[0], expected, rtol=1e-4)


def test_film_over_a_gap_over_bulk_looks_like_bulk_without_wall_loss():
    """An endless film lets out what the ground below sends back: eta of bulk at every face."""
    lens = instrument(5.0, **NO_LOSS)
    _, backscatter = emitted((Z < 2) | (Z >= 10), lens)
    np.testing.assert_allclose(backscatter, float(bulk_yields(lens).backscatter[1]), rtol=1e-4)


def test_wall_loss_darkens_the_gap_under_a_dense_neighbourhood():
    """With walls around it the same gap loses signal, the more the higher the loss."""
    pore = ~(((Y - 12) ** 2 + (X - 12) ** 2 < 36) & (Z < 10))
    middle = [
        emitted(pore, instrument(tilt_deg=0.0, se_wall_loss=w, bse_wall_loss=w))[:, 0, 12, 12]
        for w in (0.0, 0.4, 0.8)
    ]
    assert np.all(np.diff(middle, axis=0) < 0)


# Depth, tilt and voltage


def test_tilt_displaces_deep_structure_by_depth_times_tangent():
    """A patterned 5 nm film under open space; each face lies 10 nm nearer to it than the last.

    The layer's centre counts as its depth. Displacements are read from the maximum of the
    correlation with the untilted image, interpolated in Fourier space.
    """
    pattern = np.random.default_rng(1).uniform(size=(SIZE, SIZE)) > 0.5
    film = (Z == 12) & pattern
    angle = 33.0
    flat, tilted = (
        emitted(film, instrument(tilt_deg=t, **FLAT, **NO_LOSS))[1] for t in (0.0, angle)
    )
    shifts = np.arange(0, SIZE, 0.05)
    turn = np.exp(2j * np.pi * np.fft.fftfreq(SIZE)[:, None] * shifts)
    for k in range(SLICES):
        cross = (np.fft.fft(tilted[k], axis=0) * np.conj(np.fft.fft(flat[k], axis=0))).sum(1)
        found = shifts[np.argmax((cross[:, None] * turn).real.sum(0))]
        # out[y] = floor[y + d]: the pattern appears d pixels higher up.
        expected = (-(62.5 - 10 * k) * np.tan(np.deg2rad(angle)) / 4.0) % SIZE
        assert found == pytest.approx(expected, abs=0.25)


def test_deeper_pores_are_darker():
    """The floor of a round pore of 24 nm radius lies 60, 50, 40 and 30 nm below the faces."""
    pore = ~(((Y - 12) ** 2 + (X - 12) ** 2 < 36) & (Z < 12))
    for signal in emitted(pore, instrument(tilt_deg=0.0)):
        assert np.all(np.diff(signal[:, 12, 12]) > 0.02 * signal[:, 0, 0])
        assert np.all(signal[:, 12, 12] < signal[:, 0, 0])


def test_narrower_pores_are_darker():
    middles = [
        emitted(~(((Y - 12) ** 2 + (X - 12) ** 2 < r**2) & (Z < 12)), instrument(tilt_deg=0.0))
        for r in (3, 5, 8)
    ]
    assert np.all(np.diff([m[:, 0, 12, 12] for m in middles], axis=0) > 0)


@pytest.mark.parametrize("radius", [4, 6, 8, 12, 16])
def test_wall_density_is_one_over_the_radius_inside_a_round_pore(radius):
    """Within 15 %, in the middle of a pore in an image 16 times as wide as the largest radius."""
    size = 256
    y, x = np.indices((size, size)) - size // 2
    rho = jnp.asarray((y**2 + x**2 > radius**2).astype(np.float32))
    wall = wall_density(rho, jnp.asarray(4.0), periodic=True)
    found = float(wall[size // 2, size // 2]) * 4.0 * radius
    print(f"radius {radius}: wall density times radius {found:.3f}")
    assert found == pytest.approx(1.0, abs=0.15)


def test_higher_voltage_sees_deeper():
    """Backscatter contrast of a void under 10 nm of gold grows with voltage: 1, 2, 5, 10 keV."""
    void = ~((Z >= 2) & (Z < 8) & (np.abs(Y - 12) < 5) & (np.abs(X - 12) < 5))
    contrast = []
    for kev in (1.0, 2.0, 5.0, 10.0):
        image = emitted(void, instrument(kev, tilt_deg=0.0))[1, 0]
        contrast.append(1 - image[12, 12] / image[0, 0])
    assert np.all(np.diff(contrast) > 0)
    assert contrast[0] < 0.01 < 0.1 < contrast[-1]


def test_pore_edges_are_bright_in_secondaries_only():
    """Solid beside a pore emits more secondaries than solid far away from one."""
    pore = ~((np.abs(Y - 12) < 6) & (np.abs(X - 12) < 6))
    bright, plain = (
        emitted(pore, instrument(tilt_deg=0.0, edge_gain=gain))[:, 0] for gain in (1.0, 0.0)
    )
    assert bright[0, 12, 5] > 1.1 * bright[0, 0, 0]
    np.testing.assert_allclose(bright[1], plain[1], rtol=1e-5)


def test_grazing_walls_are_bright():
    """The beam leans towards +y, so it grazes walls whose solid lies on the -y side of a pore.

    The step at y = 6 turns away from the beam, that at y = 18 faces it.
    """
    solid = (Y < 6) | (Y >= 18)
    quiet = {**FLAT, **NO_LOSS}
    with_law, without = (
        emitted(solid, instrument(**{**quiet, "bse_incidence": strength}))[1, 0].mean(1)
        for strength in (1.0, 0.0)
    )
    change = with_law - without
    assert change[5] > 0.01 and change[18] < -0.01


# Symmetry and resolution


def test_mirror_in_x_commutes_with_the_model():
    solid = waves()
    np.testing.assert_allclose(
        emitted(solid[:, :, ::-1], instrument())[..., ::-1], emitted(solid, instrument()), atol=2e-5
    )


@pytest.mark.parametrize("periodic", [True, False])
def test_mirror_in_y_is_the_opposite_tilt(periodic):
    solid = waves()
    np.testing.assert_allclose(
        emitted(solid[:, ::-1], instrument(tilt_deg=-38.0), periodic=periodic)[..., ::-1, :],
        emitted(solid, instrument(), periodic=periodic),
        atol=2e-5,
    )


def test_moving_the_specimen_moves_the_image():
    solid = waves()
    np.testing.assert_allclose(
        emitted(np.roll(solid, (5, -3), (1, 2)), instrument()),
        np.roll(emitted(solid, instrument()), (5, -3), (2, 3)),
        atol=2e-5,
    )


def test_more_sublayers_change_little():
    """Secondaries and backscatter of waves, against the finest: rms below 3 % of the contrast."""
    solid = waves()
    coarse, fine, finest = (emitted(solid, instrument(), sublayers=n) for n in (2, 4, 8))
    for name, a, b, c in zip(("SE", "BSE"), coarse, fine, finest, strict=True):
        errors = [np.sqrt(np.mean((s - c) ** 2)) / c.std() for s in (a, b)]
        print(f"{name}: {errors[0]:.4f} with 2, {errors[1]:.4f} with 4 sub-layers")
        assert errors[1] < errors[0] < 0.03


def test_borders_of_cut_specimens_do_not_reach_the_interior():
    """Cut out of a periodic specimen, the middle of the image keeps its values.

    Near borders the view ends: mirrored for filters, held for the leaning beam, which reaches
    94 nm (23 pixels) in the 12 slices that are looked through.
    """
    solid = waves(64)
    whole, cut = (emitted(solid, instrument(), periodic=periodic) for periodic in (True, False))
    inner = (..., slice(12, 36), slice(12, 52))
    for a, b in zip(whole, cut, strict=True):
        error = np.sqrt(np.mean((a[inner] - b[inner]) ** 2)) / a.std()
        border = np.sqrt(np.mean((a[..., -6:, :] - b[..., -6:, :]) ** 2)) / a.std()
        print(f"rms difference inside {error:.4f}, at the lower border {border:.4f} of contrast")
        assert error < 0.05 < border


def test_signal_is_positive_and_below_its_bound():
    lens = instrument(**FLAT)
    secondary, backscatter = emitted(waves(), lens)
    bulk = bulk_yields(lens)
    assert backscatter.min() >= 0 and backscatter.max() <= 1.02 * float(bulk.backscatter[1])
    assert secondary.min() >= 0 and secondary.max() <= 1.02 * float(bulk.secondary[0])
