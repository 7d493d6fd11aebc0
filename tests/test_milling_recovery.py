"""Thickness and drift from the images alone, and slices put back where they belong."""

import csv
import dataclasses
import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from fibsim import estimate_milling, io, reposition
from fibsim.cli import main
from fibsim.errors import InputError
from fibsim.fit.unevenness import run_as_seen, unevenness
from fibsim.milling_command import milling_table
from fibsim.realign import MillingEstimate, findings
from fibsim.realign.coarse import coarse_displacements, displacement_sizes, likeness
from fibsim.realign.drift import slowness
from fibsim.stack import Channel, Stack

SLICE_NM, PIXEL_NM = 10.0, 4.0
VOXEL = dict(slice_nm=SLICE_NM, pixel_nm=PIXEL_NM, tilt_deg=0.0)


def displaced(images, shift_px):
    """Periodic images moved by fractions of pixels, exactly."""
    y, x = images.shape[-2:]
    waves = shift_px[..., :1, None] * np.fft.fftfreq(y)[:, None]
    waves = waves + shift_px[..., 1:, None] * np.fft.fftfreq(x)
    return np.fft.ifft2(np.fft.fft2(images) * np.exp(-2j * np.pi * waves)).real


def recording(
    seed=0,
    *,
    slices=32,
    side=96,
    jitter=0.15,
    drift_px=0.0,
    noise=8.0,
    channel_px=0.0,
    lean_deg=None,
):
    """Two channels of faces cut at uneven depths out of blurred noise, which has an exact truth.

    With a lean, what lies 20 and 40 nm below the face shines through open pores.

    Returns the images, the thickness (nm), the drift and that of the channels (pixels).
    """
    rng = np.random.default_rng(seed)
    layers_per_nm = 0.5
    thickness = SLICE_NM * np.maximum(1 + jitter * rng.normal(size=slices), 0.2)
    depth = np.cumsum(thickness) - thickness
    layers = int((depth[-1] + 40) * layers_per_nm) + 8
    field = gaussian_filter(
        rng.normal(size=(layers, side, side)), (5, 2, 2), mode=("nearest", "wrap", "wrap")
    )

    def solid_at(depth_nm):
        place = depth_nm * layers_per_nm + 2
        above = place.astype(int)
        part = (place - above)[:, None, None]
        faces = (1 - part) * field[above] + part * field[above + 1]
        return 1 / (1 + np.exp(-5 * faces / field.std()))

    solid = solid_at(depth)
    if lean_deg is not None:
        open_to = 1 - solid
        for below in (20.0, 40.0):
            shift = np.array([[-below * np.tan(np.radians(lean_deg)) / PIXEL_NM, 0.0]])
            deeper = displaced(solid_at(depth + below), shift)
            solid = solid + 0.5 * open_to * deeper
            open_to = open_to * (1 - deeper)
    drift = drift_px * rng.normal(size=(slices, 2))
    own = channel_px * rng.normal(size=(2, slices, 2))
    clean = 60 + 120 * np.stack([solid, gaussian_filter(solid, (0, 1, 1), mode="wrap")])
    images = displaced(clean, drift + own) + noise * rng.normal(size=clean.shape)
    return np.clip(np.round(images), 0, 255).astype(np.uint8), thickness, drift, own


def without_trend(values):
    ramp = np.arange(len(values)) - (len(values) - 1) / 2
    return values - values.mean(0) - np.outer(ramp, ramp @ values) / (ramp @ ramp)


def rms(values):
    return np.sqrt(np.mean(values**2))


# The estimate


