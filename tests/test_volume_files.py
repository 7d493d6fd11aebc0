"""Volumes read and written by ranges of layers: the values of the whole file, whatever its form."""

import resource
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from fibsim.errors import InputError
from fibsim.io import open_volume, read_volume, volume_writer, write_volume
from fibsim.specimens import (
    ResampledVolume,
    make_specimen,
    open_specimen,
    resample,
    specimen_from_file,
)
from fibsim.specimens import from_file as from_file_module

VALUES = np.random.default_rng(0).integers(0, 60_000, (7, 6, 9)).astype(np.uint16)

FORMS = {
    "written.tif": lambda p: write_volume(p, VALUES, voxel_nm=4.0),
    "big_endian.tif": lambda p: tifffile.imwrite(p, VALUES, byteorder=">"),
    "imagej.tif": lambda p: tifffile.imwrite(p, VALUES, imagej=True, byteorder=">"),
    "ome.tif": lambda p: tifffile.imwrite(p, VALUES, ome=True, metadata={"axes": "ZYX"}),
    "deflate.tif": lambda p: tifffile.imwrite(p, VALUES, compression="zlib"),
    "tiled.tif": lambda p: tifffile.imwrite(p, VALUES, tile=(16, 16), byteorder=">"),
    "c_order.npy": lambda p: np.save(p, VALUES.astype(">u2")),
    "fortran.npy": lambda p: np.save(p, np.asfortranarray(VALUES)),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_ranges_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FORMS[name](path)
    whole = read_volume(path)
    np.testing.assert_array_equal(whole, VALUES)
    with open_volume(path) as file:
        assert not file.held_because
        assert file.shape == VALUES.shape and file.dtype == whole.dtype == np.uint16
        for rows in (slice(0, 1), slice(2, 5), slice(6, 12), slice(None), slice(3, 3)):
            np.testing.assert_array_equal(file[rows], VALUES[rows])
            assert file[rows].dtype == np.uint16


def test_forms_that_must_be_held_say_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", volume=VALUES)
    grey = (VALUES % 256).astype(np.uint8)
    tifffile.imwrite(tmp_path / "colour.tif", np.stack([grey] * 3, axis=-1), photometric="rgb")
    pages = [Image.fromarray(page) for page in grey]
    pages[0].save(tmp_path / "lzw.tif", save_all=True, append_images=pages[1:],
                  compression="tiff_lzw")  # fmt: skip
    pages[0].save(tmp_path / "single.png")
    for name, reason in (
        ("one.npz", "an .npy can"), ("colour.tif", "ZYXS"), ("lzw.tif", "read alone"),
        ("single.png", "single image"),
    ):  # fmt: skip
        with open_volume(tmp_path / name) as file:
            if name == "lzw.tif" and not file.held_because:
                continue  # with imagecodecs its pages can be read alone
            assert reason in file.held_because
            np.testing.assert_array_equal(file[2:5], read_volume(tmp_path / name)[2:5])


def test_vendor_files_are_cropped_alike(shared_data: Path) -> None:
    """Header, data bar and pages of real instruments."""
    lazy = 0
    for path in sorted((shared_data / "vendor").glob("*.tif")):
        try:
            whole = read_volume(path)
        except InputError:
            continue
        with open_volume(path) as file:
            np.testing.assert_array_equal(file[:], whole)
            lazy += not file.held_because
    assert lazy > 3


@pytest.mark.parametrize(
    ("name", "make", "match"),
    [
        ("flat.npy", lambda p: np.save(p, VALUES[0]), r"shape \(6, 9\), expected a volume"),
        ("cut.npy", lambda p: (np.save(p, VALUES), cut(p)), "damaged or no array"),
        ("text.npy", lambda p: p.write_text("1 2 3"), "damaged or no array"),
        ("two.npz", lambda p: np.savez(p, a=VALUES, b=VALUES), r"2 arrays \(a, b\)"),
        ("objects.npy", lambda p: np.save(p, np.array([[[None]]])), "damaged or no array"),
        ("absent.npy", lambda p: None, "does not exist"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, name, make, match) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=match) as error:
        open_volume(path)
    assert name in str(error.value)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_a_page_that_is_damaged_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, VALUES, compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[4].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = b"\xff" * 4
    path.write_bytes(content)
    with open_volume(path) as file:
        np.testing.assert_array_equal(file[:4], VALUES[:4])
        with pytest.raises(InputError, match=r"pages\.tif is damaged"):
            file[4:5]


# Writing


def test_layers_may_be_written_in_any_order(tmp_path: Path) -> None:
    write_volume(tmp_path / "whole.tif", VALUES, voxel_nm=(10, 4, 4))
    path = tmp_path / "parts.tif"
    with volume_writer(path, VALUES.shape, VALUES.dtype, voxel_nm=(10, 4, 4)) as write:
        for first in (5, 2, 0):
            write(first, VALUES[first : first + 3])
            assert not path.exists()
    assert path.read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError, RuntimeError])
