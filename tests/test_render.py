"""The forward model against its closed forms, its symmetries and its limits.

One instrument records secondaries and backscatter of one voltage as two channels with gain one,
so that `expected_stack` returns electrons per beam electron. All tests share one grid and hence
one compiled program per border condition.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fibsim
from fibsim.interaction import bulk_yields, channel_coefficients
from fibsim.interaction_table import evaluate, interaction_table
from fibsim.layers import Texture, mean_chords_nm
from fibsim.openness import View, lay_depth, limited_gradient, openness
from fibsim.render import render_slice, shares_seen
from fibsim.resample import average_depth
from fibsim.specimens import make_specimen
from fibsim.surroundings import surroundings, upper_layers

SLICES, DEPTH, SIZE, MIDDLE = 4, 36, 48, 24
LAYER_NM = 10.0 / 3  # three layers a slice, as many as sub-layers
VOXEL_NM = (LAYER_NM, 4.0, 4.0)
Z, Y, X = np.meshgrid(np.arange(DEPTH), np.arange(SIZE), np.arange(SIZE), indexing="ij")
FLAT = dict(edge_gain=0.0, se_incidence=0.0, bse_incidence=0.0, bse_facing=0.0)
SMOOTH = dict(wall_emission=1.0)  # walls emit like milled faces

pytestmark = pytest.mark.usefixtures("compiled_fast")


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


def emitted(solid, lens, *, periodic=True, sublayers=3):
    """Secondaries and backscatter, each ``(slice, y, x)``."""
    specimen = make_specimen(np.asarray(solid, np.float32), voxel_nm=VOXEL_NM, periodic=periodic)
    return np.asarray(fibsim.expected_stack(specimen, lens, num_slices=SLICES, sublayers=sublayers))


def waves():
    """Bicontinuous structure: random waves of 60 to 100 nm, so ligaments of about 35 nm."""
    rng = np.random.default_rng(0)
    field = np.zeros((DEPTH, SIZE, SIZE))
    for _ in range(40):
        way = rng.normal(size=3)
        nz, ny, nx = np.round(2.4 * way / np.linalg.norm(way) * [0.6, 1, 1])
        turns = nz * (Z + 0.5) / DEPTH + ny * Y / SIZE + nx * X / SIZE + rng.uniform()
        field += np.cos(2 * np.pi * turns)
    return 1 / (1 + np.exp(-20 * (field - np.median(field)) / field.std()))


def pore(radius_px, depth_nm):
    """A round pore in the middle of bulk."""
    hole = (Y - MIDDLE) ** 2 + (X - MIDDLE) ** 2 < radius_px**2
    return ~(hole & (Z * LAYER_NM < depth_nm - 1))


# Closed forms


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kev", [1.0, 5.0])
def test_bulk_emits_its_bulk_yields_at_every_face(kev, periodic):
    """``B = eta`` and ``S = delta (1 + b eta)``, whatever the tilt, edge and pore terms."""
    lens = instrument(kev)
    secondary, backscatter = emitted(np.ones((DEPTH, SIZE, SIZE)), lens, periodic=periodic)
    c = channel_coefficients(lens)
    eta, delta, b = float(c.eta[1, 0]), float(c.delta[0, 0]), float(c.se_by_bse[0])
    np.testing.assert_allclose(backscatter, eta, rtol=2e-5)
    np.testing.assert_allclose(secondary, delta * (1 + b * eta), rtol=2e-5)
    np.testing.assert_allclose(float(bulk_yields(lens).secondary[0]), secondary.mean(), rtol=2e-5)


@pytest.mark.parametrize("periodic", [True, False])
def test_empty_space_is_dark(periodic):
    out = emitted(np.zeros((DEPTH, SIZE, SIZE)), instrument(), periodic=periodic)
    np.testing.assert_array_equal(out, 0.0)


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_film_over_vacuum(layers):
    """``eta (1 - exp(-mu t))``; without backscattered electrons' help the same for S."""
    lens = instrument(se_by_bse=0.0, range_scale=1.0, **FLAT, **SMOOTH)
    secondary, backscatter = emitted(Z < layers, lens)
    c = channel_coefficients(lens)
    t = LAYER_NM * layers
    # Half of the backscattered electrons come from above their median depth.
    depth = float(evaluate(interaction_table("Au"), 2.0).depth_nm)
    for signal, peak, mu in (
        (backscatter, c.eta[1, 0], np.log(2) / depth),
        (secondary, c.delta[0, 0], float(c.se_attenuation[0, 0])),
    ):
        expected = float(peak) * (1 - np.exp(-mu * t))
        np.testing.assert_allclose(signal[0], expected, rtol=1e-4)