def test_jitter_and_drift_are_recovered():
    images, thickness, drift, own = recording(seed=1, drift_px=0.8, channel_px=0.3)
    found = estimate_milling(images, **VOXEL)
    true = thickness[:-1] - thickness[:-1].mean()
    error = found.thickness_nm[:-1] - SLICE_NM - true
    assert np.corrcoef(true, found.thickness_nm[:-1])[0, 1] > 0.75
    assert np.mean(np.abs(error) < 2 * found.thickness_se_nm[:-1]) > 0.8
    low, high = found.jitter_range
    assert low <= true.std() / SLICE_NM <= high
    assert found.thickness_nm[:-1].mean() == pytest.approx(SLICE_NM)
    # The mean drift cannot be told, nor its trend along y (and hardly that along x).
    shared = drift + own.mean(0)
    assert rms(without_trend(found.drift_nm / PIXEL_NM - shared)) < 0.25
    between = own - own.mean(0)
    between -= between.mean(1, keepdims=True)
    error = found.channel_drift_nm / PIXEL_NM - between
    assert rms(error) < 0.05 < rms(between)
    assert rms(error) < 2 * rms(found.channel_drift_se_nm / PIXEL_NM)


def test_jitter_is_found_beside_what_shines_through():
    """Deep structure moves by the beam's lean, two pixels a slice, and stays in view."""
    images, thickness, *_ = recording(seed=1, lean_deg=38.0)
    found = estimate_milling(images, slice_nm=SLICE_NM, pixel_nm=PIXEL_NM, tilt_deg=38.0)
    assert np.corrcoef(thickness[:-1], found.thickness_nm[:-1])[0, 1] > 0.75
    assert found.jitter_range[0] > 0.05
    assert rms(found.drift_nm / PIXEL_NM) < 0.2


def test_even_slices_stay_even():
    images, *_ = recording(seed=2, jitter=0.0)
    found = estimate_milling(images, **VOXEL)
    assert found.jitter_range[0] < 0.02 and found.jitter < 0.05
    error = found.thickness_nm[:-1] - SLICE_NM
    assert rms(error) < 0.5
    assert np.mean(np.abs(error) <= 2 * found.thickness_se_nm[:-1]) > 0.9
    assert rms(found.drift_nm / PIXEL_NM) < 0.1
    assert np.abs(found.channel_drift_nm).max() < 0.1
    assert any("may be none" in line for line in findings(found))


def test_long_stacks_are_solved_in_windows(monkeypatch):
    monkeypatch.setattr("fibsim.realign.estimate._WINDOW", 32)
    steps = []
    images, thickness, *_ = recording(seed=2, slices=50, side=48, drift_px=0.5)
    found = estimate_milling(images, **VOXEL, progress=lambda *told: steps.append(told))
    assert np.corrcoef(thickness[:-1], found.thickness_nm[:-1])[0, 1] > 0.45
    done, total, text = zip(*steps, strict=True)
    assert done == tuple(range(1, total[0] + 1)) and set(total) == {len(done)}
    assert len(set(text)) == 2


def test_regular_slices_of_another_simulator(shared_data):
    """An electron Monte Carlo that shares no code with this package milled them evenly."""
    stack = io.read_stack(shared_data / "instrument_a")
    found = estimate_milling(
        stack.images, slice_nm=stack.slice_nm, pixel_nm=stack.pixel_nm, tilt_deg=38.0
    )
    assert found.jitter < 0.04 and found.jitter_range[0] == 0.0
    assert rms(found.drift_nm / found.pixel_nm) < 0.1


# The start


def test_jumps_between_slices_are_found():
    images, _, drift, _ = recording(seed=3, slices=16, jitter=0.0)
    drift = drift + np.where(np.arange(16) < 9, 0.0, 11.3)[:, None] * [[0.0, 1.0]]
    found = coarse_displacements(displaced(images.astype(float), drift))
    assert np.diff(found[:, 1])[8] == pytest.approx(11.3, abs=0.3)
    assert np.abs(np.delete(np.diff(found[:, 1]), 8)).max() < 0.6


