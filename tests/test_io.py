"""Reading and writing of image data: every accepted form, headers, precedence, round trips."""

import ast
import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fibsim.errors import InputError
from fibsim.io import (
    atomic_path,
    atomic_write_text,
    fingerprint,
    inspect_stack,
    read_stack,
    read_volume,
    read_voxel_nm,
    write_stack,
    write_volume,
)
from fibsim.io._files import natural_key
from fibsim.io.checks import burnt_in_rows
from fibsim.io.facts import beam_to_face_deg, length_nm
from fibsim.io.images import main_series, probe_image, read_pixels, stored_axes
from fibsim.io.names import (
    detector_kind,
    detector_of_name,
    is_label_name,
    kev_of_name,
)
from fibsim.io.vendor_headers import fei_facts
from fibsim.stack import Channel

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared data are not here")
VOXEL = (10.0, 4.0, 4.0)


def grey(seed: int = 0, shape: tuple = (5, 12, 16), dtype=np.uint8) -> np.ndarray:
    """An image stack of random grey values."""
    return np.random.default_rng(seed).integers(1, 250, shape).astype(dtype)


def write_channels(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        write_volume(folder / f"{name}.tif", grey(seed), voxel_nm=VOXEL)


def stated(folder: Path, **facts) -> None:
    (folder / "stack.yaml").write_text(yaml.safe_dump(facts))


# --- names -----------------------------------------------------------------------------------


def test_axes_by_either_interface_of_tifffile(tmp_path):
    """Of one slice, whose axis both leave out unless they are told not to."""
    write_volume(tmp_path / "one.tif", grey(shape=(1, 12, 16)), voxel_nm=VOXEL)
    with tifffile.TiffFile(tmp_path / "one.tif") as tif:
        (series,), left_out = main_series(tif)
        found = stored_axes(series)
    assert found == ((1, 1, 1, 12, 16, 1), "TZCYXS") and left_out == 0

    class Later:  # since 2026.5.2 a callable, whose members know one shape
        filename = "one.tif"

        def series(self, squeeze):
            assert squeeze is False
            return [SimpleNamespace(shape=found[0], axes=found[1], size=192, dtype="u1")]

    assert stored_axes(main_series(Later())[0][0]) == found


@pytest.mark.parametrize(
    ("name", "kev"),
    [
        ("1kV", 1.0),
        ("1.8kV_BSE", 1.8),
        ("sample_5keV_SE", 5.0),
        ("1,5 kV", 1.5),
        ("map_1p5kV", 1.5),
        ("750V", 0.75),
        ("sample_0_10kV", 10.0),
        ("NAME.2kV", 2.0),
        ("v2_overview", None),
        ("image_0001", None),
        ("1kV_2kV", None),
        ("5kV_again_5kV", 5.0),
    ],
)
def test_beam_energy_of_a_name(name: str, kev: float | None) -> None:
    assert kev_of_name(name) == kev


@given(
    kev=st.integers(1, 300).map(lambda tenths: tenths / 10),
    prefix=st.sampled_from(["", "sample_", "S12_", "a b-", "specimen 3 "]),
    unit=st.sampled_from(["kV", "keV", "KV", " kV"]),
    detector=st.sampled_from(["SE", "BSE", "InLens", "ESB"]),
)
def test_names_that_people_give_are_understood(kev, prefix, unit, detector) -> None:
    name = f"{prefix}{kev:g}{unit}_{detector}"
    assert kev_of_name(name) == kev
    assert detector_of_name(name) == {"InLens": "SE", "ESB": "BSE"}.get(detector, detector)
    assert not is_label_name(name)


@given(st.text(max_size=40))
def test_no_text_breaks_name_parsing(text: str) -> None:
    kev = kev_of_name(text)
    assert kev is None or kev >= 0
    assert detector_of_name(text) in ("SE", "BSE", None)
    assert sorted([text, "a2", "a10"], key=natural_key).index("a2") < sorted(
        [text, "a2", "a10"], key=natural_key
    ).index("a10")


@pytest.mark.parametrize(
    ("detector", "mode", "kind"),
    [
        ("ETD", "", "SE"),
        ("SE2", "", "SE"),
        ("InLens", "", "SE"),
        ("In-Lens", "", "SE"),
        ("TLD", "SE", "SE"),
        ("TLD", "BSE", "BSE"),
        ("ESB", "", "BSE"),
        ("CBS", "All", "BSE"),
        ("MD", "", "BSE"),
        ("In-Beam BSE", "", "BSE"),
        ("ABS", "A", "BSE"),
        ("Nav-Cam", "None", None),
        ("", "", None),
    ],
)
def test_detectors_of_makers(detector: str, mode: str, kind: str | None) -> None:
    assert detector_kind(detector, mode) == kind


def test_names_of_labels() -> None:
    for name in ("truth", "labels", "my_mask", "gt_01", "specimen", "segmentation", "probability"):
        assert is_label_name(name), name
    for name in ("specimen_5kV", "1kV_SE", "slice_001", "strength", "target"):
        assert not is_label_name(name), name


def test_units_of_length() -> None:
    assert length_nm(4, "nm") == 4
    assert length_nm("0.004", "\\u00B5m") == pytest.approx(4)
    assert length_nm(4e-6, "mm") == pytest.approx(4)
    assert length_nm(543, "pm") == pytest.approx(0.543)
    for value, unit in ((4, "pixel"), (4, ""), (0, "nm"), ("notafloat", "nm"), (float("nan"), "m")):
        assert length_nm(value, unit) is None


def test_tilt_follows_from_the_stage_only_between_45_and_60_degrees() -> None:
    assert beam_to_face_deg(52) == 38
    assert beam_to_face_deg(-54) == 36
    assert beam_to_face_deg(16) is None
    assert beam_to_face_deg("") is None


# --- the accepted forms ----------------------------------------------------------------------


def test_folder_with_one_file_per_channel(tmp_path: Path) -> None:
    write_channels(tmp_path, "10kV", "1.8kV_BSE", "sample_2keV_SE")
    write_volume(tmp_path / "truth.tif", grey(9), voxel_nm=VOXEL)
    (tmp_path / "notes.txt").write_text("hello")
    stack = read_stack(tmp_path)
    assert [c.beam_kev for c in stack.channels] == [1.8, 2, 10]
    assert [c.detector for c in stack.channels] == ["BSE", "SE", "SE"]
    assert [c.name for c in stack.channels] == ["1.8kV", "2kV", "10kV"]
    assert stack.images.shape == (3, 5, 12, 16) and stack.images.dtype == np.uint8
    np.testing.assert_array_equal(stack.images[2], grey(0))
    assert stack.voxel_nm == VOXEL
    assert stack.tilt_deg is None and stack.material is None
    assert "ImageJ resolution tag" in stack.provenance["pixel_nm"]
    assert stack.provenance["beam_kev"] == "file name"
    assert "truth.tif" in stack.provenance["ignored"]
    assert "notes.txt" in stack.provenance["ignored"]
    text = " ".join(stack.warnings)
    assert "tilt" in text and "material" in text and "detector of 10kV.tif" in text


def test_same_voltage_with_two_detectors_gets_two_names(tmp_path: Path) -> None:
    write_channels(tmp_path, "2kV_BSE", "2kV_SE", "1kV_SE")
    stack = read_stack(tmp_path)
    assert [c.name for c in stack.channels] == ["1kV", "2kV_SE", "2kV_BSE"]


def test_files_without_a_voltage_are_left_out_beside_files_with_one(tmp_path: Path) -> None:
    write_channels(tmp_path, "1kV", "5kV")
    write_volume(tmp_path / "overview.tif", grey(7, (1, 30, 40)), voxel_nm=VOXEL)
    stack = read_stack(tmp_path)
    assert stack.num_channels == 2
    assert any("overview.tif" in warning for warning in stack.warnings)


def test_nnunet_case(tmp_path: Path) -> None:
    for case in ("foam", "gold"):
        for i in range(2):
            write_volume(tmp_path / f"{case}_{i:04d}.tif", grey(i), voxel_nm=VOXEL)
    names = {"0": "1kV SE", "1": "2 kV BSE"}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": names}))
    stack = read_stack(tmp_path / "gold")
    assert stack.name == "gold" and stack.images.shape == (2, 5, 12, 16)
    assert [(c.beam_kev, c.detector) for c in stack.channels] == [(1, "SE"), (2, "BSE")]
    assert stack.provenance["beam_kev"] == "dataset.json"
    with pytest.raises(InputError, match=r"2 cases .*foam, gold"):
        read_stack(tmp_path)
    one = read_stack(tmp_path / "gold_0001.tif")
    assert one.channels[0].beam_kev == 2


def test_nnunet_dataset_folder(tmp_path: Path) -> None:
    for i in range(2):
        write_volume(tmp_path / "imagesTr" / f"a_{i:04d}.tif", grey(i), voxel_nm=VOXEL)
    write_volume(tmp_path / "labelsTr" / "a.tif", grey(5), voxel_nm=VOXEL)
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "1kV", "1": "5kV"}}')
    assert [c.beam_kev for c in read_stack(tmp_path).channels] == [1, 5]
    assert read_stack(tmp_path / "imagesTr" / "a").num_channels == 2


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "TZCYX"])
def test_ome_hyperstack_in_any_order_of_axes(tmp_path: Path, axes: str) -> None:
    data = np.stack([grey(0), grey(1), grey(2)])
    stored = data.transpose(["CZYX".index(axis) for axis in axes if axis != "T"])
    metadata = {
        "axes": axes, "PhysicalSizeX": 0.004, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 4,
        "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 10, "PhysicalSizeZUnit": "nm",
        "Channel": {"Name": ["5kV", "1kV BSE", "2kV"]},
    }  # fmt: skip
    path = tmp_path / "h.ome.tif"
    tifffile.imwrite(path, stored[None] if "T" in axes else stored, ome=True, metadata=metadata,
                     photometric="minisblack")  # fmt: skip
    stack = read_stack(path)
    np.testing.assert_array_equal(stack.images, data)
    assert [c.beam_kev for c in stack.channels] == [5, 1, 2]
    assert stack.channels[1].detector == "BSE"
    assert stack.voxel_nm == pytest.approx(VOXEL) and stack.name == "h"
    assert "OME-XML" in stack.provenance["pixel_nm"]
    assert "channel name" in stack.provenance["beam_kev"]


