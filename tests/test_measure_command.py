import csv

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fibnet.cli import main
from fibnet.morphology import measure
from fibsim import io

pytestmark = pytest.mark.usefixtures("compiled_fast")

VOXEL = (10.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def field():
    return gaussian_filter(np.random.default_rng(0).normal(size=(16, 20, 24)), (1, 2, 2))


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_label_is_measured_with_the_voxels_of_its_file(field, tmp_path, capsys):
    label = field > 0
    io.write_volume(tmp_path / "label.tif", 255 * label.astype(np.uint8), voxel_nm=VOXEL)
    out = tmp_path / "out"
    assert main(["measure", str(tmp_path / "label.tif"), "-o", str(out), "--mesh", "stl"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["curves.csv", "measures.csv", "surface.stl"]
    found = {
        row["quantity"]: (float(row["value"]), row["unit"]) for row in table(out / "measures.csv")
    }
    expected = measure(label, VOXEL)
    assert found["Mean ligament diameter"] == (
        pytest.approx(expected.ligament_diameter_nm, rel=1e-5), "nm",
    )  # fmt: skip
    assert found["Tortuosity factor of the solid, x"][0] > 1
    assert found["Anisotropy of two-point correlation, z over in-plane"][0] > 0
    curves = table(out / "curves.csv")
    z = [row for row in curves if (row["curve"], row["direction"]) == ("two_point", "z")]
    assert [float(row["distance_nm"]) for row in z[:3]] == [0, 10, 20]
    assert float(z[0]["value"]) == pytest.approx(label.mean(), abs=1e-5)
    text = capsys.readouterr().out
    assert "10 x 4 x 4 nm" in text and "Mean ligament diameter" in text
    assert str(out / "surface.stl") in text and "triangles" in text


def test_a_probability_is_cut_at_one_half_and_voxels_may_be_given(field, tmp_path, capsys):
    probability = (1 / (1 + np.exp(-field))).astype(np.float32)
    np.save(tmp_path / "p.npy", probability)
    source, out = str(tmp_path / "p.npy"), tmp_path / "out"
    assert main(["measure", source, "-o", str(out)]) == 2
    assert "--voxel-nm" in capsys.readouterr().err and not out.exists()
    sides = ["--voxel-nm", "10", "4", "4", "--mesh", "ply"]
    assert main(["measure", source, "-o", str(out), *sides]) == 0
    porosity = float(table(out / "measures.csv")[0]["value"])
    assert porosity == pytest.approx(1 - (field > 0).mean(), abs=1e-5)
    assert (out / "surface.ply").exists()


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.arange(80).reshape(4, 4, 5) % 3, [], "more than two values"),
        (np.full((4, 4, 5), 7.5), [], "probabilities"),
        (np.full((4, 4, 5), np.nan), [], "probabilities"),
        (np.eye(5)[None].repeat(4, 0) > 0, ["--voxel-nm", "1", "-1", "1"], "positive"),
        (np.ones((4, 4, 5), bool), ["--mesh", "stl"], "100 % solid"),
    ],
)
def test_mistakes_end_in_one_sentence_and_write_nothing(values, options, words, tmp_path, capsys):
    np.save(tmp_path / "v.npy", values)
    out = tmp_path / "out"
    options = options if "--voxel-nm" in options else [*options, "--voxel-nm", "10", "4", "4"]
    assert main(["measure", str(tmp_path / "v.npy"), "-o", str(out), *options]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1 and words in text
    assert not out.exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep me")
    assert main(["measure", "x.tif", "-o", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_evaluate_reads_volumes_as_measure_does(field, tmp_path, capsys):
    """A truth of fractions is cut at one half, one of three phases refused."""
    fraction = np.clip(0.5 + 0.2 * field / field.std(), 0, 1).astype(np.float32)
    files = {"label": (field > 0).astype(np.uint8), "fraction": fraction,
             "three": np.digitize(field, [-0.1, 0.1]).astype(np.uint8)}  # fmt: skip
    for name, volume in files.items():
        io.write_volume(tmp_path / f"{name}.tif", volume, voxel_nm=VOXEL)
    label, fraction, three = (str(tmp_path / f"{name}.tif") for name in files)
    assert main(["evaluate", label, "--truth", fraction]) == 0
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert float(rows["dice"]) == 1.0
    for arguments in ([three, "--truth", label], [label, "--truth", three]):
        assert main(["evaluate", *arguments]) == 2
        text = capsys.readouterr().err
        assert "three.tif holds more than two values, from 0 to 2" in text
        assert text.startswith("error: ") and text.count("\n") == 1
