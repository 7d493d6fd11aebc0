"""Which of two voltages sees deeper, by the images alone."""

import dataclasses

import jax
import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from fibsim.cli import main
from fibsim.depth_order import DepthOrder, depth_order_warnings, depth_orders
from fibsim.fit import draw_sample
from fibsim.io import inspect_stack
from fibsim.presets import make_instrument
from fibsim.stack import Channel, Stack, virtual_stack


def named(images, voltages, detectors=None):
    """Grey values as a stack; channels named by what they are said to be."""
    detectors = detectors or ("SE",) * len(voltages)
    channels = tuple(
        Channel(beam_kev=kev, detector=detector, name=f"{kev:g}kV")
        for kev, detector in zip(voltages, detectors, strict=True)
    )
    return Stack(images=images, channels=channels, pixel_nm=4.0, slice_nm=10.0)


def seen_ahead(ahead, *, alike=0.8, slices=41, side=128, drift=0):
    """Two channels of a random field whose slices correlate by ``alike``: as it is, and with a
    share ``ahead`` of the next slice."""
    rng = np.random.default_rng(3)
    field = gaussian_filter(rng.normal(size=(slices, side, side)), (0, 3, 3), mode="wrap")
    for k in range(1, slices):
        field[k] = alike * field[k - 1] + np.sqrt(1 - alike**2) * field[k]
    field /= field.std()
    both = np.stack([field[:-1], field[:-1] + ahead * field[1:]])
    for k in range(slices - 1):
        both[:, k] = np.roll(both[:, k], drift * k, axis=1)
    return both + 0.3 * rng.normal(size=both.shape)


@pytest.mark.parametrize("drift", [0, 3])
def test_the_share_is_that_of_a_field_seen_ahead(drift):
    """<a_k b_k+s> = alike^s + ahead alike^(s-1), the other way round ahead alike^(s+1); a step
    weighs as much as its likeness."""
    alike, ahead = 0.8, 0.2
    (found,) = depth_orders(named(seen_ahead(ahead, drift=drift), (1.0, 5.0)))
    steps = np.array([1, 2, 3])
    one_way = ahead * (alike ** (steps - 1) - alike ** (steps + 1))
    both = 2 * alike**steps + ahead * (alike ** (steps - 1) + alike ** (steps + 1))
    expected = np.sum(both * one_way) / np.sum(both**2)
    assert found.share == pytest.approx(expected, abs=4 * found.error)
    assert found.error < 0.1 * found.share and found.sure and not found.denied


def test_nothing_is_told_where_both_see_equally_deep():
    images = seen_ahead(0.0)
    # Other contrast, brightness, blur and noise.
    images[1] = gaussian_filter(40 + 3 * images[1], (0, 1, 1))
    images[1] += np.random.default_rng(4).normal(size=images[1].shape)
    (found,) = depth_orders(named(images, (1.0, 5.0)))
    assert abs(found.share) < 4 * found.error < 0.02 and not found.sure


def test_pairs_that_images_cannot_tell_apart_are_left_out():
    images = seen_ahead(0.2)
    assert depth_orders(named(images, (1.0, 1.1))) == []
    assert depth_orders(named(images, (1.0, 5.0), ("SE", "BSE"))) == []
    assert depth_orders(named(images, (20.0, 30.0))) == []  # seen through
    assert depth_orders(named(images[:, :7], (1.0, 5.0))) == []
    assert depth_orders(named(images[..., :40], (1.0, 5.0))) == []
    assert depth_orders(named(images[:1], (1.0,))) == []
    images[1] = 7.0
    (found,) = depth_orders(named(images, (1.0, 5.0)))
    assert not found.sure


def test_sentences_say_what_to_check():
    stack = named(np.zeros((3, 1, 1, 1)), (1.0, 2.0, 5.0))

    def order(lower, higher, share, error=0.001):
        return DepthOrder(lower=lower, higher=higher, share=share, error=error)

    right = [order(0, 1, 0.02), order(0, 2, 0.08), order(1, 2, 0.05)]
    assert depth_order_warnings(stack, right) == []
    assert depth_order_warnings(stack, [order(0, 1, -0.02, 0.004)]) == []
    (said,) = depth_order_warnings(stack, [*right[:2], order(1, 2, -0.05)])
    assert "2kV (2 kV) than in 5kV (5 kV)" in said and "look swapped" in said
    (said,) = depth_order_warnings(stack, [dataclasses.replace(o, share=-o.share) for o in right])
    assert "1kV (1 kV) than in 5kV (5 kV)" in said and "order of milling" in said


@pytest.fixture(scope="module")
def gold(compiling_fast):
    instrument = make_instrument(beam_kev=[1.0, 2.0, 5.0], tilt_deg=38.0)
    instrument = dataclasses.replace(
        instrument,
        detector=dataclasses.replace(instrument.detector, gain=np.full(3, 150.0, np.float32)),
    )
    with compiling_fast():
        sample = draw_sample(
            instrument,
            {"solid_fraction": 0.36, "ligament_nm": 30.0},
            key=jax.random.key(5),
            kind="waves",
            shape=(16, 96, 96),
            slice_nm=10.0,
            pixel_nm=4.0,
            sublayers=3,
            below_slices=9,
        )
    return virtual_stack(sample.images, instrument)


def test_swapped_voltages_are_named_before_a_fit(gold):
    assert [o.sure and not o.denied for o in depth_orders(gold)] == [True] * 3
    assert "slices to come" not in inspect_stack(gold, depth_order_warnings(gold))
    for pair in ((0, 1), (1, 2)):
        channels = list(gold.channels)
        for here, there in (pair, pair[::-1]):
            kev = gold.channels[there].beam_kev
            channels[here] = dataclasses.replace(gold.channels[here], beam_kev=kev)
        swapped = dataclasses.replace(gold, channels=tuple(channels))
        text = inspect_stack(swapped, depth_order_warnings(swapped))
        assert "their voltages look swapped" in text
        assert all(f"{gold.channels[i].name} (" in text.split("Warnings")[1] for i in pair)


def test_slices_in_reverse_order_are_named(gold):
    (said,) = depth_order_warnings(dataclasses.replace(gold, images=gold.images[:, ::-1]))
    assert "not in the order of milling" in said


def test_inspect_names_swapped_files(gold, tmp_path, capsys):
    for images, name in zip(gold.images, ("2kV", "1kV", "5kV"), strict=True):
        tifffile.imwrite(tmp_path / f"{name}.tif", images)
    facts = ["--pixel-nm", "4", "--slice-nm", "10", "--tilt-deg", "38"]
    assert main(["inspect", str(tmp_path), *facts]) == 0
    said = capsys.readouterr().out
    assert "seen in 1kV (1 kV) than in 2kV (2 kV), as only a higher voltage should: their" in said