def test_imagej_hyperstack_with_labels(tmp_path: Path) -> None:
    data = np.stack([grey(0), grey(1)])
    labels = [f"{kev}kV slice {z}" for z in range(5) for kev in (1, 3)]
    tifffile.imwrite(
        tmp_path / "both.tif",
        data.transpose(1, 0, 2, 3),
        imagej=True,
        resolution=(1 / 0.004, 1 / 0.004),
        metadata={"axes": "ZCYX", "Labels": labels, "unit": "um", "spacing": 0.01},
    )
    stack = read_stack(tmp_path / "both.tif")
    np.testing.assert_array_equal(stack.images, data)
    assert [c.beam_kev for c in stack.channels] == [1, 3]
    assert stack.voxel_nm == pytest.approx(VOXEL)
    assert read_stack(tmp_path).num_channels == 2  # the same file, found in its folder


def test_unnamed_axes_are_understood_by_the_stated_number_of_channels(tmp_path: Path) -> None:
    data = np.stack([grey(0), grey(1), grey(2)])
    tifffile.imwrite(tmp_path / "h.tif", data, photometric="minisblack")
    facts = {"pixel_nm": 4, "slice_nm": 10, "beam_kev": [1, 2, 5]}
    stack = read_stack(tmp_path / "h.tif", overrides=facts)
    np.testing.assert_array_equal(stack.images, data)
    assert any("does not name its axes" in warning for warning in stack.warnings)