def test_slices_half_a_period_apart_do_not_outvote_neighbours():
    """A structure of one wave length: what lies three slices deeper is its negative."""
    rng = np.random.default_rng(0)
    size, period = (64, 96, 96), 16.0
    wave = np.sqrt(
        sum(
            (np.fft.fftfreq(n)[(slice(None),) + (None,) * (2 - i)]) ** 2 for i, n in enumerate(size)
        )
    )
    spectrum = np.fft.fftn(rng.normal(size=size)) * np.exp(-(((wave - 1 / period) / 0.008) ** 2))
    field = np.fft.ifftn(spectrum).real
    faces = field[: 3 * 20 : 3][None] / field.std()  # 3 of 16 layers a slice
    faces = faces + 0.5 * rng.normal(size=faces.shape)
    # Half a wave length is 8 pixels; wandering stays.
    assert np.abs(np.diff(coarse_displacements(faces), axis=0)).max() < 2.0


def test_a_walk_is_kept_and_wandering_is_not():
    rng = np.random.default_rng(0)
    walk = np.cumsum(1.5 * rng.normal(size=(60, 2)), axis=0)
    walk -= walk.mean(0)
    kept, sizes = displacement_sizes(walk)
    assert all(1.0 < size.step_px < 2.2 for size in sizes)
    assert rms(kept - walk) < 0.4 * rms(walk)
    kept, sizes = displacement_sizes(walk / 10)
    assert all(size.step_px < 0.1 for size in sizes)
    assert rms(kept) < 0.5 * rms(walk / 10)


def test_slowness_is_that_of_a_random_walk():
    from scipy.fft import dct

    walks = np.cumsum(np.random.default_rng(0).normal(size=(4000, 20)), axis=1)
    seen = dct(walks, norm="ortho", axis=1).var(0)
    np.testing.assert_allclose(seen[1:], slowness(20)[1:], rtol=0.15)


# Sizes of the faults, for stacks that a fit simulates


def test_simulated_stacks_are_milled_as_unevenly():
    images, thickness, drift, _ = recording(seed=1, drift_px=0.8)
    found = unevenness(images.astype(np.float32), **VOXEL)
    assert found.found
    true = {
        "faults.thickness_sd": thickness[:-1].std() / SLICE_NM,
        # What is slow looks as the specimen does.
        "faults.drift_nm": PIXEL_NM * np.diff(drift, axis=0).std() / np.sqrt(2),
    }
    for name, value in true.items():
        assert abs(found.values[name] - value) < 3 * found.errors[name], name
        assert 0 < found.errors[name] < 0.5 * value, name


def test_simulated_stacks_stay_even():
    images, *_ = recording(seed=2, jitter=0.0)
    found = unevenness(images.astype(np.float32), **VOXEL)
    assert not found.found
    assert found.values["faults.thickness_sd"] < 0.05
    assert found.values["faults.drift_nm"] < 0.1 * PIXEL_NM


def test_a_stack_too_small_to_tell_has_no_sizes():
    images, *_ = recording(seed=2, slices=8, side=48)
    assert unevenness(images.astype(np.float32), **VOXEL) is not None
    assert unevenness(images[:, :7].astype(np.float32), **VOXEL) is None
    assert unevenness(images[..., :47].astype(np.float32), **VOXEL) is None
    images[1, 3] = 9
    assert unevenness(images.astype(np.float32), **VOXEL) is None


@pytest.mark.parametrize("channels", [1, 2])
def test_slices_of_noise_alone_are_refused_and_have_no_sizes(channels):
    noise = np.random.default_rng(0).normal(100, 10, (channels, 16, 64, 64)).astype(np.float32)
    with pytest.raises(InputError, match="no structure that could be followed"):
        estimate_milling(noise, **VOXEL)
    assert unevenness(noise, **VOXEL) is None


def test_slices_are_like_their_neighbours_and_unrelated_ones_are_not():
    recorded = recording(seed=2, slices=8, side=48)[0].astype(np.float32)[:1]
    unrelated = [recording(seed=seed, slices=8, side=48)[0][:1, 0] for seed in range(3, 11)]
    assert likeness(recorded) > 1.5
    assert likeness(np.stack(unrelated, axis=1).astype(np.float32)) < 1.25


