"""Slabs give the bits of the whole stack, whatever their number and the milling.

Compiled as for users, since bits are compared. All runs of a border condition and a slab size have
one program: the same faults are drawn in all of them, which decide how many layers a slab needs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fibsim
from fibsim.errors import InputError
from fibsim.simulate import draw_run
from fibsim.specimens import make_specimen

SLICES, BELOW, SIDE = 7, 3, 40
OPTIONS = dict(num_slices=SLICES, below_slices=BELOW, sublayers=2)
VOXEL_NM = (3.1, 4.0, 4.0)
FAULTS = dict(thickness_sd=0.1, drift_nm=0.9, flicker_sd=0.02, curtain_sd=0.02, line_grey=1.5)
# Slabs of its thicknesses need as many layers as those of a faultless run.
KEY = jax.random.key(4)


def instrument(**changes):
    lens = fibsim.make_instrument(beam_kev=(1.0, 5.0), pixel_nm=4.0, slice_nm=10.0, **changes)
    faults = {k: jnp.asarray(v, jnp.float32) for k, v in FAULTS.items()}
    return dataclasses.replace(lens, faults=dataclasses.replace(lens.faults, **faults))


def labels(layers=34, phases=1):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, phases + 1, (layers // 4 + 1, SIDE // 5, SIDE // 4))
    return np.repeat(np.repeat(np.repeat(coarse, 4, 0)[:layers], 5, 1), 4, 2)


def joined(slabs):
    slabs = sorted(slabs, key=lambda slab: slab.first)
    assert [s.first for s in slabs] == list(
        np.cumsum([0, *(s.images.shape[1] for s in slabs[:-1])])
    )
    return np.concatenate([slab.images for slab in slabs], axis=1)


def both(volume, lens, *, periodic, slab_slices):
    milling, _ = draw_run(lens, (SLICES, SIDE, SIDE), key=KEY)
    specimen = make_specimen(volume, voxel_nm=VOXEL_NM, periodic=periodic)
    whole = np.asarray(fibsim.expected_stack(specimen, lens, milling, **OPTIONS))
    slabs = fibsim.expected_slabs(
        volume, lens, milling, voxel_nm=VOXEL_NM, periodic=periodic, slab_slices=slab_slices,
        **OPTIONS,
    )  # fmt: skip
    return whole, joined(slabs)


@pytest.mark.parametrize(("periodic", "slab_slices"), [(True, 1), (False, 3), (True, 100)])
def test_slabs_are_equal_to_the_whole(periodic, slab_slices):
    """Drawn milling faults, voxels that fit no slice, a specimen that ends below the last face."""
    volume = labels().astype(np.float32)
    whole, slabs = both(volume, instrument(), periodic=periodic, slab_slices=slab_slices)
    assert whole.std() > 1
    np.testing.assert_array_equal(slabs, whole)


def test_slabs_of_two_materials_are_equal_to_the_whole():
    lens = instrument(other_phases=("resin",))
    phases = (labels(phases=2) == np.array([1, 2])[:, None, None, None]).astype(np.float32)
    whole, slabs = both(phases, lens, periodic=True, slab_slices=2)
    np.testing.assert_array_equal(slabs, whole)


@pytest.mark.parametrize(
    ("periodic", "slab_slices", "others"),
    [(True, 1, ()), (False, 3, ()), (True, 100, ()), (True, 2, ("resin",))],
)
def test_recordings_in_slabs_are_equal_to_the_whole(periodic, slab_slices, others):
    """Images with noise, truth and faults; the deepest slab of three records a single slice, that
    of two none.

    Of fractions of voxels, whose sums are not exact as those of labels are.
    """
    lens = instrument(other_phases=others)
    volume = labels(phases=1 + len(others))
    if others:
        volume = volume == np.array([1, 2])[:, None, None, None]
    volume = volume * np.random.default_rng(5).uniform(size=(34, SIDE, SIDE))
    volume = volume.astype(np.float32)
    specimen = make_specimen(volume, voxel_nm=VOXEL_NM, periodic=periodic)
    whole = fibsim.sample_stack(specimen, lens, key=KEY, **OPTIONS)
    slabs = fibsim.sample_slabs(
        volume, lens, key=KEY, voxel_nm=VOXEL_NM, periodic=periodic, slab_slices=slab_slices,
        **OPTIONS,
    )  # fmt: skip
    seen = set()
    for slab in slabs:
        rows = slice(slab.first, slab.first + slab.sample.images.shape[1])
        seen |= set(range(SLICES)[rows])
        for name in ("images", "expected", "solid"):
            np.testing.assert_array_equal(
                getattr(slab.sample, name), getattr(whole, name)[..., rows, :, :], err_msg=name
            )
        jax.tree.map(
            lambda part, all_, rows=rows: np.testing.assert_array_equal(part, all_[rows]),
            slab.sample.milling,
            whole.milling,
        )
    assert seen == set(range(SLICES))
    assert (whole.images - whole.expected).std() > 1 and np.ptp(whole.milling.thickness_nm) > 0


def test_bytes_are_read_by_range_only():
    """255 is solid, and no more than a window of layers is asked for at once."""
    volume = (255 * labels()).astype(np.uint8)
    most = []

    class Reader:
        shape = volume.shape

        def __getitem__(self, rows):
            most.append(rows.stop - rows.start)
            return volume[rows]

    options = dict(voxel_nm=VOXEL_NM, periodic=True, **OPTIONS)
    lens = instrument()
    read = joined(fibsim.expected_slabs(Reader(), lens, slab_slices=1, **options))
    given = joined(fibsim.expected_slabs(volume / np.float32(255), lens, slab_slices=1, **options))
    np.testing.assert_array_equal(read, given)
    assert max(most) < 12


@pytest.mark.parametrize(
    ("volume", "changes", "message"),
    [
        (np.zeros((8, 8)), {}, "expected (z, y, x)"),
        (np.zeros((2, 30, 24, 24)), {}, "has 2 phases"),
        (np.zeros((30, 24, 24)), dict(slab_slices=0), "slab_slices is 0"),
        (np.zeros((30, 24, 24)), dict(num_slices=0), "at least 1"),
        (np.zeros((30, 24, 24)), dict(num_slices=90), "ask for fewer slices"),
        (np.zeros((30, 24, 24)), dict(voxel_nm=5.0), "resample the specimen"),
        (np.zeros((30, 24, 24), np.int32), {}, "the volume holds int32"),
        (np.full((30, 24, 24), 3.0), {}, "values from 3 to 3"),
        (np.full((30, 24, 24), np.nan), {}, "values from nan"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(volume, changes, message):
    options = dict(voxel_nm=VOXEL_NM, num_slices=2, sublayers=2, below_slices=1)
    with pytest.raises(InputError) as error:
        list(fibsim.expected_slabs(volume, instrument(), **{**options, **changes}))
    assert message in str(error.value)


def test_one_program_for_all_values():
    """Neither instrument, milling nor specimen values make expected_stack compile again."""
    from fibsim.simulate import _image_slices

    volume = jnp.asarray(labels(), jnp.float32)
    compiled = []
    for tilt, kev, scale in ((38.0, 1.0, 1.0), (0.0, 20.0, 0.5), (-20.0, 3.3, 1.7)):
        lens = fibsim.make_instrument(
            beam_kev=(kev, 2.0), tilt_deg=tilt, pixel_nm=4.0, slice_nm=10.0
        )
        lens = dataclasses.replace(
            lens, interaction=jax.tree.map(lambda v, s=scale: v * s, lens.interaction)
        )
        milling, _ = draw_run(lens, (SLICES, SIDE, SIDE), key=jax.random.key(1))
        specimen = make_specimen(volume * scale / 2, voxel_nm=VOXEL_NM, periodic=True)
        fibsim.expected_stack(specimen, lens, milling, **OPTIONS)
        compiled.append(_image_slices._cache_size())
    assert compiled == [compiled[0]] * 3