def test_slices_that_a_writer_called_channels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "2kV.tif", grey(0), imagej=True)  # tifffile writes CYX here
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "slice_nm": 10})
    assert stack.images.shape == (1, 5, 12, 16)
    assert any("taken as slices" in warning for warning in stack.warnings)
    np.testing.assert_array_equal(read_volume(tmp_path / "2kV.tif"), grey(0))


def test_folder_of_subfolders_in_natural_order(tmp_path: Path) -> None:
    for seed, name in enumerate(("1.8kV", "2kV_ESB", "results")):
        (tmp_path / name).mkdir()
        for i in range(11):
            Image.fromarray(grey(seed, (11, 12, 16))[i]).save(tmp_path / name / f"s{i}.png")
    (tmp_path / "2kV_ESB" / "mask.png").write_bytes(b"not looked at")
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "slice_nm": 10})
    assert [(c.beam_kev, c.detector) for c in stack.channels] == [(1.8, "SE"), (2, "BSE")]
    np.testing.assert_array_equal(stack.images[1], grey(1, (11, 12, 16)))
    assert stack.provenance["beam_kev"] == "folder name"
    assert any("results" in warning for warning in stack.warnings)


@pytest.mark.parametrize("suffix", ["tif", "png", "bmp"])
def test_folder_of_slices_is_one_channel(tmp_path: Path, suffix: str) -> None:
    for i in range(11):
        Image.fromarray(grey(3, (11, 12, 16))[i]).save(tmp_path / f"slice_{i}.{suffix}")
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "slice_nm": 10, "beam_kev": 2})
    np.testing.assert_array_equal(stack.images[0], grey(3, (11, 12, 16)))
    assert stack.channels[0].beam_kev == 2


def test_numbered_slices_of_several_voltages_in_one_folder(tmp_path: Path) -> None:
    for seed, kev in enumerate((5, 1)):
        for i in range(3):
            Image.fromarray(grey(seed, (3, 12, 16))[i]).save(tmp_path / f"s{i}_{kev}kV.tif")
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "slice_nm": 10})
    assert [c.beam_kev for c in stack.channels] == [1, 5]
    np.testing.assert_array_equal(stack.images[1], grey(0, (3, 12, 16)))


def test_one_image_per_voltage(tmp_path: Path) -> None:
    for seed, kev in enumerate((1, 2, 5)):
        Image.fromarray(grey(seed, (12, 16))).save(tmp_path / f"{kev}kV.bmp")
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4})
    assert stack.images.shape == (3, 1, 12, 16)
    assert stack.slice_nm == 4
    assert any("assumed equal to the pixel" in warning for warning in stack.warnings)


def test_single_image_with_its_own_yaml(tmp_path: Path) -> None:
    Image.fromarray(grey(0, (12, 16))).save(tmp_path / "image.bmp")
    Image.fromarray(grey(1, (12, 16))).save(tmp_path / "other.bmp")
    (tmp_path / "image.yaml").write_text(
        "pixel_nm: 20\nmaterial: ZrO2\ntilt_deg: 36\nchannels:\n  - {beam_kev: 2, name: face}\n"
    )
    stack = read_stack(tmp_path / "image.bmp")
    assert stack.images.shape == (1, 1, 12, 16) and stack.name == "image"
    assert (stack.pixel_nm, stack.tilt_deg, stack.material) == (20, 36, "ZrO2")
    assert stack.channels[0] == Channel(beam_kev=2, detector="SE", name="face")
    assert stack.provenance["pixel_nm"] == "image.yaml"