def test_film_over_a_gap_over_bulk_looks_like_bulk():
    """An endless film lets out what the ground below sends back: eta of bulk at every face."""
    lens = instrument(5.0, **SMOOTH)
    _, backscatter = emitted((Z < 2) | (Z >= 15), lens)
    np.testing.assert_allclose(backscatter, float(bulk_yields(lens).backscatter[1]), rtol=1e-4)


# What leaves a pore


def seen_from(depth, tan_tilt=0.0):
    """Openness of a depth map in nm on 4 nm pixels, not periodic."""
    depth = jnp.asarray(depth, float)
    gradient = [limited_gradient(depth, axis=axis, periodic=False) / 4.0 for axis in (-2, -1)]
    return np.asarray(
        openness(
            depth,
            depth,
            tuple(gradient),
            tan_tilt=jnp.asarray(tan_tilt),
            pixel_nm=jnp.asarray(4.0),
            periodic=False,
        )
    )


@pytest.mark.parametrize("tan_tilt", [0.0, 0.78])
def test_a_flat_surface_is_open_at_any_depth(tan_tilt):
    np.testing.assert_allclose(seen_from(np.full((32, 32), 70.0), tan_tilt), 1.0, atol=1e-3)


@pytest.mark.parametrize(("radius_px", "depth_nm"), [(6, 10), (6, 30), (10, 60), (15, 60), (6, 90)])
def test_floor_of_a_round_pore_sees_its_solid_angle(radius_px, depth_nm):
    """``r^2 / (r^2 + h^2)`` in the middle of the floor (cosine law), within 0.06.

    Walls are looked for at 18 distances in 8 directions, on whole pixels.
    """
    y, x = np.indices((64, 64)) - 32
    depth = np.where(y**2 + x**2 < radius_px**2, depth_nm, 0.0)
    radius = 4.0 * radius_px
    expected = radius**2 / (radius**2 + depth_nm**2)
    found = seen_from(depth)[32, 32]
    print(f"radius {radius:g} nm, depth {depth_nm} nm: {found:.3f}, exact {expected:.3f}")
    assert found == pytest.approx(expected, abs=0.06)


def test_slanted_plane_is_as_open_as_its_slope_says():
    """A slope of angle a sees (1 + cos a) / 2 of a cosine law: its own plane is no obstacle."""
    x = np.indices((64, 64))[1]
    for slope in (0.5, 1.0):
        # The plane goes on to the borders, whose held edge rows lie beyond 20 pixels.
        found = seen_from(slope * 4.0 * x)[32, 40]
        expected = (1 + np.cos(np.arctan(slope))) / 2
        print(f"slope {slope}: {found:.3f}, exact {expected:.3f}")
        assert found == pytest.approx(expected, abs=0.05)


def test_beam_along_a_slanted_pore_sees_an_unshaded_floor_alike():
    """In the beam's frame the floor of a wide trench is open whichever way the beam leans."""
    depth = np.full((64, 64), 20.0)
    depth[:2] = depth[-2:] = 0.0
    flat, leaning = (seen_from(depth, t)[32, 32] for t in (0.0, 0.5))
    assert flat > 0.95 and leaning > 0.9


