"""Instrument files: exact round trip, and one sentence for every mistake."""

import numpy as np
import pytest
import yaml

from fibsim.errors import InputError
from fibsim.instrument import leaves_by_name
from fibsim.instrument_file import InstrumentFile, load_instrument, save_instrument
from fibsim.presets import PRESETS, make_instrument, preset


@pytest.fixture
def path(tmp_path):
    instrument = make_instrument(
        beam_kev=[1.0, 2.7], detectors=["SE", "BSE"], solid="ZrO2", pixel_nm=1 / 3, tilt_deg=-36
    )
    specimen = {"solid_fraction": 0.3712345, "ligament_nm": 35.1}
    content = InstrumentFile(instrument=instrument, kind="waves", specimen=specimen)
    save_instrument(tmp_path / "i.yaml", content)
    return tmp_path / "i.yaml"


def test_round_trip_is_exact(path):
    again = load_instrument(path)
    instrument = make_instrument(
        beam_kev=[1.0, 2.7], detectors=["SE", "BSE"], solid="ZrO2", pixel_nm=1 / 3, tilt_deg=-36
    )
    for name, leaf in leaves_by_name(instrument).items():
        np.testing.assert_array_equal(leaves_by_name(again.instrument)[name], leaf, err_msg=name)
    assert again.instrument.detectors == ("SE", "BSE")
    assert again.instrument.solid.name == "ZrO2" and again.kind == "waves"
    assert again.specimen["solid_fraction"] == pytest.approx(0.3712345, rel=1e-7)
    assert not list(path.parent.glob("*.part"))


def test_left_out_parameters_keep_their_textbook_values(path):
    path.write_text("fibsim_instrument: 1\nbeam_kev: [3]\ngeometry: {tilt_deg: 0}\n")
    instrument = load_instrument(path).instrument
    assert float(instrument.geometry.tilt_deg) == 0.0
    assert float(instrument.interaction.range_scale) == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beam_kev": [1.0, 90.0]}, "beam_kev"),
        ({"beam_kev": ["one", 2]}, "expected a number"),
        ({"detectors": ["SE"]}, "one detector per energy"),
        ({"detectors": ["SE", "XX"]}, "'XX' is unknown"),
        ({"geometry": {"tilt": 3}}, "did you mean 'geometry.tilt_deg'"),
        ({"geometry": {"pixel_nm": [1, 2]}}, "shape"),
        ({"geometry": 7}, "geometry is 7"),
        ({"fibsim_instrument": 9}, "version 1"),
    ],
)
def test_mistakes_are_named(path, change, words):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(InputError, match=words) as caught:
        load_instrument(path)
    assert "\n" not in str(caught.value)


def test_not_a_file_and_not_yaml(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_instrument(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("{unclosed: [")
    with pytest.raises(InputError, match="not a YAML file"):
        load_instrument(bad)


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    expected = {"tilted52": 38.0, "tilted54": 36.0, "orthogonal": 0.0}[name]
    assert float(preset(name).geometry.tilt_deg) == expected
    with pytest.raises(InputError, match="preset"):
        preset("sideways")


@pytest.mark.parametrize(("name", "words"), [("au", "did you mean 'Au'"), ("xyz", "expected one")])
def test_unknown_materials_are_named(name, words):
    with pytest.raises(InputError, match=words):
        make_instrument(beam_kev=[1.0], solid=name)