def test_grey_images_in_disguise(tmp_path: Path) -> None:
    picture = grey(0, (12, 16))
    facts = {"pixel_nm": 4, "beam_kev": [2]}
    Image.fromarray(np.stack([picture] * 3, -1)).save(tmp_path / "rgb.png")
    stack = read_stack(tmp_path / "rgb.png", overrides=facts)
    np.testing.assert_array_equal(stack.images[0, 0], picture)
    assert any("three equal planes" in warning for warning in stack.warnings)
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([picture] * 3, -1), photometric="rgb")
    np.testing.assert_array_equal(
        read_stack(tmp_path / "rgb.tif", overrides=facts).images[0, 0], picture
    )
    palette = Image.fromarray(255 - picture).convert("P")
    palette.putpalette([level for i in range(256) for level in [255 - i] * 3])
    palette.save(tmp_path / "palette.bmp")
    np.testing.assert_array_equal(
        read_stack(tmp_path / "palette.bmp", overrides=facts).images[0, 0], picture
    )
    tifffile.imwrite(tmp_path / "white.tif", 255 - picture, photometric="miniswhite")
    np.testing.assert_array_equal(
        read_stack(tmp_path / "white.tif", overrides=facts).images[0, 0], picture
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, ">u2"])
def test_types_are_kept_in_native_order(tmp_path: Path, dtype) -> None:
    tifffile.imwrite(tmp_path / "1kV.tif", grey(0).astype(dtype), photometric="minisblack",
                     byteorder=">" if dtype == ">u2" else "<")  # fmt: skip
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "slice_nm": 10})
    assert stack.images.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(stack.images[0], grey(0))


def test_compressed_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(page) for page in grey(0)]
    for scheme in ("tiff_lzw", "packbits", "tiff_adobe_deflate"):
        path = tmp_path / f"{scheme}_1kV.tif"
        pages[0].save(path, save_all=True, append_images=pages[1:], compression=scheme)
        np.testing.assert_array_equal(read_volume(path), grey(0))


# --- stack.yaml, command line, precedence ----------------------------------------------------


def test_precedence_and_contradictions(tmp_path: Path) -> None:
    write_channels(tmp_path, "1kV_SE", "2kV_SE")
    stated(tmp_path, pixel_nm=5.0, slice_nm=10.1, tilt_deg=36, material="Ni",
           channels=[{"file": "1kV_SE.tif", "beam_kev": 1.5}, {"file": "2kV_SE.tif"}])  # fmt: skip
    stack = read_stack(tmp_path, overrides={"tilt_deg": 38.0, "material": "Au"})
    assert (stack.pixel_nm, stack.slice_nm, stack.tilt_deg) == (5, 10.1, 38)
    assert [c.beam_kev for c in stack.channels] == [1.5, 2]
    assert stack.material == "Au"
    assert stack.provenance["pixel_nm"] == "stack.yaml"
    assert stack.provenance["tilt_deg"] == "command line"
    assert stack.provenance["beam_kev"] == "1.5kV: stack.yaml; 2kV: file name"
    text = "\n".join(stack.warnings)
    assert "pixel_nm is 5 by stack.yaml, but 4 by ImageJ resolution tag" in text
    assert "tilt_deg is 38 by command line, but 36 by stack.yaml" in text
    assert "beam_kev of 1kV_SE.tif is 1.5 by stack.yaml, but 1 by file name" in text
    assert "slice_nm" not in text  # 1 % apart: the two agree


def test_stack_yaml_chooses_and_orders_channels(tmp_path: Path) -> None:
    write_channels(tmp_path, "a", "b", "c")
    stated(tmp_path, channels=[{"file": "c.tif", "beam_kev": 5, "detector": "InLens", "name": "x"},
                               {"file": "a.tif", "beam_kev": 1, "detector": "bse"}])  # fmt: skip
    stack = read_stack(tmp_path)
    assert stack.channels == (
        Channel(beam_kev=5, detector="SE", name="x"),
        Channel(beam_kev=1, detector="BSE", name="1kV"),
    )
    np.testing.assert_array_equal(stack.images[0], grey(2))