def test_mean_chords_of_a_grating():
    """Walls of 3 pixels and gaps of 5, above dense ground: chord 12 nm, period 32 nm."""
    grating = np.zeros((6, 8, 64))
    grating[:4, :, np.arange(64) % 8 < 3] = 1.0
    grating[4:] = 1.0
    chord, period = mean_chords_nm(jnp.asarray(grating), jnp.asarray(4.0), periodic=True)
    assert float(chord) == pytest.approx(12.0)
    assert float(period) == pytest.approx(32.0)
    chord, period = mean_chords_nm(jnp.ones((2, 8, 8)), jnp.asarray(4.0), periodic=True)
    assert min(float(chord), float(period)) > 1e6


def test_rough_walls_darken_pores_and_transparent_walls_brighten_them():
    solid = pore(6, 50)

    def middle(**change):
        return emitted(solid, instrument(5.0, tilt_deg=0.0, **change))[:, 0, MIDDLE, MIDDLE]

    plain = middle()
    assert np.all(middle(wall_emission=0.4) < plain)
    assert np.all(middle(wall_transparency=50.0) > plain)
    assert np.all(middle(return_depth=5.0) > plain)


# Depth, tilt and voltage


def test_tilt_displaces_deep_structure_by_depth_times_tangent():
    """A patterned thin film under open space; each face lies 10 nm nearer to it than the last.

    The layer's centre counts as its depth. Displacements are read from the maximum of the
    correlation with the untilted image, interpolated in Fourier space.
    """
    pattern = np.random.default_rng(1).uniform(size=(SIZE, SIZE)) > 0.5
    film = (Z == 18) & pattern
    angle = 33.0
    flat, tilted = (
        emitted(film, instrument(tilt_deg=t, **FLAT, **SMOOTH))[1] for t in (0.0, angle)
    )
    shifts = np.arange(0, SIZE, 0.05)
    turn = np.exp(2j * np.pi * np.fft.fftfreq(SIZE)[:, None] * shifts)
    for k in range(SLICES):
        cross = (np.fft.fft(tilted[k], axis=0) * np.conj(np.fft.fft(flat[k], axis=0))).sum(1)
        found = shifts[np.argmax((cross[:, None] * turn).real.sum(0))]
        # out[y] = floor[y + d]: the pattern appears d pixels higher up.
        expected = (-(18.5 * LAYER_NM - 10 * k) * np.tan(np.deg2rad(angle)) / 4.0) % SIZE
        assert found == pytest.approx(expected, abs=0.25)


def test_deeper_pores_are_darker():
    """The floor of a round pore of 24 nm radius lies 60, 50, 40 and 30 nm below the faces."""
    for signal in emitted(pore(6, 60), instrument(tilt_deg=0.0)):
        floor, flat = signal[:, MIDDLE, MIDDLE], signal[0, 0, 0]
        assert np.all(np.diff(floor) > 0.02 * flat)
        assert floor[-1] < flat


def test_narrower_pores_are_darker():
    floor = [
        emitted(pore(r, 60), instrument(tilt_deg=0.0))[:, 0, MIDDLE, MIDDLE] for r in (3, 5, 8)
    ]
    assert np.all(np.diff(floor, axis=0) > 0)


def test_higher_voltage_sees_deeper():
    """Backscatter contrast of a void under 10 nm of gold grows with voltage: 1, 2, 5 keV.

    Beyond, electrons reach past the void, 24 nm in radius, and the contrast stays.
    """
    void = pore(6, 40) | (Z < 3)
    contrast = []
    for kev in (1.0, 2.0, 5.0):
        image = emitted(void, instrument(kev, tilt_deg=0.0))[1, 0]
        contrast.append(1 - image[MIDDLE, MIDDLE] / image[0, 0])
    assert np.all(np.diff(contrast) > 0)
    assert contrast[0] < 0.01 < 0.1 < contrast[-1]


def test_pore_edges_are_bright():
    """Solid beside a pore emits more with the edge term, solid far away does not."""
    bright, plain = (
        emitted(pore(6, 400), instrument(5.0, tilt_deg=0.0, edge_gain=gain))[:, 0]
        for gain in (1.0, 0.0)
    )
    for ratio in bright / plain:
        assert ratio[MIDDLE, MIDDLE + 6] > 1.15 > 1.01 > ratio[0, 0]


