"""Which voltages to record: the instrument at others, and the ranking of choices."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fibsim.cli import main
from fibsim.design import Candidate, DesignSettings, rank_choices, recording
from fibsim.design.examples import draw_examples
from fibsim.design_command import design_to_folder, lines_of
from fibsim.errors import InputError
from fibsim.instrument import leaves_by_name, replace_by_name
from fibsim.instrument_file import InstrumentFile, save_instrument
from fibsim.presets import make_instrument

SPECIMEN = {"solid_fraction": 0.4, "ligament_nm": 30.0}
SMALL = DesignSettings(
    train_stacks=3, test_stacks=3, slices=5, side_px=32, pixels=500, trees=15
)  # fmt: skip
ONE, FIVE = Candidate(1.0, "SE"), Candidate(5.0, "SE")

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def instrument():
    """Two channels, of which the second is nearly all noise."""
    lens = make_instrument(beam_kev=(1.0, 5.0), tilt_deg=38.0)
    values = {
        "detector.gain": [100.0, 150.0],
        "detector.probe_nm": [1.0, 4.0],
        "noise.dose_electrons": [80.0, 0.05],
        "noise.read_grey": [0.0, 3.0],
    }
    return replace_by_name(lens, {name: jnp.asarray(v) for name, v in values.items()})


@pytest.fixture(scope="module")
def design(instrument):
    said = []
    found = rank_choices(
        instrument, "waves", SPECIMEN, [ONE, FIVE], key=jax.random.key(0), exposures=(1.0, 100.0),
        settings=SMALL, progress=lambda *now: said.append(now),
    )  # fmt: skip
    assert [done for done, _, _ in said] == list(range(1, 7)) and said[-1][1] == 6
    return found


def test_other_voltages_lie_between_the_fitted_ones(instrument):
    middle = Candidate(5.0**0.5, "SE")
    other = recording(instrument, [FIVE, middle, Candidate(0.6, "SE"), Candidate(20.0, "SE")])
    np.testing.assert_allclose(other.beam_kev, [5, 5**0.5, 0.6, 20], rtol=1e-6)
    assert other.detectors == ("SE",) * 4
    ends = leaves_by_name(instrument)
    for name, leaf in leaves_by_name(other).items():
        if name.startswith(("detector.", "noise.")):
            low, high = ends[name]
            np.testing.assert_allclose(
                np.asarray(leaf)[[0, 2, 3]], [high, low, high], rtol=1e-5, err_msg=name
            )
            assert min(low, high) <= leaf[1] <= max(low, high), name
    # A probe's size is positive: half way is the geometric mean.
    assert float(other.detector.probe_nm[1]) == pytest.approx(2.0, rel=1e-4)


def test_channels_that_cannot_be_recorded_are_named(instrument):
    with pytest.raises(InputError, match="has no BSE channel, only SE"):
        recording(instrument, [Candidate(1.0, "BSE")])
    with pytest.raises(InputError, match="60"):
        recording(instrument, [Candidate(60.0, "SE")])


def test_noise_falls_with_the_exposure(instrument):
    """The raw grey value (the first feature) around its expectation, and nothing cut off."""
    examples = draw_examples(
        instrument, "waves", SPECIMEN, key=jax.random.key(1), stacks=2, slices=5, side_px=32,
        pixels=1500,
    )  # fmt: skip
    assert examples.solid.shape == (2, 1500) and 0.2 < examples.solid.mean() < 0.6
    inner = examples.expected[:, :, 1:-2].reshape(2, 2, -1)
    wanted = np.stack([inner[i][:, examples.place[i]] for i in range(2)], axis=1)
    sd = []
    for exposure in (1.0, 9.0):
        seen = examples.features(exposure, key=jax.random.key(2))
        assert seen.shape == (2, 2, 1500, 11)
        sd.append((seen[..., 0] - wanted).std(axis=(1, 2)))
    np.testing.assert_allclose(sd[0] / sd[1], 3.0, rtol=0.05)


def test_a_channel_of_noise_is_not_recommended(design):
    for exposure in (1.0, 100.0):
        ranked = design.at(exposure)
        assert [c.error for c in ranked] == sorted(c.error for c in ranked)
        assert ranked[-1].channels == (FIVE,) and ranked[0].behind == (0.0, 0.0)
    noisy = design.at(1.0)[-1]
    # Nothing is known: as many errors as the rarer phase has pixels, about.
    assert 0.3 < noisy.error < 0.55 and not noisy.as_good
    alone = design.at(1.0, 1)[0]
    assert alone.channels == (ONE,) and alone.error < 0.2


def test_more_exposure_is_never_worse(design):
    for chosen in ((ONE,), (FIVE,), (ONE, FIVE)):
        short, long = (
            next(c for c in design.at(exposure) if c.channels == chosen)
            for exposure in (1.0, 100.0)
        )
        assert long.error < short.error + 2 * short.standard_error


def test_sentences_tell_the_recorded_set(design):
    text = "\n".join(lines_of(design))
    assert "total exposure 1: " in text and "total exposure 100: " in text
    assert "1 kV SE" in text and "expected error" in text


def test_command_writes_table_and_picture(instrument, tmp_path):
    path, out, said = tmp_path / "instrument.yaml", tmp_path / "design", []
    save_instrument(path, InstrumentFile(instrument=instrument, kind="waves", specimen=SPECIMEN))
    design_to_folder(
        path, out, beam_kev=(1.0, 5.0), detectors=(), exposures=(), most=1, seed=0,
        announce=said.append, progress=lambda stage: lambda *now: None, settings=SMALL,
    )  # fmt: skip
    with (out / "design.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Exposures of one image, of both and of twice that; each voltage and the recorded pair.
    assert [float(r["total_exposure"]) for r in rows] == [1.0] * 3 + [2.0] * 3 + [4.0] * 3
    assert {r["channels"] for r in rows} == {"1 kV SE", "5 kV SE", "1 kV SE + 5 kV SE"}
    assert float(rows[0]["more_than_best"]) == 0 and (out / "design.png").stat().st_size > 10_000
    assert said[-1].startswith("wrote ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--beam-kev", "60"], "60"),
        (["--detector", "BSE"], "has no BSE channel"),
        (["--exposure", "0"], "exposures are [0.0], expected numbers above 0"),
        (["--most", "0"], "expected at least 1"),
        (["--beam-kev", "1", "1"], "each once"),
        (["--beam-kev"], "at least one"),
    ],
)
def test_bad_requests_write_nothing(instrument, tmp_path, capsys, changes, words):
    path, out = tmp_path / "instrument.yaml", tmp_path / "design"
    save_instrument(path, InstrumentFile(instrument=instrument, kind="waves", specimen=SPECIMEN))
    assert main(["design", str(path), "-o", str(out), *changes]) == 2
    said, text = capsys.readouterr()
    assert not said
    assert words in text and text.startswith("error: ") and text.count("\n") == 1
    assert not out.exists()


def test_a_file_without_specimen_is_refused(instrument, tmp_path, capsys):
    path = tmp_path / "instrument.yaml"
    save_instrument(path, InstrumentFile(instrument=instrument))
    assert main(["design", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "names the specimen kind None" in capsys.readouterr().err