def test_the_documented_example_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "file_formats.md").read_text(encoding="utf-8")
    (tmp_path / "stack.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    write_channels(tmp_path, "low", "high", "esb", "extra")
    stack = read_stack(tmp_path)
    assert [c.name for c in stack.channels] == ["inlens 1 kV", "5kV_SE", "5kV_BSE"]
    assert (stack.tilt_deg, stack.specimen, stack.voxel_nm) == (38, "hierarchical", VOXEL)
    assert "extra.tif" in stack.provenance["ignored"]


def test_command_line_chooses_channels(tmp_path: Path) -> None:
    write_channels(tmp_path, "1kV", "2kV", "5kV")
    stack = read_stack(tmp_path, overrides={"channels": ["5kV.tif", "1kV.tif"], "beam_kev": None})
    assert [c.beam_kev for c in stack.channels] == [5, 1]
    one = read_stack(tmp_path, overrides={"channels": ("2kV.tif",), "detector": ("ESB",)})
    assert one.channels == (Channel(beam_kev=2, detector="BSE", name="2kV"),)


def test_subfolders_and_hyperstacks_can_be_listed(tmp_path: Path) -> None:
    for seed, name in enumerate(("low", "high")):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(grey(seed, (2, 12, 16))[i]).save(tmp_path / name / f"{i}.png")
    listed = [{"file": "high", "beam_kev": 5}, {"file": "low", "beam_kev": 1}]
    stated(tmp_path, pixel_nm=4, slice_nm=10, channels=listed)
    stack = read_stack(tmp_path)
    assert [c.beam_kev for c in stack.channels] == [5, 1]
    np.testing.assert_array_equal(stack.images[1], grey(0, (2, 12, 16)))
    other = tmp_path / "hyper"
    other.mkdir()
    tifffile.imwrite(other / "h.tif", np.stack([grey(0), grey(1)]), metadata={"axes": "CZYX"},
                     photometric="minisblack")  # fmt: skip
    for file in ({}, {"file": "h.tif"}):
        stated(other, pixel_nm=4, slice_nm=10, channels=[{**file, "beam_kev": 1},
                                                         {**file, "beam_kev": 2}])  # fmt: skip
        assert [c.beam_kev for c in read_stack(other).channels] == [1, 2]


def test_all_that_is_missing_is_asked_for_at_once(tmp_path: Path) -> None:
    for seed, name in enumerate(("low", "high")):
        tifffile.imwrite(tmp_path / f"{name}.tif", grey(seed), photometric="minisblack")
    with pytest.raises(InputError) as caught:
        read_stack(tmp_path, overrides={"material": "Au"})
    message = str(caught.value)
    for part in ("pixel_nm", "slice_nm", "beam_kev", "low.tif, ", "high.tif", "stack.yaml"):
        assert part in message, part
    template = message.split("\n\n", 1)[1]
    with pytest.raises(InputError, match="still holds a '\\?' in line 1"):
        (tmp_path / "stack.yaml").write_text(template)
        read_stack(tmp_path)
    # The text shown is complete: filled in, it reads.
    filled = template.replace("pixel_nm: ?", "pixel_nm: 4").replace("slice_nm: ?", "slice_nm: 10")
    for kev in ("1", "5"):
        filled = filled.replace("beam_kev: ?", f"beam_kev: {kev}", 1)
    (tmp_path / "stack.yaml").write_text(filled)
    stack = read_stack(tmp_path)
    assert stack.material == "Au" and sorted(c.beam_kev for c in stack.channels) == [1, 5]


def test_what_is_known_is_filled_in(tmp_path: Path) -> None:
    write_channels(tmp_path, "1kV", "2kV")
    tifffile.imwrite(tmp_path / "plain_5kV.tif", grey(4), photometric="minisblack")
    (tmp_path / "1kV.tif").unlink()
    (tmp_path / "2kV.tif").unlink()
    with pytest.raises(InputError) as caught:
        read_stack(tmp_path, overrides={"slice_nm": 12.5})
    template = str(caught.value).split("\n\n", 1)[1]
    assert "pixel_nm: ?" in template and "slice_nm: 12.5" in template
    assert "{file: plain_5kV.tif, beam_kev: 5, detector: SE}" in template
    assert "slice_nm" not in str(caught.value).split("\n\n")[0]


# --- headers ---------------------------------------------------------------------------------


FEI = """[User]\r\nDate=01/01/2024\r\n\r\n[Beam]\r\nHV={hv}\r\nBeam=EBeam\r\nScan=EScan\r\n
[EBeam]\r\nHFW=6.4e-08\r\nTiltCorrectionIsOn=no\r\nStageTa=0.9075712\r\n
[Scan]\r\nPixelWidth=4e-09\r\nPixelHeight=4e-09\r\n\r\n[Stage]\r\nStageT=0.9075712\r\n
[Image]\r\nResolutionX=16\r\nResolutionY=12\r\n\r\n[Detectors]\r\nName=TLD\r\nMode=BSE\r\n
[TLD]\r\nSignal=BSE\r\n"""


def write_fei(path: Path, picture: np.ndarray, hv: object = 2000) -> None:
    tifffile.imwrite(path, picture, photometric="minisblack", metadata=None,
                     extratags=[(34682, "s", 0, FEI.format(hv=hv), True)])  # fmt: skip


def test_fei_header_and_data_bar(tmp_path: Path) -> None:
    picture = grey(0, (15, 16))  # three rows of data bar below twelve of image
    write_fei(tmp_path / "a.tif", picture)
    stack = read_stack(tmp_path / "a.tif")
    np.testing.assert_array_equal(stack.images[0, 0], picture[:12])
    assert stack.channels[0] == Channel(beam_kev=2, detector="BSE", name="2kV")
    assert stack.pixel_nm == pytest.approx(4)
    assert stack.tilt_deg == pytest.approx(38, abs=0.01)
    assert "stage tilt" in stack.provenance["tilt_deg"]
    assert "3 rows cropped" in stack.provenance["data bar"]
    assert any("tilt correction was off" in warning for warning in stack.warnings)


def test_slices_without_header_join_those_with_one(tmp_path: Path) -> None:
    write_fei(tmp_path / "s1.tif", grey(0, (12, 16)))
    tifffile.imwrite(tmp_path / "s2.tif", grey(1, (12, 16)), photometric="minisblack")
    stack = read_stack(tmp_path, overrides={"slice_nm": 10})
    assert stack.images.shape == (1, 2, 12, 16) and stack.channels[0].detector == "BSE"


def test_malformed_fei_numbers_are_left_out(tmp_path: Path) -> None:
    write_fei(tmp_path / "a.tif", grey(0, (12, 16)), hv="notafloat")
    with pytest.raises(InputError, match="beam_kev"):
        read_stack(tmp_path / "a.tif")
    stack = read_stack(tmp_path / "a.tif", overrides={"beam_kev": [3]})
    assert stack.channels[0].beam_kev == 3
    for header in ({}, {"Beam": ""}, {"Beam": {"Beam": 3}}, {"Image": {"ResolutionY": "x"}}):
        assert fei_facts(header, (12, 16), "x").beam_kev == []


def test_beam_deceleration_gives_the_landing_energy() -> None:
    header = {
        "Beam": {"HV": 5000, "Beam": "EBeam"},
        "EBeamDeceleration": {"ModeOn": "On", "LandingEnergy": 1000},
    }
    assert fei_facts(header, (12, 16), "x").beam_kev[0].value == 1
    header["EBeamDeceleration"]["ModeOn"] = "Off"
    assert fei_facts(header, (12, 16), "x").beam_kev[0].value == 5


def test_ion_images_do_not_pass_as_electron_images() -> None:
    facts = fei_facts({"Beam": {"HV": 30000, "Beam": "IBeam"}}, (12, 16), "x.tif")
    assert facts.beam_kev == [] and "IBeam" in facts.warnings[0]


def test_zeiss_header(tmp_path: Path) -> None:
    numbers = ["0", "0", "0", "4e-09", "50000.0", "6", "900.0"]
    lines = [*numbers, "AP_ACTUALKV", "EHT = 900 V", "AP_IMAGE_PIXEL_SIZE",
             "Image Pixel Size = 4.0 nm", "AP_PIXEL_SIZE", "Pixel Size = 8.0 nm",
             "DP_DETECTOR_CHANNEL", "Signal A = ESB", "AP_STAGE_AT_T",
             "Stage at T = 54.0 °", ""]  # fmt: skip
    header = "\r\n".join(lines).encode("latin-1")
    picture = grey(0, (100, 60))
    picture[90], picture[91:] = 0, 255  # frame and background of a data bar
    picture[93:97, 5:30] = grey(1, (4, 25))
    tifffile.imwrite(tmp_path / "z.tif", picture, photometric="minisblack", metadata=None,
                     extratags=[(34118, "s", 0, header, True)])  # fmt: skip
    stack = read_stack(tmp_path / "z.tif")
    assert stack.channels[0] == Channel(beam_kev=0.9, detector="BSE", name="0.9kV")
    assert stack.pixel_nm == 4 and stack.tilt_deg == 36
    assert stack.images.shape[2] == 90 and "10 rows" in stack.provenance["data bar"]


def test_tescan_header_in_the_file_and_beside_it(tmp_path: Path) -> None:
    text = (b"AccFrames=1\r\nImageStripSize=3\r\nPixelSizeX=4.0e-9\r\nPixelSizeY=4.0e-9\r\n"
            b"Detector=BSE\r\nHV=3.000e3\r\nStageTilt=55.0\r\n")  # fmt: skip
    picture = grey(0, (15, 16))
    tifffile.imwrite(tmp_path / "t.tif", picture, photometric="minisblack",
                     extratags=[(50431, 7, None, b"\x00\xffpicture\r\n" + text, True)])  # fmt: skip
    Image.fromarray(picture).save(tmp_path / "u.png")
    (tmp_path / "u-png.hdr").write_bytes(b"[MAIN]\r\n" + text)
    for name in ("t.tif", "u.png"):
        stack = read_stack(tmp_path / name)
        assert stack.channels[0] == Channel(beam_kev=3, detector="BSE", name="3kV")
        assert stack.pixel_nm == pytest.approx(4) and stack.tilt_deg == 35
        np.testing.assert_array_equal(stack.images[0, 0], picture[:12])
        assert "TESCAN" in stack.provenance["pixel_nm"]


def test_atlas_job_states_the_slice_thickness(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(grey(i, (12, 16))).save(tmp_path / f"slice_{i}.tif")
    job = "<ATLAS3D-Setup><Settings><Imaging><Interval>0.012</Interval></Imaging></Settings>"
    (tmp_path / "job.a3d-setup").write_text(job + "</ATLAS3D-Setup>")
    stack = read_stack(tmp_path, overrides={"pixel_nm": 4, "beam_kev": [2]})
    assert stack.slice_nm == pytest.approx(12)
    assert "job.a3d-setup" in stack.provenance["slice_nm"]
    (tmp_path / "job.a3d-setup").write_text(job)  # not well-formed: as if it were not there
    with pytest.raises(InputError, match="slice_nm"):
        read_stack(tmp_path, overrides={"pixel_nm": 4, "beam_kev": [2]})


@pytest.mark.parametrize(("dpi", "unit", "pixel"), [(72, 2, None), (300, 2, None), (96, 2, None),
                                                    (2.5e6, 3, 4.0), (5.08e6, 2, 5.0)])  # fmt: skip
def test_plain_resolution_counts_only_if_sane(tmp_path: Path, dpi, unit, pixel) -> None:
    tifffile.imwrite(tmp_path / "1kV.tif", grey(0, (12, 16)), photometric="minisblack",
                     resolution=(dpi, dpi), resolutionunit=unit)  # fmt: skip
    if pixel is None:
        with pytest.raises(InputError, match="pixel_nm"):
            read_stack(tmp_path / "1kV.tif")
    else:
        assert read_stack(tmp_path / "1kV.tif").pixel_nm == pytest.approx(pixel)


def test_data_bars_are_told_from_pores() -> None:
    image = grey(0, (1, 200, 60))
    assert burnt_in_rows(image) == 0
    pore = image.copy()
    pore[0, 170:, :40] = 0  # a large black pore at the bottom
    assert burnt_in_rows(pore) == 0
    image[0, 180:] = 255  # padding without any text
    assert burnt_in_rows(image) == 0
    image[0, 185:190, 10:30] = 0
    assert burnt_in_rows(image) == 20


# --- writing ---------------------------------------------------------------------------------


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    volume=st.sampled_from([np.uint8, np.uint16, np.float32]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9),
            elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
        )
    ),
    voxel=st.tuples(*[st.floats(0.2, 900)] * 2),
)
def test_volumes_come_back_as_written(tmp_path: Path, volume: np.ndarray, voxel) -> None:
    path = tmp_path / "v.tif"
    write_volume(path, volume, voxel_nm=(voxel[0], voxel[1], voxel[1]))
    back = read_volume(path)
    assert back.dtype == volume.dtype
    np.testing.assert_array_equal(back, volume)
    assert read_voxel_nm(path) == pytest.approx((voxel[0], voxel[1], voxel[1]), rel=1e-4)
    assert os.listdir(tmp_path) == ["v.tif"]