def test_solid_behind_a_wall_that_the_beam_does_not_see_scatters_more():
    """The solid above y = 12 turns away from the beam, which leans to +y; that from 36 faces it."""
    solid = (Y < 12) | (Y >= 36)
    plain = {**FLAT, **SMOOTH, "se_by_bse": 0.0}  # secondaries by the beam alone
    with_law, without = (
        emitted(solid, instrument(5.0, **{**plain, "bse_facing": strength}))[:, 0, :, 0]
        for strength in (1.0, 0.0)
    )
    change = (with_law - without)[1]
    assert change[10] > 0.03 and change[37] < -0.03
    assert abs(change[0]) < 0.01  # far from both
    of_secondaries = (with_law / without)[0] - 1
    assert of_secondaries[10] > 0.03 and of_secondaries[37] < -0.03
    assert abs(of_secondaries[0]) < 0.02


@pytest.mark.parametrize("filled", [False, True])
def test_no_secondaries_leave_into_what_fills_a_pore(filled):
    """Beside a wall that faces away backscatter rises in any case, secondaries if it is open."""
    lens = fibsim.make_instrument(
        beam_kev=(5.0,), tilt_deg=38.0, pixel_nm=4.0, solid="Au", other_phases=("resin",)
    )
    wall = jnp.asarray((Y[0] < 12) | (Y[0] >= 36), float)
    rho = jnp.stack([wall, (1 - wall) * filled])[:, None]
    texture = Texture(
        chord_nm=jnp.asarray(40.0), period_nm=jnp.asarray(100.0), shares=jnp.asarray([0.5, 0.5])
    )
    one = jax.tree.map(lambda leaf: leaf[0], channel_coefficients(lens))
    one = dataclasses.replace(one, edge_gain=jnp.asarray(0.0))
    near = surroundings(rho, rho, texture, one, lens.geometry, periodic=True)
    of_backscatter, of_secondaries = (
        np.asarray(factor[0, :, 0]) - 1 for factor in (near.bse_factor, near.se_factor)
    )
    assert of_backscatter[10] > 0.05 and of_backscatter[37] < -0.05
    if filled:
        np.testing.assert_allclose(of_secondaries, 0.0, atol=1e-5)
    else:
        np.testing.assert_allclose(of_secondaries, of_backscatter / 2, rtol=1e-3, atol=1e-5)


def one_channel(kev=4.0, **numbers):
    """Coefficients of an upright backscatter channel, and its geometry and texture."""
    lens = instrument(kev, tilt_deg=0.0, **numbers)
    one = jax.tree.map(lambda leaf: leaf[1], channel_coefficients(lens))
    texture = Texture(
        chord_nm=jnp.asarray(40.0), period_nm=jnp.asarray(100.0), shares=jnp.asarray([1.0])
    )
    return one, lens.geometry, texture


@pytest.mark.parametrize("top", [0, 1, 2])
def test_what_surrounds_a_floor_does_not_know_where_slices_begin(top):
    """Stripes of solid are as bright wherever in a slice they begin."""
    one, geometry, texture = one_channel()
    stripes = jnp.broadcast_to(jnp.asarray(Y[0] % 16 < 8, float), (1, 3, SIZE, SIZE))
    begun = stripes * (jnp.arange(3) >= top)[:, None, None]

    def around(rho):
        near = surroundings(rho, upper_layers(stripes), texture, one, geometry, periodic=True)
        return np.stack([near.bse_factor, near.se_factor, near.sideways])

    np.testing.assert_allclose(around(begun)[:, top], around(stripes)[:, 0], atol=1e-6)
    assert np.ptp(around(begun)[:, top]) > 0.1


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_film_closes_all_that_it_covers(layers):
    """B under it by a power of 1 and the share of the slice that the film fills."""
    one, geometry, texture = one_channel(lateral_exit=0.0, **FLAT)
    film = jnp.broadcast_to((jnp.arange(3.0) < layers)[None, :, None, None], (1, 3, 8, 8))
    film = film.astype(float)
    height_nm = jnp.asarray([10.0, 20.0, 30.0]) / 6
    scene = jnp.full((8, 8), 0.3), jnp.full((8, 8), 0.9)
    seen = jnp.asarray([0.6, 0.5, 0.1])[:, None, None] * jnp.ones((3, 8, 8))
    near = surroundings(film, upper_layers(film), texture, one, geometry, periodic=True)
    (back, _), _ = render_slice(
        scene, film, near, height_nm, seen, seen, texture, one, geometry, periodic=True
    )
    passed = np.exp(-float(one.bse_attenuation[0]) * float(height_nm[:layers].sum()))
    expected = one.eta[0] * (1 - passed) + passed * 0.3 * 0.6 ** (1 + layers / 3)
    np.testing.assert_allclose(back, expected, rtol=1e-5)


