"""Whatever is wrong with a user's files is said in one sentence that names it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fibsim.errors import InputError
from fibsim.io import read_stack, read_volume, write_volume

VOXEL = (10.0, 4.0, 4.0)
FACTS = {"pixel_nm": 4, "slice_nm": 10}


def grey(seed: int = 0, shape: tuple = (5, 12, 16), dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound stack of two channels, to be spoilt."""
    for seed, name in enumerate(("1kV", "2kV")):
        write_volume(tmp_path / f"{name}.tif", grey(seed), voxel_nm=VOXEL)
    return tmp_path


def refusal(path: Path, **overrides) -> str:
    """The sentence with which a stack is refused."""
    with pytest.raises(InputError) as caught:
        read_stack(path, overrides=overrides)
    message = str(caught.value)
    assert "\n" not in message.split("\n\n")[0] and message[0] not in " {"
    return message


def names_all(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, (part, message)


def stated(folder: Path, **facts) -> None:
    (folder / "stack.yaml").write_text(yaml.safe_dump(facts))


def test_the_stack_is_sound_before_it_is_spoilt(folder: Path) -> None:
    assert read_stack(folder).images.shape == (2, 5, 12, 16)


# --- paths and folders -----------------------------------------------------------------------


def test_path_that_is_not_there(folder: Path) -> None:
    names_all(refusal(folder / "1kv.tiff"), "does not exist", "did you mean", "1kV.tif")
    names_all(refusal(folder.parent / (folder.name + "x") / "deep"), "did you mean", folder.name)
    with pytest.raises(InputError, match="does not exist"):
        read_volume(folder / "nothing.tif")
    with pytest.raises(InputError, match="is a folder"):
        read_volume(folder)


def test_folder_without_images(tmp_path: Path) -> None:
    names_all(refusal(tmp_path), "no image of a channel", "nothing")
    (tmp_path / "notes.txt").write_text("x")
    write_volume(tmp_path / "truth.tif", grey(), voxel_nm=VOXEL)
    names_all(refusal(tmp_path), "no image of a channel", "truth.tif", "notes.txt")


def test_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "data.dat").write_bytes(b"1234")
    names_all(refusal(tmp_path / "data.dat"), "data.dat", ".tif", "export")


def test_labels_are_not_read_as_an_image(folder: Path) -> None:
    write_volume(folder / "truth.tif", grey(), voxel_nm=VOXEL)
    names_all(refusal(folder / "truth.tif"), "truth.tif", "named like labels", "truth.yaml")


def test_files_without_voltage_and_of_several_sizes(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.tif", grey(0), voxel_nm=VOXEL)
    write_volume(tmp_path / "b.tif", grey(0, (1, 30, 40)), voxel_nm=VOXEL)
    names_all(refusal(tmp_path), "a.tif", "b.tif", "stack.yaml", "5 slices of", "1 slice of")


# --- channels --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 12, 16), (5, 12, 17), (5, 13, 16)])
def test_channels_of_different_shape(folder: Path, shape: tuple) -> None:
    write_volume(folder / "2kV.tif", grey(1, shape), voxel_nm=VOXEL)
    found = f"{shape[0]} slices of {shape[2]} x {shape[1]}"
    names_all(refusal(folder), "1kV.tif", "2kV.tif", found, "5 slices of 16 x 12", "crop")


def test_slices_of_different_size(tmp_path: Path) -> None:
    (tmp_path / "1kV").mkdir()
    Image.fromarray(grey(0, (12, 16))).save(tmp_path / "1kV" / "s1.png")
    Image.fromarray(grey(0, (12, 15))).save(tmp_path / "1kV" / "s2.png")
    names_all(refusal(tmp_path, **FACTS), "s2.png", "15 x 12", "16 x 12")


def test_unequal_numbers_of_slices_in_one_folder(tmp_path: Path) -> None:
    for name in ("s1_1kV", "s2_1kV", "s1_2kV"):
        Image.fromarray(grey(0, (12, 16))).save(tmp_path / f"{name}.png")
    names_all(refusal(tmp_path, **FACTS), "2 images like s1_1kV.png", "1 like s1_2kV.png")


def test_listed_channel_without_a_file(folder: Path) -> None:
    stated(folder, channels=[{"file": "1kV.tif"}, {"file": "2kv.tif"}])
    names_all(refusal(folder), "stack.yaml", "2kv.tif", "did you mean 2kV.tif")
    (folder / "stack.yaml").unlink()
    names_all(refusal(folder, channels=["5kV.tif"]), "The command line lists", "5kV.tif")
    names_all(refusal(folder, channels=["1kV.tif", "1kV.tif"]), "list each file once")
    names_all(refusal(folder / "1kV.tif", channels=["1kV.tif"]), "is one file", "folder")


def test_nnunet_channel_without_a_file(tmp_path: Path) -> None:
    write_volume(tmp_path / "foam_0000.tif", grey(), voxel_nm=VOXEL)
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"channel_names": {"0": "1kV", "1": "5kV"}}))
    names_all(refusal(tmp_path), "foam", "channel 1 (5kV)", "foam_0001")
    file.write_text(json.dumps({"channel_names": {"0": "1kV"}}))
    write_volume(tmp_path / "foam_0001.tif", grey(1), voxel_nm=VOXEL)
    names_all(refusal(tmp_path), "foam_0001.tif", "channel_names")
    file.write_text("{not json")
    names_all(refusal(tmp_path), "dataset.json", "channel_names")