def test_types_that_imagej_lacks(tmp_path: Path) -> None:
    path = tmp_path / "v.tif"
    for values, stored in (
        (grey() > 100, np.uint8),
        (grey().astype(np.int64), np.uint8),
        (grey().astype(np.int32) * 200, np.uint16),
        (-grey().astype(np.int16), np.float32),
        (grey().astype(np.float64), np.float32),
    ):
        write_volume(path, values, voxel_nm=5.0)
        assert read_volume(path).dtype == stored
        np.testing.assert_array_equal(read_volume(path), values)
    with pytest.raises(InputError, match="fit neither"):
        write_volume(path, grey().astype(np.int64) + 2**40, voxel_nm=5.0)
    with pytest.raises(InputError, match="complex"):
        write_volume(path, grey().astype(complex), voxel_nm=5.0)


def test_stacks_come_back_as_written(tmp_path: Path) -> None:
    images = np.stack([grey(0), grey(1), grey(2)]).astype(np.uint16) * 200
    channels = [Channel(beam_kev=kev, detector=detector)
                for kev, detector in ((1.25, "SE"), (1.25, "BSE"), (10, "SE"))]  # fmt: skip
    files = write_stack(tmp_path / "out", images, channels, VOXEL)
    assert [file.name for file in files] == ["1.25kV_SE.tif", "1.25kV_BSE.tif", "10kV_SE.tif"]
    stack = read_stack(tmp_path / "out")
    np.testing.assert_array_equal(stack.images, images)
    assert [(c.beam_kev, c.detector) for c in stack.channels] == [
        (c.beam_kev, c.detector) for c in channels
    ]
    assert stack.voxel_nm == VOXEL
    with pytest.raises(InputError, match="do not fit"):
        write_stack(tmp_path / "out", images, channels[:2], VOXEL)
    with pytest.raises(InputError, match="same voltage and detector"):
        write_stack(tmp_path / "out", images[:2], channels[:1] * 2, VOXEL)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "v.tif"
    write_volume(path, grey(0), voxel_nm=VOXEL)

    def full(*args, **kwargs):
        Path(args[0]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        write_volume(path, grey(1), voxel_nm=VOXEL)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_volume(path), grey(0))
    assert os.listdir(tmp_path) == ["v.tif"]


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic_write_text(path, "zwölf nm\n")
    assert path.read_text(encoding="utf-8") == "zwölf nm\n"

    def killed() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text(encoding="utf-8") == "zwölf nm\n" and os.listdir(path.parent) == ["a.txt"]
    with pytest.raises(InputError, match="cannot be written"):
        atomic_write_text(path / "below_a_file.txt", "x")