def test_a_stopped_write_leaves_nothing(tmp_path: Path, error) -> None:
    with (
        pytest.raises(error),
        volume_writer(tmp_path / "v.tif", VALUES.shape, np.uint16, voxel_nm=4.0) as write,
    ):
        write(0, VALUES[:2])
        raise error
    assert not list(tmp_path.iterdir())


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path: Path) -> None:
    """The system's own limit on the size of files stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(InputError, match=r"v\.tif cannot be written \(File too large\)"),
            volume_writer(tmp_path / "v.tif", VALUES.shape, np.uint16, voxel_nm=4.0) as write,
        ):
            write(0, VALUES[:2])
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            write(2, VALUES[2:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_files_beyond_4_gb_are_read_back(tmp_path: Path) -> None:
    """Of holes, but for the last layer."""
    path = tmp_path / "large.tif"
    last = np.full((1, 1024, 1024), 7, np.uint8)
    with volume_writer(path, (4200, 1024, 1024), np.uint8, voxel_nm=(10, 4, 4)) as write:
        write(4199, last)
    assert path.stat().st_size > 2**32
    with open_volume(path) as file:
        assert file.shape == (4200, 1024, 1024) and not file.held_because
        np.testing.assert_array_equal(file[4199:], last)
        assert not file[4198:4199].any()


# Specimens


def test_values_are_understood_part_by_part(tmp_path: Path, monkeypatch) -> None:
    """As of the whole at once, whichever part shows that they are none of a specimen."""
    monkeypatch.setattr(from_file_module, "_CHUNK_BYTES", 1)
    solid = np.random.default_rng(1).random((6, 5, 4)) > 0.5

    def stored(values) -> Path:
        np.save(tmp_path / "v.npy", values)
        return tmp_path / "v.npy"

    for values in (solid, 200 * solid.astype(np.uint8), solid.astype(float), -3 * solid):
        number = -3 if values.min() < 0 else None
        with open_specimen(stored(values), 2.0, number) as file:
            np.testing.assert_array_equal(file[1:4], solid[1:4])
            assert file.shape == solid.shape and file[:].dtype == np.float32
    labels = solid * np.arange(6)[:, None, None]
    with open_specimen(stored(labels), 2.0, phases=5) as file:
        assert file.shape == (5, *solid.shape)
        np.testing.assert_array_equal(file[:, 3:5][2], labels[3:5] == 3)
    half = solid.astype(float)
    half[5, 0, 0] = 0.5
    np.testing.assert_array_equal(specimen_from_file(stored(half), 2.0).solid, half)
    for values, number, phases, match in (
        (labels, None, None, r"more than two values \(0, 1, 5"),
        (labels, None, 4, "values from 0 to 5 but 4 materials"),
        (half, None, 1, "values from 0 to 1 but 1 materials"),
        (labels, 9, None, "no voxel has it, values range from 0 to 5"),
        (np.where(labels == 5, np.nan, labels), None, None, "not finite"),
        (2 * half, None, None, r"more than two values \(0, 1, 2"),
        (np.full((6, 5, 4), 3), None, None, "the values 3 and 3"),
    ):
        with pytest.raises(InputError, match=match):
            specimen_from_file(stored(values), 2.0, number, phases=phases)


@pytest.mark.parametrize("voxel_nm", [(3.3, 4.0, 4.0), (1.1, 2.0, 3.0), (9.0, 1.7, 2.0)])
def test_resampled_layers_do_not_depend_on_the_range(voxel_nm) -> None:
    """And are those of `resample`, up to rounding; with one phase and with two."""
    rng = np.random.default_rng(2)
    for solid in (rng.random((23, 17, 19)), rng.random((2, 11, 8, 9)) / 2):
        solid = solid.astype(np.float32)
        wanted = np.asarray(resample(make_specimen(solid, voxel_nm=2.0), voxel_nm).solid)
        volume = ResampledVolume(solid, old_nm=(2.0, 2.0, 2.0), voxel_nm=voxel_nm)
        assert volume.shape == wanted.shape
        several = (slice(None),) * (solid.ndim - 3)
        whole = volume[(*several, slice(None))]
        np.testing.assert_allclose(whole, wanted, atol=1e-6)
        for top in range(0, volume.shape[-3], 3):
            rows = (*several, slice(top, top + 3))
            np.testing.assert_array_equal(volume[rows], whole[rows])
    with pytest.raises(InputError, match="smaller voxels"):
        ResampledVolume(solid, old_nm=(2.0, 2.0, 2.0), voxel_nm=500.0)