def test_a_run_is_seen_in_the_middle_of_all_slices(monkeypatch):
    images, *_ = recording(seed=2, slices=8, side=48)
    stack = Stack(
        images=images,
        channels=tuple(
            Channel(name=f"{kev} kV", beam_kev=kev, detector="SE") for kev in (1.0, 2.0)
        ),
        **dict(VOXEL, tilt_deg=None),
    )
    steps = []
    run = run_as_seen(
        stack, tilt_deg=VOXEL["tilt_deg"], progress=lambda *step: steps.append(step[:2])
    )
    assert steps == [(i, steps[0][1]) for i in range(1, steps[0][1] + 1)]
    np.testing.assert_array_equal(run.thickness_nm, estimate_milling(images, **VOXEL).thickness_nm)
    seen = []

    def estimate(part, **grid):
        seen.append((part.shape, grid["tilt_deg"]))
        raise InputError("far enough")

    monkeypatch.setattr("fibsim.fit.unevenness.estimate_milling", estimate)
    wide = dataclasses.replace(stack, images=np.zeros((2, 70, 300, 280), np.uint8))
    assert run_as_seen(wide, tilt_deg=12.0) is None
    assert seen == [((2, 70, 256, 256), 12.0)]


def test_the_middle_of_a_large_stack_stands_for_it(monkeypatch):
    seen = []

    def estimate(part, **_):
        seen.append(part)
        raise InputError("far enough")

    monkeypatch.setattr("fibsim.fit.unevenness.estimate_milling", estimate)
    grey = np.arange(70 * 4, dtype=np.float32).reshape(1, 70, 2, 2)
    assert unevenness(grey, **VOXEL) is None
    np.testing.assert_array_equal(seen[0], grey[:, 3:67])


# Slices put back


def estimate_of(thickness_nm, drift_nm, channel_drift_nm):
    count, slices = channel_drift_nm.shape[:2]
    return MillingEstimate(
        thickness_nm=thickness_nm,
        thickness_se_nm=np.ones(slices),
        drift_nm=drift_nm,
        drift_se_nm=np.ones((slices, 2)),
        drift_sd_nm=np.ones(2),
        channel_drift_nm=channel_drift_nm,
        channel_drift_se_nm=np.ones(2),
        brightness=np.ones((count, slices)),
        jitter=0.1,
        jitter_range=(0.0, 0.2),
        slice_nm=SLICE_NM,
        pixel_nm=PIXEL_NM,
        tilt_deg=0.0,
    )


@pytest.mark.parametrize(("interpolation", "most"), [("nearest", 14), ("linear", 3), ("cubic", 2)])
def test_displaced_slices_are_put_back(interpolation, most):
    """Waves known everywhere: every slice returns to its place, each channel by its own way."""
    rng = np.random.default_rng(0)
    slices, side = 20, 48
    thickness = SLICE_NM * (1 + 0.2 * rng.normal(size=slices))
    thickness *= SLICE_NM / thickness[:-1].mean()
    depth = np.concatenate([[0.0], np.cumsum(thickness[:-1])])
    drift = 6 * rng.normal(size=(slices, 2))
    own = 3 * rng.normal(size=(2, slices, 2))

    def scene(z, shift_nm):
        y, x = (PIXEL_NM * np.arange(side) - shift_nm[:, axis, None] for axis in (0, 1))
        y, x, z = y[:, :, None], x[:, None, :], z[:, None, None]
        return 128 + 60 * np.sin(y / 20 + 0.5) * np.cos(x / 25) * np.cos(z / 40)

    recorded = np.stack([scene(depth, drift + one) for one in own]).round().astype(np.uint8)
    found = reposition(recorded, estimate_of(thickness, drift, own), interpolation=interpolation)
    assert found.dtype == np.uint8 and found.shape == recorded.shape
    even = np.broadcast_to(scene(SLICE_NM * np.arange(slices), np.zeros((slices, 2))), found.shape)
    inner = np.s_[:, :, 6:-6, 6:-6]
    error = (found.astype(float) - even)[inner]
    assert np.abs(error).max() < most
    assert rms(error) < 0.25 * rms((recorded - even)[inner])