# --- account of a stack ----------------------------------------------------------------------


def test_inspect_shows_facts_sources_and_grey_values(tmp_path: Path) -> None:
    images = grey(0)
    images[0, 0, :8] = 255
    write_volume(tmp_path / "1kV.tif", images, voxel_nm=VOXEL)
    write_volume(tmp_path / "2kV_BSE.tif", grey(1), voxel_nm=VOXEL)
    text = inspect_stack(read_stack(tmp_path, overrides={"tilt_deg": 38}))
    for part in ("2 channels, 5 slices of 16 x 12 pixels, uint8", "10 x 4 x 4 nm", "command line",
                 "ImageJ resolution tag of 1kV.tif", "file name", "BSE", "Warnings",
                 f"{100 * 8 / images.size:.2f}"):  # fmt: skip
        assert part in text, part


def test_fingerprint_follows_pixels_and_metadata_only(tmp_path: Path) -> None:
    write_channels(tmp_path, "1kV", "2kV")
    stack = read_stack(tmp_path)
    first = fingerprint(stack)
    assert len(first) == 64 and int(first, 16) >= 0
    same = dataclasses.replace(stack, name="other", provenance={}, warnings=("x",))
    assert fingerprint(same) == first
    swapped = stack.images.astype(stack.images.dtype)[:, :, ::-1][:, :, ::-1]  # another layout
    assert fingerprint(dataclasses.replace(stack, images=swapped)) == first
    changed = stack.images.copy()
    changed[1, 4, 11, 15] ^= 1
    variants = [
        dataclasses.replace(stack, images=changed),
        dataclasses.replace(stack, images=stack.images.astype(np.uint16)),
        dataclasses.replace(stack, images=stack.images.reshape(2, 5, 16, 12)),
        dataclasses.replace(stack, pixel_nm=5.0),
        dataclasses.replace(stack, tilt_deg=38.0),
        dataclasses.replace(stack, material="Au"),
        dataclasses.replace(stack, channels=(Channel(beam_kev=1.1), stack.channels[1])),
    ]
    assert len({fingerprint(variant) for variant in variants} | {first}) == len(variants) + 1