def test_channel_given_twice(folder: Path) -> None:
    write_volume(folder / "2kV_SE.tif", grey(5), voxel_nm=VOXEL)
    names_all(refusal(folder), "2kV.tif", "2kV_SE.tif", "2 keV SE", "once")
    (folder / "2kV_SE.tif").unlink()
    stated(folder, channels=[{"file": "1kV.tif", "name": "a"}, {"file": "2kV.tif", "name": "a"}])
    names_all(refusal(folder), "both named a")


def test_the_same_picture_under_two_voltages(folder: Path) -> None:
    write_volume(folder / "2kV.tif", grey(0), voxel_nm=VOXEL)
    names_all(refusal(folder), "1kV.tif", "2kV.tif", "equal in every pixel")


def test_lists_of_the_wrong_length(folder: Path) -> None:
    names_all(refusal(folder, beam_kev=[1]), "1 value of beam_kev", "2 channels", "1kV.tif, 2kV")
    names_all(refusal(folder, detector=["SE"] * 3), "3 values of detector", "2 channels")
    stated(folder, channels=[{"beam_kev": 1}, {"beam_kev": 2}, {"beam_kev": 5}])
    names_all(refusal(folder), "stack.yaml", "3 values of beam_kev", "2 channels")


def test_hyperstack_listed_once(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "h.tif", np.stack([grey(0), grey(1)]), metadata={"axes": "CZYX"},
                     photometric="minisblack")  # fmt: skip
    stated(tmp_path, **FACTS, channels=[{"file": "h.tif", "beam_kev": 1}])
    names_all(refusal(tmp_path), "h.tif", "holds 2 channels")


def test_axes_that_no_stack_has(tmp_path: Path) -> None:
    data = np.stack([grey(0), grey(1)])
    tifffile.imwrite(tmp_path / "film.tif", data, metadata={"axes": "TZYX"}, imagej=True)
    names_all(refusal(tmp_path / "film.tif", **FACTS), "film.tif", "TZ", "ZYX")


# --- damaged files ---------------------------------------------------------------------------


def _pillow(path: Path, scheme: str) -> None:
    pages = [Image.fromarray(page) for page in grey()]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression=scheme)