@pytest.mark.parametrize("walls_nm, emits", [(0.0, 1.0), (1e4, 0.8)])
def test_a_shallow_floor_scatters_like_a_face(walls_nm, emits):
    """Backscatter of an open floor; secondaries leave from the first nanometre at any depth."""
    one, _, texture = one_channel(wall_emission=0.8)
    whole = jnp.ones((2, 2))
    view = View(face=0 * whole, depth_nm=walls_nm * whole, walls_nm=walls_nm * whole, open=whole,
                secant=whole)  # fmt: skip
    of_back, of_second, _ = shares_seen(view, texture, one)
    np.testing.assert_allclose(of_back, emits, rtol=1e-6)
    np.testing.assert_allclose(of_second, 0.8, rtol=1e-6)


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


@pytest.mark.parametrize("tilt", [0.0, 38.0])
def test_image_converges_with_the_number_of_sublayers(tilt):
    """Against 12 sub-layers, 0.1 to 1.5 nm: 3 differ by 10 % of the contrast at most, 6 by 5 %.

    Attenuation is exact in any number of layers (below); what converges is the depth map, which
    knows the first surface to the thickness of a sub-layer.
    """
    solid, lens = waves(), instrument(tilt_deg=tilt)
    three, six, twelve = (emitted(solid, lens, sublayers=n) for n in (3, 6, 12))
    for name, a, b, limit in zip(("SE", "BSE"), three, six, twelve, strict=True):
        coarse, fine = (np.sqrt(np.mean((v - limit) ** 2)) / limit.std() for v in (a, b))
        print(f"{name}, tilt {tilt:g}: 3 sub-layers {coarse:.3f} of contrast, 6 {fine:.3f}")
        assert coarse < 0.1 and fine < 0.05 and fine < 0.65 * coarse


