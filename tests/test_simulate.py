"""``fibsim simulate`` at once and in slabs: the same files to the bit, and none half done."""

import resource
import signal

import numpy as np
import pytest
import tifffile

from fibsim import InputError, SampledSlab, make_instrument, memory
from fibsim import simulate_command as command
from fibsim.cli import main
from fibsim.memory import Recording, memory_bytes
from fibsim.simulate_command import simulate_to_folder
from fibsim.stack_folder import write_slabs

SLICES, SIDE = 6, 32


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Labels of solid and pore in voxels that fit neither slices nor pixels, 120 x 128 x 128 nm."""
    coarse = np.random.default_rng(3).integers(0, 2, (8, 5, 5)).astype(np.uint8)
    path = tmp_path_factory.mktemp("specimen") / "labels.tif"
    tifffile.imwrite(path, np.kron(coarse, np.ones((6, 8, 8), np.uint8)), compression="zlib")
    return path


SIZES = ["--beam-kev", "2", "--slices", str(SLICES), "--seed", "3"]


def options(file):
    voxel_nm = ["--specimen-voxel-nm", "2.5", "3.2", "3.2"]
    return ["simulate", "tilted52", "--specimen", str(file), *voxel_nm, *SIZES]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_slabs_of_a_file_give_the_files_of_the_whole(file, tmp_path, capsys, monkeypatch):
    """Asked for, or chosen because the whole would take more than the bound."""
    outs = [tmp_path / name for name in ("whole", "asked", "chosen")]
    assert main([*options(file), "-o", str(outs[0])]) == 0
    assert "1 x 6 slices of 32 x 32 pixels, made at once: about 0." in capsys.readouterr().out
    assert main([*options(file), "-o", str(outs[1]), "--slab-slices", "1"]) == 0
    captured = capsys.readouterr()
    assert "made in slabs of 2: about 0." in captured.out and "16/16" in captured.err
    monkeypatch.setattr(command, "memory_bound", lambda: 1e8)
    assert main([*options(file), "-o", str(outs[2])]) == 0
    text = capsys.readouterr().out
    assert "made in slabs of 2" in text and "more than the bound of about 0.1 GB" in text
    assert "warning: the smallest slabs take more" in text
    whole, *slabs = map(contents, outs)
    assert set(whole) == {"2kV_SE.tif", "truth.tif", "stack.yaml", "instrument.yaml"}
    assert all(found == whole for found in slabs)
    truth, images = (tifffile.imread(outs[0] / f"{name}.tif") for name in ("truth", "2kV_SE"))
    assert truth.shape == images.shape == (SLICES, SIDE, SIDE)
    assert images[truth == 1].mean() > images[truth == 0].mean() + 10


def test_slabs_of_a_drawn_specimen_give_the_files_of_the_whole(tmp_path, capsys):
    arguments = ["simulate", *SIZES, "--side", str(SIDE), "--parameters", "ligament_nm", "25"]
    assert main([*arguments, "-o", str(tmp_path / "whole")]) == 0
    assert "the specimen is drawn" not in capsys.readouterr().out
    assert main([*arguments, "-o", str(tmp_path / "slabs"), "--slab-slices", "2"]) == 0
    text = capsys.readouterr().out
    assert "made in slabs of 2" in text and "the specimen is drawn in memory" in text
    assert contents(tmp_path / "slabs") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--slab-slices", "-3"], "--slab-slices is -3; expected"),
        (["--slices", "90"], "ask for fewer slices"),
        (["--specimen-voxel-nm", "2.5", "0", "3.2"], "voxel_nm is"),
        (["--materials", "Ni", "YSZ", "--pores", "resin"], "has 2 phases but"),
    ],
)
def test_bad_requests_write_nothing(file, tmp_path, capsys, changes, words):
    out = tmp_path / "out"
    assert main([*options(file), "-o", str(out), *changes]) == 2
    text = capsys.readouterr().err
    assert words in text and text.startswith("error: ") and text.count("\n") == 1
    assert not out.exists()


def test_ctrl_c_between_slabs_leaves_no_file(file, tmp_path, request):
    """A real signal, once the first slab is done."""
    out = tmp_path / "out"
    seen = []

    def progress(stage):
        def show(done, total, text):
            seen.append([p.name for p in out.iterdir()])
            if len(seen) == 2:
                signal.raise_signal(signal.SIGINT)

        return show

    # A shell has programs that it starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        simulate_to_folder(
            "tilted52", out, specimen=str(file), specimen_voxel_nm=(2.5, 3.2, 3.2), parameters={},
            beam_kev=(2.0,), materials=(), pores="vacuum", slices=SLICES, side=SIDE, seed=3,
            ground_nm=None, slab_slices=2, announce=lambda line: None, progress=progress,
        )  # fmt: skip
    assert len(seen) == 2 and len(seen[1]) == 2
    assert all(".part" in name for name in seen[1])
    assert not list(out.iterdir())


def test_a_disk_that_fills_up_leaves_no_file(tmp_path):
    """The system's own limit on the size of files stands in for a full disk."""
    rng = np.random.default_rng(0)
    lens = make_instrument(beam_kev=(1.0,))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def slabs():
        for first in (2, 0):
            images = rng.uniform(0, 255, (1, 2, SIDE, SIDE)).astype(np.float32)
            sample = type("Recorded", (), dict(images=images, solid=images[0] / 255))
            yield SampledSlab(first=first, sample=sample)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(InputError, match="cannot be written"):
            write_slabs(tmp_path / "out", slabs(), lens, (4, SIDE, SIDE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_without_space_is_refused_before_any_work(tmp_path):
    lens = make_instrument(beam_kev=(1.0,))
    with pytest.raises(InputError, match=r"needs 2e\+\d+ GB but .* GB are free"):
        write_slabs(tmp_path / "out", iter(()), lens, (10**9, 10**6, 10**6))
    assert not (tmp_path / "out").exists()


# Memory


def recording(**changes):
    sizes = dict(specimen=(1536, 512, 512), phases=1, channels=1, slices=500, below=6, sublayers=3)
    return Recording(**{**sizes, **changes})


def test_slabs_are_as_large_as_the_bound_allows():
    whole = recording().whole_bytes()
    assert recording().slab_slices_within(whole) == 0
    counts = [recording().slab_slices_within(f * whole) for f in (0.99, 0.19, 0.17, 0.001)]
    assert counts[0] == 32 and counts == sorted(counts, reverse=True) and counts[-1] == 2
    for count in (3, 8, 31):
        assert recording().slab_slices_within(recording().slab_bytes(count)) == count
    small = recording(slices=3)
    assert small.slab_bytes(32) <= small.whole_bytes()


def test_memory_grows_with_what_it_holds():
    for changes in (dict(channels=3), dict(phases=2), dict(sublayers=4), dict(slices=600)):
        assert recording(**changes).whole_bytes() > recording().whole_bytes()
    assert recording(held_bytes=5e8).slab_bytes(8) == recording().slab_bytes(8) + 5e8


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (limit, tmp_path / "absent"))
    machine = memory_bytes()
    assert machine > 1e8
    limit.write_text("max\n")
    assert memory_bytes() == machine
    limit.write_text("5000000\n")
    assert memory_bytes() == 5e6