def _page_by_page(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for page in grey():
            writer.write(page, photometric="minisblack", contiguous=False)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "imagej": ("tif", lambda path: write_volume(path, grey(), voxel_nm=VOXEL)),
    "imagej_zlib": ("tif", lambda p: tifffile.imwrite(p, grey(), imagej=True, compression="zlib")),
    "plain": ("tif", lambda p: tifffile.imwrite(p, grey(), photometric="minisblack")),
    "bare": ("tif", lambda p: tifffile.imwrite(p, grey(), photometric=1, metadata=None)),
    "zlib": ("tif", lambda p: tifffile.imwrite(p, grey(), photometric=1, compression="zlib")),
    "tiled": ("tif", lambda p: tifffile.imwrite(p, grey(), photometric=1, tile=(16, 16))),
    "bigtiff": ("tif", lambda p: tifffile.imwrite(p, grey(), photometric=1, bigtiff=True)),
    "ome": ("ome.tif", lambda p: tifffile.imwrite(p, grey(), photometric=1, ome=True)),
    "page_by_page": ("tif", _page_by_page),
    "pillow": ("tif", lambda path: _pillow(path, "raw")),
    "lzw": ("tif", lambda path: _pillow(path, "tiff_lzw")),
    "bmp": ("bmp", lambda path: Image.fromarray(grey()[0]).save(path)),
    "png": ("png", lambda path: Image.fromarray(grey()[0]).save(path)),
}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 0.999))
@pytest.mark.parametrize("kind", WRITERS)
def test_file_that_was_cut_short(tmp_path: Path, capfd, kind: str, share: float) -> None:
    """A cut file is refused, or it was cut behind the last pixel and reads the same."""
    suffix, write = WRITERS[kind]
    path = tmp_path / f"1kV.{suffix}"
    write(path)
    whole = read_stack(path, overrides=FACTS).images
    data = path.read_bytes()
    for cut in {int(share * len(data)), len(data) // 2, 0}:
        path.write_bytes(data[:cut])
        try:
            images = read_stack(path, overrides=FACTS).images
        except InputError as error:
            assert "1kV" in str(error)
        else:
            assert cut > 0.6 * len(data)
            np.testing.assert_array_equal(images, whole)
    assert capfd.readouterr() == ("", "")  # nothing of tifffile's log


def test_empty_and_alien_files(tmp_path: Path, capfd) -> None:
    for name in ("1kV.tif", "1kV.bmp", "1kV.png"):
        path = tmp_path / name
        path.write_bytes(b"")
        names_all(refusal(path, **FACTS), name, "empty (0 bytes)")
        path.write_bytes(b"this is text, whatever its name says" * 20)
        names_all(refusal(path, **FACTS), name, "damaged or not an image")
        path.unlink()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_file_without_permission(folder: Path) -> None:
    (folder / "1kV.tif").chmod(0)
    names_all(refusal(folder), "1kV.tif", "permissions")


def test_damaged_page_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "1kV.tif"
    tifffile.imwrite(path, grey(), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[2].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    names_all(refusal(path, **FACTS), "1kV.tif", "damaged")


def test_compression_that_needs_imagecodecs(tmp_path: Path) -> None:
    path = tmp_path / "1kV.tif"
    tifffile.imwrite(path, grey(), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        for page in tif.pages:
            page.tags["Compression"].overwrite(34712)  # JPEG 2000
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        names_all(refusal(path, **FACTS), "1kV.tif", "pip install imagecodecs", "uncompressed")
    else:
        names_all(refusal(path, **FACTS), "1kV.tif", "damaged")


# --- grey values -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(folder: Path, bad: float) -> None:
    images = grey(1).astype(np.float32)
    images[3, 4, 5] = bad
    write_volume(folder / "2kV.tif", images, voxel_nm=VOXEL)
    names_all(refusal(folder), "2kV.tif", "1 value not finite", "slice 3")


def test_channel_without_contrast(folder: Path) -> None:
    write_volume(folder / "2kV.tif", np.full((5, 12, 16), 7, np.uint8), voxel_nm=VOXEL)
    names_all(refusal(folder), "2kV.tif", "grey value 7 everywhere")


def test_slice_without_contrast_is_a_warning(folder: Path) -> None:
    images = grey(1)
    images[2] = 7
    write_volume(folder / "2kV.tif", images, voxel_nm=VOXEL)
    warning = next(w for w in read_stack(folder).warnings if "one grey value all over" in w)
    names_all(warning, "2kV.tif", "1 of 5 slices (2)")


def test_two_grey_values_are_a_warning(folder: Path) -> None:
    write_volume(folder / "2kV.tif", (grey(1) > 100).astype(np.uint8), voxel_nm=VOXEL)
    assert any("like labels" in warning for warning in read_stack(folder).warnings)


def test_types_that_are_no_grey_values(tmp_path: Path) -> None:
    path = tmp_path / "1kV.tif"
    tifffile.imwrite(path, grey().astype(np.complex64), photometric="minisblack")
    names_all(refusal(path, **FACTS), "1kV.tif", "complex64")
    tifffile.imwrite(path, grey() > 100, photometric="minisblack")
    names_all(refusal(path, **FACTS), "1kV.tif", "bool")
    Image.fromarray(grey(0, (12, 16)) > 100).save(tmp_path / "1kV.png")
    names_all(refusal(tmp_path / "1kV.png", **FACTS), "1kV.png", "bool")
    Image.fromarray(np.stack([grey(i, (12, 16)) for i in range(4)], -1), "CMYK").save(path)
    names_all(refusal(path, **FACTS), "1kV.tif", "colour")


def test_three_slices_taken_for_colours(tmp_path: Path) -> None:
    """What tifffile has made of three slices up to now."""
    slices = np.stack([grey(i, (12, 16)) for i in range(3)])
    tifffile.imwrite(tmp_path / "1kV.tif", slices, photometric="rgb", planarconfig="separate")
    names_all(refusal(tmp_path / "1kV.tif", **FACTS), "1kV.tif", "three planes", "minisblack")


@pytest.mark.parametrize("name", ["1kV.png", "1kV.bmp", "1kV.tif"])
def test_colour_images(tmp_path: Path, name: str) -> None:
    picture = np.stack([grey(i, (12, 16)) for i in range(3)], -1)
    Image.fromarray(picture).save(tmp_path / name)
    names_all(refusal(tmp_path / name, **FACTS), name, "red, green and blue differ")
    assert "slices" not in refusal(tmp_path / name, **FACTS)
    palette = Image.fromarray(grey(0, (12, 16))).convert("P")
    palette.putpalette([level for i in range(256) for level in (i, 0, 255 - i)])
    palette.save(tmp_path / name)
    names_all(refusal(tmp_path / name, **FACTS), name, "colour picture")


# --- facts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "parts"),
    [
        (
            {"beam_kev": [1, 2000]},
            ("2kV.tif", "2000 keV", "0.1 to 30", "looks like volts", "2 for"),
        ),
        ({"beam_kev": [0.01, 2]}, ("1kV.tif", "0.01 keV", "0.1 to 30")),
        ({"beam_kev": [-1, 2]}, ("1kV.tif", "-1 keV")),
        ({"pixel_nm": 0}, ("pixel size is 0 nm", "command line", "0.1 to 1000")),
        ({"pixel_nm": 4000}, ("pixel size is 4000 nm",)),
        ({"slice_nm": 0.1}, ("slice thickness is 0.1 nm", "0.5 to 10000")),
        ({"tilt_deg": 90}, ("tilt is 90 degrees", "-80 to 80")),
        ({"tilt_deg": -81}, ("tilt is -81 degrees",)),
        ({"pixel_nm": "4 nm"}, ("pixel_nm", "'4 nm'", "without a unit")),
        ({"pixel_nm": float("nan")}, ("pixel_nm", "nan")),
        ({"tilt_deg": True}, ("tilt_deg", "True")),
        ({"material": ""}, ("material", "''")),
        ({"detector": ["SE", "camera"]}, ("camera", "SE or BSE")),
        ({"pixle_nm": 4}, ("pixle_nm", "did you mean pixel_nm")),
    ],
)
def test_impossible_facts(folder: Path, facts: dict, parts: tuple) -> None:
    names_all(refusal(folder, **facts), *parts)


def test_impossible_facts_in_headers_and_names(tmp_path: Path) -> None:
    write_volume(tmp_path / "200kV.tif", grey(), voxel_nm=VOXEL)
    names_all(refusal(tmp_path), "200 keV", "file name")
    write_volume(tmp_path / "200kV.tif", grey(), voxel_nm=(10, 4000, 4000))
    names_all(refusal(tmp_path, beam_kev=[2]), "4000 nm", "ImageJ resolution tag", "pixel_nm")
    assert read_stack(tmp_path, overrides={"beam_kev": [2], "pixel_nm": 4}).pixel_nm == 4
    write_volume(tmp_path / "200kV.tif", grey(), voxel_nm=(10, 5, 4))
    names_all(refusal(tmp_path, beam_kev=[2]), "4 nm wide", "5 nm high", "square")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("pixle_nm: 4\n", ("'pixle_nm'", "did you mean pixel_nm", "known keys")),
        ("pixel_nm: 4 nm\n", ("'4 nm'", "without a unit")),
        ("pixel_nm: ?\n", ("'?' in line 1",)),
        ("pixel_nm: [4\n", ("not valid YAML in line 2",)),
        ("- 1\n- 2\n", ("holds list",)),
        ("channels: 1kV.tif\n", ("'1kV.tif'", "a list")),
        ("channels: [1kV.tif]\n", ("'1kV.tif'", "keys and values")),
        ("channels: [{file: 1kV.tif, beam_kv: 1}]\n", ("'beam_kv'", "did you mean beam_kev")),
        ("channels: [{file: 1kV.tif}, {beam_kev: 1}]\n", ("file for some channels only",)),
        (
            "channels: [{file: 1kV.tif}, {file: 1kV.tif}]\n",
            ("2 times", "1 channel;", "list each file once"),
        ),
        ("material: 7\n", ("material as 7",)),
    ],
)
def test_faulty_stack_yaml(folder: Path, text: str, parts: tuple) -> None:
    (folder / "stack.yaml").write_text(text)
    names_all(refusal(folder), "stack.yaml", *parts)


def test_stack_yaml_that_is_not_text(folder: Path) -> None:
    (folder / "stack.yaml").write_bytes(b"\xff\xfe\x00pixel")
    names_all(refusal(folder), "stack.yaml", "UTF-8")
    (folder / "stack.yaml").write_text("")
    assert read_stack(folder).num_channels == 2  # empty states nothing


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 16), (0, 12, 16), (1, 2, 3, 4)])
def test_volumes_of_the_wrong_shape(tmp_path: Path, shape: tuple) -> None:
    with pytest.raises(InputError, match=r"\(z, y, x\)"):
        write_volume(tmp_path / "v.tif", np.zeros(shape, np.uint8), voxel_nm=VOXEL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("voxel", [0, -1.0, (4, 4), (10, float("nan"), 4), (10, 0, 4)])
def test_voxels_of_no_size(tmp_path: Path, voxel) -> None:
    with pytest.raises(InputError, match="voxel size"):
        write_volume(tmp_path / "v.tif", grey(), voxel_nm=voxel)


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_volume(tmp_path / "file" / "v.tif", grey(), voxel_nm=VOXEL)
