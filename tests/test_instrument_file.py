"""Instruments: textbook presets, what is refused, their files, and one compilation for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import fibsim
from fibsim import simulate
from fibsim.errors import InputError
from fibsim.instrument import (
    leaves_by_name,
    replace_by_name,
    select_channels,
    validate_instrument,
)
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.interaction import bulk_yields, face_signal
from fibsim.presets import PRESETS, make_instrument, preset
from fibsim.specimens import make_specimen


def odd_instrument():
    """Every leaf off any round value, in single precision, and still allowed."""
    base = make_instrument(beam_kev=(1.0, 2.0, 5.0), detectors=("SE", "SE", "BSE"), solid="YSZ")
    rng = np.random.default_rng(0)
    values = {}
    for path, leaf in leaves_by_name(base).items():
        wobble = 1 + 0.1 * rng.uniform(-1, 0, leaf.shape)
        values[path] = jnp.asarray(np.float32((leaf + 1e-6) * wobble))
    return replace_by_name(base, values)


def write(tmp_path, text):
    path = tmp_path / "instrument.yaml"
    path.write_text(text)
    return path


# Files


def test_every_leaf_survives_a_file_bit_for_bit(tmp_path):
    content = InstrumentFile(
        instrument=odd_instrument(),
        kind="waves",
        specimen={"ligament_nm": 35.3, "tiny": 1e-7},
        undetermined=("interaction.edge_gain", "geometry.tilt_deg"),
    )
    path = tmp_path / "instrument.yaml"
    save_instrument(path, content)
    back = load_instrument(path)
    assert back.kind == "waves" and back.undetermined == content.undetermined
    assert back.instrument.detectors == ("SE", "SE", "BSE")
    assert back.instrument.solid.name == "YSZ"
    before, after = leaves_by_name(content.instrument), leaves_by_name(back.instrument)
    assert list(before) == list(after)
    for name, leaf in before.items():
        assert after[name].dtype == leaf.dtype and after[name].shape == leaf.shape
        assert np.asarray(after[name]).tobytes() == np.asarray(leaf).tobytes(), name
    assert {k: np.float32(v) for k, v in back.specimen.items()} == {
        k: np.float32(v) for k, v in content.specimen.items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["instrument.yaml"]  # no partial file is left


def test_a_file_is_readable_yaml_with_units_in_its_names(tmp_path):
    path = tmp_path / "instrument.yaml"
    save_instrument(path, InstrumentFile(instrument=make_instrument(beam_kev=(1.0, 2.0))))
    raw = yaml.safe_load(path.read_text())
    assert raw["fibsim_instrument"] == 1
    assert raw["geometry"] == {"pixel_nm": 4.0, "slice_nm": 10.0, "tilt_deg": 38.0}
    assert raw["beam_kev"] == [1.0, 2.0] and raw["solid"]["name"] == "Au"
    assert "specimen" not in raw


def test_what_a_file_leaves_out_keeps_its_textbook_value(tmp_path):
    path = write(tmp_path, "fibsim_instrument: 1\nbeam_kev: [2.0]\ngeometry: {tilt_deg: 0.0}\n")
    loaded = leaves_by_name(load_instrument(path).instrument)
    for name, leaf in leaves_by_name(make_instrument(beam_kev=(2.0,), tilt_deg=0.0)).items():
        np.testing.assert_array_equal(np.asarray(loaded[name]), np.asarray(leaf), err_msg=name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("geometry: {tilt_dge: 3}", "unknown parameter 'geometry.tilt_dge'; did you mean 'geo"),
        ("beam_kv: [3]", "unknown parameter 'beam_kv'; did you mean 'beam_kev'"),
        ("geometry: {zzzzzzzzzzzz: 3}", "unknown parameter"),
        ("5: 3", "unknown parameter"),
        ("geometry: {tilt_deg: steep}", "geometry.tilt_deg is 'steep', expected a number"),
        ("geometry: {tilt_deg: 85}", "geometry.tilt_deg is 85.0, expected -80 to 80"),
        ("geometry: {tilt_deg: .nan}", "geometry.tilt_deg is nan"),
        ("geometry: {tilt_deg: [1, 2]}", "geometry.tilt_deg has shape"),
        ("geometry: 5", "geometry is 5, expected 'name: value' pairs"),
        ("solid: gold", "solid is 'gold', expected 'name: value' pairs"),
        ("detector: {gain: [1.0]}", "detector.gain has shape"),
        ("noise: {dose_electrons: [1.0, -4.0]}", "noise.dose_electrons"),
        ("detectors: [SE]", "2 beam energies but 1 detectors"),
        ("detectors: [SE, XY]", "detector 'XY' is unknown"),
        ("detectors: 5", "detectors"),
        ("specimen: waves", "specimen is 'waves'"),
        ("undetermined: detector.gain", "undetermined is 'detector.gain', expected a list"),
        ("undetermined: [detector.gian]", "'detector.gian'; did you mean 'detector.gain'"),
        ("specimen: {kind: waves, ligament_nm: wide}", "specimen.ligament_nm is 'wide'"),
        ("specimen: {kind: waves, ligament_nm: [1, 2]}", "specimen.ligament_nm"),
    ],
)
def test_what_a_file_may_not_hold(tmp_path, text, message):
    path = write(tmp_path, f"fibsim_instrument: 1\nbeam_kev: [1.0, 2.0]\n{text}\n")
    with pytest.raises(InputError) as error:
        load_instrument(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an instrument file of version 1"),
        ("fibsim_instrument: 2\nbeam_kev: [1]\n", "not an instrument file of version 1"),
        ("beam_kev: [1]\n", "not an instrument file of version 1"),
        ("- 1\n- 2\n", "not an instrument file of version 1"),
        ("fibsim_instrument: 1\n", "names no beam_kev"),
        ("fibsim_instrument: 1\nbeam_kev: []\n", "0 channels"),
        ("fibsim_instrument: 1\nbeam_kev: [45]\n", "beam_kev is [45.0], expected 0.1 to 30"),
        ("a: [1, 2\nb: }", "not a YAML file"),
    ],
)
def test_files_that_are_no_instrument(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        load_instrument(write(tmp_path, text))
    assert message in str(error.value)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not a YAML file"):
        load_instrument(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            load_instrument(path)


def test_places_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    content = InstrumentFile(instrument=make_instrument(beam_kev=(1.0,)))
    for path in (tmp_path / "absent" / "i.yaml", file / "i.yaml"):
        with pytest.raises(InputError, match="cannot write"):
            save_instrument(path, content)
    assert file.read_text() == "kept"


# Presets


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_valid_and_take_changes(name):
    validate_instrument(preset(name))
    assert preset(name).num_channels == 3
    changed = preset(name, beam_kev=(3.0,), pixel_nm=6.0)
    assert float(changed.geometry.pixel_nm) == 6.0
    assert float(changed.geometry.tilt_deg) == PRESETS[name]["tilt_deg"]


def test_some_channels_of_an_instrument_are_an_instrument_of_these():
    both = make_instrument(beam_kev=(1.0, 2.0, 5.0), detectors=("SE", "BSE", "SE"))
    found = select_channels(both, (2, 1))
    validate_instrument(found)
    expected = make_instrument(beam_kev=(5.0, 2.0), detectors=("SE", "BSE"))
    assert found.detectors == expected.detectors
    assert np.asarray(found.beam_kev).tolist() == [5.0, 2.0]
    for name, value in leaves_by_name(expected).items():
        np.testing.assert_array_equal(leaves_by_name(found)[name], value, err_msg=name)


@pytest.mark.parametrize("channels", [(), (3,), (0, -1)])
def test_channels_that_an_instrument_does_not_have(channels):
    with pytest.raises(InputError, match="expected some of 0 to 2"):
        select_channels(make_instrument(beam_kev=(1.0, 2.0, 5.0)), channels)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match=r"'tilted50' is unknown; expected one of \['tilted52'"):
        preset("tilted50")


@pytest.mark.parametrize("white", [255.0, 4095.0])
def test_bulk_is_at_70_percent_and_darkness_at_10_percent_of_white(white):
    lens = make_instrument(
        beam_kev=(1.0, 5.0, 15.0), detectors=("SE", "BSE", "SE"), white_level=white
    )
    bulk, detector = bulk_yields(lens), lens.detector
    signal = detector.se_fraction * bulk.secondary + (1 - detector.se_fraction) * bulk.backscatter
    np.testing.assert_allclose(face_signal(lens), signal, rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(detector.offset + detector.gain * signal), 0.7 * white, rtol=1e-5
    )
    np.testing.assert_allclose(np.asarray(detector.offset), 0.1 * white, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 8])
def test_one_to_eight_channels(channels):
    lens = make_instrument(beam_kev=np.linspace(0.5, 30, channels))
    assert lens.num_channels == channels == lens.detector.gain.shape[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(beam_kev=(1.0,) * 9), "9 channels; 1 to 8"),
        (dict(beam_kev=()), "0 channels"),
        (dict(beam_kev=(0.01,)), "beam_kev"),
        (dict(beam_kev=(np.nan,)), "beam_kev"),
        (dict(beam_kev=(1.0, 2.0), detectors=("SE",)), "one detector per energy"),
        (dict(beam_kev=(1.0,), detectors=("TLD",)), "detector 'TLD' is unknown"),
        (dict(beam_kev=(1.0,), pixel_nm=0.0), "geometry.pixel_nm is 0.0"),
        (dict(beam_kev=(1.0,), pixel_nm=np.inf), "geometry.pixel_nm is inf"),
        (dict(beam_kev=(1.0,), slice_nm=-10.0), "geometry.slice_nm"),
        (dict(beam_kev=(1.0,), tilt_deg=90.0), "geometry.tilt_deg is 90.0"),
        (dict(beam_kev=(1.0,), solid="Gold"), "material 'Gold' is unknown"),
        (dict(beam_kev=(1.0,), white_level=0.0), "noise.white_level"),
    ],
)
def test_what_make_instrument_refuses(arguments, message):
    with pytest.raises(InputError) as error:
        make_instrument(**arguments)
    assert message in str(error.value)


def test_all_leaves_are_single_precision_arrays():
    for name, leaf in leaves_by_name(make_instrument(beam_kev=(1, 2))).items():
        assert isinstance(leaf, jax.Array) and leaf.dtype == jnp.result_type(float), name


# The jitted entry


@pytest.fixture(scope="module")
def specimen():
    solid = np.random.default_rng(0).uniform(size=(12, 24, 24)).astype(np.float32)
    return make_specimen(solid, voxel_nm=(5.0, 4.0, 4.0), periodic=True)


def test_three_instruments_compile_once(specimen):
    before = simulate._image_slices._cache_size()
    images = []
    for tilt, kev in ((38.0, 1.0), (36.0, 2.0), (0.0, 5.5)):
        lens = make_instrument(beam_kev=(kev,), tilt_deg=tilt)
        images.append(
            fibsim.expected_stack(specimen, lens, num_slices=2, sublayers=2, below_slices=1)
        )
    assert simulate._image_slices._cache_size() == before + 1
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        (dict(voxel_nm=(5.0, 5.0, 4.0)), {}, "resample the specimen"),
        ({}, dict(num_slices=7), "ask for fewer slices or give a deeper specimen"),
        ({}, dict(num_slices=0), "must both be at least 1"),
        ({}, dict(sublayers=0), "must both be at least 1"),
    ],
)
def test_specimens_that_do_not_fit_are_refused(specimen, changes, arguments, message):
    with pytest.raises(InputError) as error:
        fibsim.expected_stack(
            dataclasses.replace(specimen, **changes),
            make_instrument(beam_kev=(1.0,)),
            **{"num_slices": 2, **arguments},
        )
    assert message in str(error.value)


def test_one_detector_serves_all_channels_and_words_are_no_energies():
    assert fibsim.make_instrument(beam_kev=[1.0, 2.0], detectors="BSE").detectors == ("BSE", "BSE")
    with pytest.raises(InputError, match="expected numbers in keV"):
        fibsim.make_instrument(beam_kev="abc")