def test_whole_pixels_and_even_slices_stay_exact():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2**16, (1, 10, 20, 20)).astype(np.uint16)
    drift = PIXEL_NM * rng.integers(-3, 4, (10, 2))
    moved = np.stack([np.roll(i, d, (0, 1)) for i, d in zip(images[0], drift // 4, strict=True)])
    drift = drift.astype(float)
    even = estimate_of(np.full(10, SLICE_NM), drift, np.zeros((1, 10, 2)))
    found = reposition(moved[None].astype(np.uint16), even)
    np.testing.assert_array_equal(found[..., 3:-3, 3:-3], images[..., 3:-3, 3:-3])


def test_fractions_of_pixels_are_undone():
    """To a hundredth of the contrast, for structure that the pixels resolve."""
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.normal(size=(48, 48)), 2.0, mode="wrap")
    shift = rng.uniform(-2, 2, (12, 2))
    recorded = displaced(np.broadcast_to(image, (12, 48, 48)), shift).astype(np.float32)
    even = estimate_of(np.full(12, SLICE_NM), PIXEL_NM * shift, np.zeros((1, 12, 2)))
    inner = np.s_[..., 5:-5, 5:-5]
    error = reposition(recorded[None], even)[0] - image
    assert rms(error[inner]) < 0.01 * image.std()


def test_recorded_stack_comes_closer_to_an_even_one():
    """With what is estimated, not with the truth."""
    images, thickness, drift, _ = recording(seed=4, drift_px=0.8, noise=4.0)
    # Where an even grid lies in the uneven recording; the estimate's mean thickness is nominal.
    depth = np.concatenate([[0.0], np.cumsum(thickness[:-1])])
    scale = depth[-1] / (SLICE_NM * (len(depth) - 1))
    found = estimate_milling(images, **VOXEL)
    put_back = reposition(images, found)[0].astype(float)
    truth = displaced(images[0].astype(float), -(drift - drift.mean(0)))
    place = np.interp(scale * SLICE_NM * np.arange(len(depth)), depth, np.arange(len(depth)))
    grid = np.meshgrid(place, np.arange(96), np.arange(96), indexing="ij")
    truth = map_coordinates(truth, grid, order=1, mode="nearest")
    inner = np.s_[2:-2, 6:-6, 6:-6]
    before, after = rms((images[0] - truth)[inner]), rms((put_back - truth)[inner])
    assert after < 0.6 * before, (before, after)


def test_reposition_refuses_what_does_not_fit():
    images, *_ = recording(slices=10, side=48)
    estimate = estimate_of(np.full(9, SLICE_NM), np.zeros((9, 2)), np.zeros((2, 9, 2)))
    with pytest.raises(InputError, match="2 channels and 9 slices; give the stack"):
        reposition(images, estimate)
    estimate = estimate_of(np.full(10, SLICE_NM), np.zeros((10, 2)), np.zeros((2, 10, 2)))
    with pytest.raises(InputError, match="'sinc', expected one of nearest, linear, cubic"):
        reposition(images, estimate, interpolation="sinc")


# Findings and table


def test_strange_slices_are_named():
    thickness, drift = np.full(30, SLICE_NM), np.zeros((30, 2))
    thickness += 0.1 * np.sin(np.arange(30))
    thickness[7] = 31.0
    drift[20:, 1] = 9 * PIXEL_NM
    drift[:, 0] = 0.1 * np.cos(np.arange(30))
    lines = findings(estimate_of(thickness, drift, np.zeros((1, 30, 2))))
    looks = [line for line in lines if line.startswith("look")]
    assert looks == [
        "look at slices 7 and 8: 31.0 nm lie between them",
        "look at slice 20: displaced by 9.0 pixels at once",
    ]
    assert not any("between channels" in line for line in lines)


def test_table_has_a_row_for_every_slice():
    drift = np.arange(20.0).reshape(10, 2)
    estimate = estimate_of(np.full(10, SLICE_NM), drift, np.zeros((1, 10, 2)))
    rows = list(csv.DictReader(milling_table(estimate, ["1kV"]).splitlines()))
    assert [int(row["slice"]) for row in rows] == list(range(10))
    assert float(rows[3]["position_nm"]) == 30.0
    assert float(rows[3]["drift_x_px"]) == drift[3, 1] / PIXEL_NM
    assert float(rows[3]["1kV brightness"]) == 1.0


# The command


def write(folder, images, kev=(1.0, 5.0)):
    channels = [Channel(beam_kev=v) for v in kev]
    io.write_stack(folder, images, channels, voxel_nm=(SLICE_NM, PIXEL_NM, PIXEL_NM))


def test_command_writes_table_picture_and_a_stack(tmp_path, capsys):
    images, *_ = recording(slices=16, side=64, drift_px=0.5)
    write(tmp_path / "stack", images)
    words = ["milling", str(tmp_path / "stack"), "-o", str(tmp_path / "out"), "--tilt-deg", "0"]
    words += ["--material", "Ni", "--reposition"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "thickness jitter" in told and "drift between channels" in told
    assert "compiling" not in told
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["milling.csv", "milling.png", "repositioned"]
    assert (out / "milling.png").read_bytes().startswith(b"\x89PNG")
    assert len((out / "milling.csv").read_text().splitlines()) == 17

    again = io.read_stack(out / "repositioned")
    assert again.images.shape == images.shape and again.images.dtype == np.uint8
    assert again.voxel_nm == (SLICE_NM, PIXEL_NM, PIXEL_NM)
    assert (again.tilt_deg, again.material) == (0.0, "Ni")
    assert [c.beam_kev for c in again.channels] == [1.0, 5.0]
    assert not np.array_equal(again.images, images)
    assert main(["inspect", str(out / "repositioned")]) == 0

    before = (out / "milling.csv").read_bytes()
    assert main(words) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (out / "milling.csv").read_bytes() == before


def flat_slice(images):
    images[1, 5] = 7


def not_finite(images):
    images[0, 2, 3, 3] = np.nan


@pytest.mark.parametrize(
    ("shape", "change", "options", "said"),
    [
        ((6, 64, 64), None, [], "has 6 slices; at least 8 are needed"),
        ((12, 64, 40), None, [], "have 40 x 64 pixels; at least 48"),
        ((12, 64, 64), flat_slice, [], "slice 5 of channel 5kV.* has one grey value everywhere"),
        ((12, 64, 64), not_finite, [], "not finite"),
        ((12, 64, 64), None, ["--tilt-deg", "95"], "tilt"),
        ((12, 64, 64), None, ["--beam-kev", "1", "1", "--reposition"], "both 1 keV SE"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, shape, change, options, said):
    images = np.random.default_rng(0).normal(100, 20, (2, *shape)).astype(np.float32)
    if change is not None:
        change(images)
    write(tmp_path / "stack", images)
    out = tmp_path / "out"
    assert main(["milling", str(tmp_path / "stack"), "-o", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and error.startswith("error: ") and error.count("\n") == 1
    assert not out.exists()


def test_misspelt_stack_is_named(tmp_path, capsys):
    (tmp_path / "my_stack").mkdir()
    assert main(["milling", str(tmp_path / "my_stak"), "-o", str(tmp_path / "out")]) == 2
    assert "did you mean" in capsys.readouterr().err
