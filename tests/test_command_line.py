"""The commands as a user calls them: whole runs, kills, second calls, and mistakes."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from tiny_cli import NETWORK, QUICK

from fibnet import presets
from fibnet.calibration import label_probability
from fibnet.cli import main as fibnet_main
from fibnet.segmenter import load_segmenter
from fibsim.cli import main as fibsim_main

HERE = Path(__file__).parent
STAGES = ["fit", "train", "adapt", "segment", "refine", "measure", "report"]

pytestmark = pytest.mark.usefixtures("compiled_fast")


def call(*arguments, program="fibnet", **kwargs):
    script = [str(HERE / "tiny_cli.py")] if program == "fibnet" else ["-m", "fibsim.cli"]
    command = [sys.executable, *script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, **kwargs)


@pytest.fixture
def refused(monkeypatch, capsys):
    """What fibnet says that ends in status 2, called in this process: a start takes seconds."""
    monkeypatch.setitem(presets.NETWORKS, "tiny", NETWORK)
    monkeypatch.setitem(presets.PRESETS, "quick", QUICK)

    def run(*arguments):
        capsys.readouterr()
        assert fibnet_main([str(argument) for argument in arguments]) == 2
        text = capsys.readouterr().err
        assert text.startswith("error: ") and text.count("\n") == 1
        return text

    return run


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A small two-voltage stack, made by the command itself."""
    folder = tmp_path_factory.mktemp("data") / "stack"
    done = call(
        "simulate", "tilted52", "--out", folder, "--beam-kev", "1", "5", "--slices", "10",
        "--side", "64", "--parameters", "ligament_nm", "25", program="fibsim",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(stack, tmp_path_factory):
    """An unbroken reconstruction."""
    out = tmp_path_factory.mktemp("whole") / "out"
    truth = stack / "truth.tif"
    done = call("reconstruct", stack, "-o", out, "--preset", "quick", "--truth", truth)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_simulate_writes_a_readable_stack(stack):
    assert sorted(p.name for p in stack.iterdir()) == [
        "1kV_SE.tif", "5kV_SE.tif", "instrument.yaml", "stack.yaml", "truth.tif",
    ]  # fmt: skip
    done = call("inspect", stack, program="fibsim")
    assert done.returncode == 0 and "2 channels, 10 slices of 64 x 64" in done.stdout


def test_reconstruct_leaves_volumes_on_the_input_grid(stack, whole):
    out, _ = whole
    with tifffile.TiffFile(out / "label.tif") as file:
        label = file.asarray()
        assert file.imagej_metadata["unit"] == "nm"
        assert file.imagej_metadata["spacing"] == pytest.approx(10.0)
    probability = tifffile.imread(out / "probability.tif")
    assert label.shape == probability.shape == tifffile.imread(stack / "1kV_SE.tif").shape
    assert set(np.unique(label)) <= {0, 1}
    np.testing.assert_array_equal(label, probability > 0.5)
    # Nothing was refined: the same network's fractions, calibrated as probabilities.
    fraction = tifffile.imread(out / "network_fraction.tif")
    network = load_segmenter(out / "model")
    expected = label_probability(fraction, network.temperature, network.label_temperature)
    np.testing.assert_allclose(probability, expected, atol=1e-6)


def test_a_fit_of_three_steps_stays_near_its_start(whole):
    """Its result is the mean over the last quarter of the path, or at least over the last step."""
    out, _ = whole
    start, fitted = (
        yaml.safe_load((out / f"{name}.yaml").read_text())
        for name in ("instrument_start", "instrument")
    )
    for name, value in start["interaction"].items():
        assert fitted["interaction"][name] == pytest.approx(value, rel=0.3), name


def test_reconstruct_reports_every_method(whole):
    out, text = whole
    with (out / "measures.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][2:] == [
        "fibnet", "fibnet 5 %", "fibnet 95 %", "Otsu 1kV", "Otsu 5kV", "k-means", "watershed",
        "random forest", "truth",
    ]  # fmt: skip
    quantities = [r[0] for r in rows[1:]]
    assert "Porosity" in quantities and "dice" in quantities
    # What takes longest is measured of the result and the truth alone.
    tortuosity = next(r for r in rows if r[0] == "Tortuosity factor of the pores, x")
    assert [bool(value) for value in tortuosity[2:]] == [True, *[False] * 7, True]
    low, high = (float(v) for v in next(r for r in rows if r[0] == "Porosity")[3:5])
    assert 0 < low < high < 1
    assert "fibnet,two_point,in-plane,0," in (out / "curves.csv").read_text()
    page = (out / "report.html").read_text()
    assert "90 % interval" in page
    assert "http://" not in page and "data:image/png;base64" in page
    assert str(out / "report.html") in text
    assert [s for s in json.loads((out / "run.json").read_text())["stages"]] == STAGES


def test_second_call_keeps_everything(stack, whole):
    out, _ = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    truth = stack / "truth.tif"
    done = call("reconstruct", stack, "-o", out, "--preset", "quick", "--truth", truth)
    assert done.returncode == 0
    assert all(f"{s}: finished before, kept" in done.stdout for s in STAGES)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def kill_when(command, reached):
    """Start a reconstruction and SIGKILL it once ``reached(lines so far)`` is true."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(HERE / "tiny_cli.py"), *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    # Lines are read beside the waiting; extend() grows the list as they come.
    reader.start()
    while process.poll() is None and not reached("".join(lines)):
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reader.join()
    process.stdout.close()


@pytest.fixture(scope="module")
def fitted(stack, tmp_path_factory):
    """A reconstruction that was asked for its first stage alone, and killed in it once."""
    out = tmp_path_factory.mktemp("fitted") / "out"
    command = ["reconstruct", stack, "-o", out, "--preset", "quick", "--stages", "fit",
               "--truth", stack / "truth.tif"]  # fmt: skip
    kill_when(command, lambda text: "fit: starting" in text)
    done = call(*command)
    assert done.returncode == 0, done.stderr
    return out


def test_stages_one_by_one_and_out_of_order(stack, fitted, tmp_path, refused):
    text = refused("reconstruct", stack, "-o", tmp_path, "--preset", "quick", "--stages", "train")
    assert "needs the stage fit" in text
    assert (fitted / "instrument.yaml").exists() and not (fitted / "model").exists()


def test_killed_run_goes_on_to_the_same_result(stack, whole, fitted, tmp_path):
    """SIGKILL in the fit, between two checkpoints of the training, after it, and in measure."""
    reference, _ = whole
    out = tmp_path / "out"
    shutil.copytree(fitted, out)
    command = ["reconstruct", stack, "-o", out, "--preset", "quick", "--truth", stack / "truth.tif"]
    log = out / "training" / "log.jsonl"
    kill_when(command, lambda _: log.exists() and log.read_text().count("\n") >= 5)
    assert not (out / "model").exists()
    kill_when(command, lambda text: "train: done" in text)
    kill_when(command, lambda text: "measure: starting" in text)
    done = call(*command)
    assert done.returncode == 0, done.stderr
    assert "segment: finished before, kept" in done.stdout
    for name in ("probability.tif", "label.tif"):
        np.testing.assert_array_equal(
            tifffile.imread(out / name), tifffile.imread(reference / name)
        )
    assert (out / "measures.csv").read_text() == (reference / "measures.csv").read_text()
    steps = [json.loads(s)["step"] for s in log.read_text().splitlines()]
    assert steps == list(range(1, 9))
    assert not list(out.rglob("*.part*"))


def test_output_of_another_stack_or_foreign_files_are_refused(stack, whole, tmp_path, refused):
    out, _ = whole
    text = refused("reconstruct", stack, "-o", out, "--preset", "quick", "--seed", "1")
    assert "another seed" in text
    text = refused("reconstruct", stack / "1kV_SE.tif", "-o", out, "--preset", "quick")
    assert "another stack" in text
    (tmp_path / "mine.txt").write_text("keep me")
    text = refused("reconstruct", stack, "-o", tmp_path, "--preset", "quick")
    assert "mine.txt" in text
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--material", "au"], "did you mean 'Au'"),
        (["--specimen", "foam"], "specimen kind 'foam'"),
        (["--beam-kev", "1", "5000"], "5000"),
        (["--pixel-nm", "0"], "pixel"),
        (["--slice-nm", "-3"], "slice"),
        (["--tilt-deg", "95"], "tilt"),
        (["--presett", "quick"], "did you mean --preset?"),
        (["--truth", "none.tif"], "none.tif"),
    ],
)
def test_bad_options_write_nothing(stack, tmp_path, options, words, capsys):
    out = tmp_path / "out"
    assert fibnet_main(["reconstruct", str(stack), "-o", str(out), *options]) == 2
    text = capsys.readouterr().err
    assert words in text and text.startswith("error: ") and text.count("\n") == 1
    assert not out.exists()


def test_segment_and_evaluate_repeat_the_job(stack, whole, tmp_path, refused):
    out, _ = whole
    done = call("segment", stack, "--model", out, "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        tifffile.imread(tmp_path / "probability.tif"),
        tifffile.imread(out / "probability.tif"),
        atol=1e-6,
    )
    truth = stack / "truth.tif"
    done = call("evaluate", tmp_path / "label.tif", "--truth", truth, "--stack", stack)
    assert done.returncode == 0, done.stderr
    with (out / "measures.csv").open() as file:
        dice = next(float(r[2]) for r in csv.reader(file) if r[0] == "dice")
    row = next(s for s in done.stdout.splitlines() if s.startswith("dice"))
    assert float(row.split()[1]) == pytest.approx(dice, abs=1e-4)
    assert "k-means" in done.stdout
    # Some of its channels will do, others will not.
    one = stack / "1kV_SE.tif"
    done = call("segment", one, "--model", out, "-o", tmp_path / "one")
    assert done.returncode == 0, done.stderr
    assert tifffile.imread(tmp_path / "one" / "label.tif").shape == tifffile.imread(one).shape
    text = refused("segment", one, "--beam-kev", "3", "--model", out, "-o", tmp_path / "three")
    assert "was trained for 1 keV SE, 5 keV SE" in text
    assert not (tmp_path / "three").exists()


def test_train_from_an_instrument_file(stack, tmp_path):
    done = call("train", stack / "instrument.yaml", "-o", tmp_path / "n", "--preset", "quick",
                "--steps", "2")  # fmt: skip
    assert done.returncode == 0, done.stderr
    training = tmp_path / "n" / "training"
    assert len((training / "log.jsonl").read_text().splitlines()) == 2
    assert (training / "curve.png").exists()
    done = call("segment", stack, "--model", tmp_path / "n", "-o", tmp_path / "s")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspct", "x"], ["unknown command inspct", "did you mean inspect?"]),
        (["fit", "x", "--stps", "3"], ["unknown option --stps", "--steps"]),
        (["inspect", "does_not_exist"], ["does not exist"]),
        (["fit", ".", "--steps", "0"], ["--steps is 0"]),
        (["simulate", "no_such_preset", "--out", "new"], ["tilted52"]),
        (["simulate", "tilted52", "--out", "new", "--specimen", "wavs"], ["waves"]),
        (["simulate", "tilted52", "--out", "new", "--beam-kev", "1000"], ["beam_kev", "30"]),
        (["simulate", "tilted52", "--out", "new", "--side", "4"], ["16 pixels"]),
    ],
)
def test_mistakes_end_in_one_sentence_and_status_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fibsim_main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    assert all(w in text for w in words)
    assert not list(tmp_path.iterdir())


def test_unwritable_output_is_refused_before_any_work(stack, tmp_path, refused):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    text = refused("reconstruct", stack, "-o", blocked / "out", "--preset", "quick")
    assert "cannot write in" in text


def test_disk_full_keeps_finished_stages(stack, tmp_path, monkeypatch):
    """A write that fails in the middle of a stage leaves the stages before it, and one sentence."""
    from fibnet.stages import WorkFolder
    from fibsim.errors import InputError

    work = WorkFolder(tmp_path / "out", {"stack": "s"})
    said = []
    work.run("fit", lambda: None, said.append)

    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"No space left.*finished stages are kept"):
        work.run("train", full, said.append)
    again = WorkFolder(tmp_path / "out", {"stack": "s"})
    assert again.is_done("fit") and not again.is_done("train")
    with pytest.raises(InputError, match="another stack"):
        WorkFolder(tmp_path / "out", {"stack": "t"})


def test_doctor_names_versions_and_devices(capsys):
    assert fibsim_main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "jax" in text and "JAX device 0" in text and "test simulation" in text


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
@pytest.mark.parametrize("chosen", [None, "glibc.malloc.check=0"])
def test_memory_pages_are_large_unless_the_user_decides(chosen):
    """What a command's process holds in its environment once it runs."""
    code = (
        "import os, sys\n"
        "from fibsim import cli\n"
        "class Show:\n"
        "    def run(self): print(os.environ['GLIBC_TUNABLES'], sys.argv[1:])\n"
        "cli.Doctor = cli.dataclasses.dataclass(Show)\n"
        "sys.exit(cli.main())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if chosen is not None:
        environment["GLIBC_TUNABLES"] = chosen
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{chosen or 'glibc.malloc.hugetlb=1'} ['doctor']"


def test_a_reader_that_goes_away_is_no_error(stack):
    """As in ``fibsim inspect stack | head -1``: silence, and the status of a broken pipe."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "fibsim.cli", "inspect", str(stack)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()