def test_io_needs_no_jax() -> None:
    allowed = {"fibsim", "numpy", "tifffile", "PIL", "yaml"}
    import sys

    for file in (Path(__file__).parents[1] / "fibsim" / "io").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                top = module.split(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, (file.name, module)
                if top == "fibsim":
                    assert module.startswith(("fibsim.io", "fibsim.errors", "fibsim.stack"))


# --- real files ------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("folder", "kev"), [("instrument_a", [1, 2, 5]), ("instrument_b", [1, 2, 4])]
)
def test_shared_stacks(folder: str, kev: list[float], capfd) -> None:
    stack = read_stack(SHARED / folder)
    assert stack.images.shape == (3, 48, 128, 128)
    assert [c.beam_kev for c in stack.channels] == kev
    assert stack.voxel_nm == (10, 4, 4) and stack.tilt_deg is None
    assert capfd.readouterr() == ("", "")


@needs_shared
@pytest.mark.parametrize(
    ("file", "shape", "kev", "detector", "pixel_nm", "tilt_deg"),
    [
        ("vendor/ZEISS_SEM_multipage.tif", (2, 1536, 2048), 1.8, "SE", 12.33, 37.4),
        ("vendor/nanoporous_gold_zeiss.tif", (1, 691, 1024), 20, "SE", 0.543, None),
        ("vendor/test_tiff_Zeiss_SEM_512pix.tif", (1, 350, 512), 5, "SE", 5.825, None),
        ("vendor/fei_nova_abs_A.tif", (1, 1024, 1536), 7, "BSE", 325.521, None),
        ("vendor/SEM_Image-SliceImage-001.tif", (1, 1024, 1536), 15, "SE", 385.417, None),
        ("vendor/tescan_vega3_se.tif", (1, 768, 768), 20, "SE", 275, None),
        ("vendor/tescan_vega3_bse.tif", (1, 768, 768), 20, "BSE", 275, None),
        ("real/cement/SEM Image - SliceImage - 002.tif", (1, 2007, 1618), 2, "BSE", 8.99306, None),
    ],
)  # fmt: skip
def test_vendor_headers(file, shape, kev, detector, pixel_nm, tilt_deg, capfd) -> None:
    stack = read_stack(SHARED / file)
    assert stack.images.shape[1:] == shape
    assert (stack.channels[0].beam_kev, stack.channels[0].detector) == (kev, detector)
    assert stack.pixel_nm == pytest.approx(pixel_nm) and stack.tilt_deg == tilt_deg
    assert capfd.readouterr() == ("", "")


@needs_shared
def test_images_without_headers() -> None:
    facts = {"pixel_nm": 20, "beam_kev": [2]}
    folder = SHARED / "real" / "porous_ceramic"
    one = read_stack(folder / "test_sample_002_sem.bmp", overrides=facts)
    assert one.images.shape == (1, 1, 256, 256)
    assert read_stack(folder, overrides={**facts, "slice_nm": 20}).images.shape == (1, 3, 256, 256)
    with pytest.raises(InputError, match=r"pixel_nm .* beam_kev"):
        read_stack(SHARED / "real" / "electrode" / "fib_sem_sample.tif")
    aligned = read_stack(SHARED / "real" / "cement" / "aligned.tif", overrides=facts)
    assert aligned.images.shape == (1, 1, 2007, 1618)  # LZW
    with pytest.raises(InputError, match=r"3372\.4 nm"):
        read_stack(SHARED / "vendor" / "FEI-Helios-Ebeam-8bits.tif")
    info = probe_image(SHARED / "vendor" / "FEI-Helios-Ebeam-8bits.tif")
    assert read_pixels(info)[0].shape == (1, 1, 442, 512)
