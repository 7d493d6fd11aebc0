"""A general network: drawn for any instrument by one program a grid, and good for any channels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibnet import pretrain as general
from fibnet.data import SimulatedData
from fibnet.model import ModelConfig
from fibnet.segment import predict
from fibnet.segmenter import load_segmenter, save_segmenter
from fibnet.start import load_start, start_identity
from fibnet.train import TrainSettings, train
from fibnet.train_command import segmenter_for
from fibsim.errors import InputError
from fibsim.fit import grey_levels
from fibsim.instrument import validate_instrument
from fibsim.presets import make_instrument
from fibsim.stack import virtual_stack

CONFIG = ModelConfig(window=3, widths=(4, 8), fold=2)
# As in other modules, whose programs are found in the cache then.
DATA = SimulatedData(slices=4, side_px=32, sublayers=2, below_slices=2)
SETTINGS = TrainSettings(steps=2, channel_dropping=0.75)


def _source(seed):
    rng = np.random.default_rng(seed)
    return general.draw_source(rng, general.draw_frame(rng))


def test_sources_are_of_every_kind_and_valid():
    drawn = [_source(i) for i in range(40)]
    assert {s.kind for s in drawn} == set(general._KINDS)
    assert {(s.pixel_nm, s.slice_nm) for s in drawn} == set(general._GRIDS)
    for source in drawn:
        validate_instrument(source.instrument)
        assert source.instrument.num_channels == general.CHANNELS
    tilts = [float(s.instrument.geometry.tilt_deg) for s in drawn]
    assert min(tilts) == 0 and 34 <= max(tilts) <= 40
    energies = np.concatenate([np.asarray(s.instrument.beam_kev) for s in drawn])
    assert energies.min() < 1 < 5 < energies.max()
    materials = {float(s.instrument.solid.atomic_number) for s in drawn}
    assert len(materials) > 8


def test_one_program_serves_all_materials_and_voltages():
    """What is static is the grid and the kind of specimen."""
    structures = {}
    for i in range(40):
        source = _source(i)
        leaves, structure = jax.tree.flatten(source)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        structures.setdefault((source.kind, source.pixel_nm), set()).add((structure, shapes))
    assert all(len(found) == 1 for found in structures.values())


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("general")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(general, "_KINDS", {"waves": 1.0})
        patch.setattr(general, "_GRIDS", ((4.0, 10.0),))
        found = general.pretrain(
            CONFIG, folder=folder / "t", seed=0, settings=SETTINGS, data=DATA, validation=1
        )
    save_segmenter(folder, found)
    return load_segmenter(folder), folder


pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.mark.parametrize("energies", [[3.0], [0.8, 2.0, 15.0]])
def test_it_takes_any_channels(network, energies):
    instrument = make_instrument(beam_kev=energies, slice_nm=20.0)
    rng = np.random.default_rng(0)
    images = rng.uniform(20, 200, (len(energies), 3, 32, 32))
    stack = virtual_stack(np.round(images), instrument)
    segmenter = segmenter_for(network[0], stack)
    assert segmenter.beam_kev == pytest.approx(tuple(energies))
    channels = segmenter.channels
    np.testing.assert_allclose(channels.mean, grey_levels(stack).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(
        channels.conditions[:, 0], np.log2(np.divide(energies, 2)), rtol=1e-5
    )
    probability = predict(segmenter, grey_levels(stack))
    assert probability.shape == (3, 32, 32) and np.all((probability > 0) & (probability < 1))


def test_a_training_begins_from_it(network, tmp_path):
    source = general.Source(
        instrument=make_instrument(beam_kev=[1.0, 5.0]),
        specimen={"solid_fraction": jnp.asarray(0.4), "ligament_nm": jnp.asarray(20.0)},
        kind="waves",
        slice_nm=10.0,
        pixel_nm=4.0,
    )
    start = load_start(network[1], CONFIG)
    untrained = TrainSettings(steps=1, learning_rate=0.0, vector_rate=0.0, ema=0.0)
    found = train(
        source, CONFIG, folder=tmp_path, seed=0, settings=untrained, data=DATA, start=start
    )
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(start.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    # It has its own grey values, since the general network has none.
    assert found.channels.mean.shape == (2,)


def test_a_start_of_another_architecture_is_refused(network, tmp_path):
    with pytest.raises(InputError, match="choose the preset"):
        load_start(network[1], ModelConfig(window=5, widths=(4, 8), fold=2))
    # How it is used is no matter.
    assert load_start(network[1], dataclasses.replace(CONFIG, mirrored=True)).config == CONFIG
    with pytest.raises(InputError, match="no trained network"):
        load_start(tmp_path, CONFIG)
    assert load_start(None, CONFIG) is None and start_identity(None) is None
    assert len(start_identity(network[0])) == 16