@pytest.mark.parametrize("tilt", [0.0, 38.0])
def test_finer_voxels_do_not_change_the_image(tilt):
    """The same specimen in layers half as thick: below 1 % rms of the contrast."""
    solid = waves().astype(np.float32)
    lens = instrument(tilt_deg=tilt)
    fine_nm = (VOXEL_NM[0] / 2, *VOXEL_NM[1:])
    fine = make_specimen(np.repeat(solid, 2, axis=0), voxel_nm=fine_nm, periodic=True)
    image = np.asarray(fibsim.expected_stack(fine, lens, num_slices=SLICES, sublayers=3))
    for a, b in zip(emitted(solid, lens), image, strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.01 * a.std()


def test_layer_is_the_limit_of_thin_layers():
    """One layer of 10 nm of solid over vacuum against an integration in 4000 steps."""
    lens = instrument(5.0, tilt_deg=0.0)
    found = emitted(Z < 3, lens, sublayers=1)[:, 0].mean((1, 2))
    c = channel_coefficients(lens)
    eta, delta, b, mu_b, mu_s = (
        float(jnp.ravel(leaf)[0])
        for leaf in (c.eta, c.delta, c.se_by_bse, c.bse_attenuation, c.se_attenuation)
    )
    back = second = 0.0
    step = 10.0 / 4000
    for _ in range(4000):
        second += step * mu_s * (delta * (1 + b * back) - second)
        back += step * mu_b * (eta - back)
    np.testing.assert_allclose(found, (second, back), rtol=2e-3)


def test_average_depth_is_the_mean_of_the_voxels_between_two_depths():
    """Against sums over voxels cut into 100; past the ends the end layers go on."""
    volume = np.random.default_rng(3).uniform(size=(5, 1, 1)).astype(np.float32)
    fine = np.concatenate([np.full(200, volume[0, 0, 0]), np.repeat(volume.ravel(), 100)])
    fine = np.concatenate([fine, np.full(200, volume[-1, 0, 0])])
    tops, thicknesses = [-1.5, 0.0, 0.25, 1.9, 4.5, 5.5], [1.0, 2.0, 0.5, 3.1, 1.5, 1.0]
    for top, thick in zip(tops, thicknesses, strict=True):
        value = float(average_depth(jnp.asarray(volume), jnp.asarray([top, top + thick]))[0, 0, 0])
        first = round(top * 100) + 200
        assert value == pytest.approx(fine[first : first + round(thick * 100)].mean(), abs=1e-5)


def test_borders_of_cut_specimens_do_not_reach_the_interior():
    """Cut out of a periodic specimen, the part of the image away from borders keeps its values.

    Near borders the view ends: mirrored for filters, held for horizons and for the leaning beam,
    which reaches 94 nm (23 pixels) in the 12 slices that are looked through.
    """
    solid = waves()
    whole, cut = (emitted(solid, instrument(), periodic=periodic) for periodic in (True, False))
    inner = (..., slice(12, 22), slice(16, 32))
    for a, b in zip(whole, cut, strict=True):
        error = np.sqrt(np.mean((a[inner] - b[inner]) ** 2)) / a.std()
        border = np.sqrt(np.mean((a[..., -6:, :] - b[..., -6:, :]) ** 2)) / a.std()
        print(f"rms difference inside {error:.4f}, at the lower border {border:.4f} of contrast")
        assert error < 0.02 < 0.1 < border


@pytest.mark.parametrize("sideways", [0.0, 0.3])
def test_signal_is_positive_and_below_its_bound(sideways):
    """Without ways out sideways nothing emits more than bulk; a slab in the open gains their share,
    since there nothing attenuates what leaves sideways."""
    lens = instrument(lateral_exit=sideways, **FLAT)
    secondary, backscatter = emitted(waves(), lens)
    bulk = bulk_yields(lens)
    most = float(bulk.backscatter[1]) / (1 - sideways)
    assert backscatter.min() >= 0 and backscatter.max() <= 1.02 * most
    c = channel_coefficients(lens)
    of_both = float(c.delta[0, 0] * (1 + c.se_by_bse[0] * most))
    assert secondary.min() >= 0 and secondary.max() <= 1.02 * of_both
    if sideways:
        assert backscatter.max() > 1.05 * float(bulk.backscatter[1])


@pytest.mark.parametrize("layers", [1, 3, 12])
def test_a_wall_through_a_pixel_does_not_hide_the_floor_beside_it(layers):
    """Half filled pixels down to a floor at 30 nm: the other half sees the floor."""
    ground = jnp.stack([jnp.zeros((4, 4)), jnp.zeros((4, 4)), jnp.ones((4, 4))])
    height = jnp.full(layers, 30.0 / layers)
    depth, walls, share = lay_depth(
        ground, jnp.full((layers, 4, 4), 0.5), jnp.full((4, 4), 0.2), height, 0, periodic=True
    )
    np.testing.assert_allclose(depth, 15.0, rtol=2e-3)
    np.testing.assert_allclose(walls, 3.0, rtol=2e-3)
    np.testing.assert_array_equal(share, 0.5)
    # An empty layer deepens the view for both halves, a full one ends it.
    for filled, wanted in ((0.0, 20.0), (1.0, 0.0)):
        over, _, _ = lay_depth(
            jnp.stack([depth, walls, share]),
            jnp.full((1, 4, 4), filled),
            jnp.full((4, 4), 0.2),
            jnp.full(1, 5.0),
            0,
            periodic=True,
        )
        np.testing.assert_allclose(over, wanted, atol=0.05)
