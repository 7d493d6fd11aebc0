"""What a file's own header states: maker's tags, OME-XML, ImageJ, plain TIFF resolution."""

import dataclasses
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fibsim.io.facts import Fact, FileFacts, length_nm, number
from fibsim.io.vendor_headers import (
    fei_facts,
    tescan_facts,
    tescan_sidecar,
    tescan_text,
    zeiss_facts,
)

__all__ = ["sidecar_facts", "tiff_facts"]

# Resolutions that programs write without having measured anything.
_SCREEN_DPI = (72.0, 96.0, 300.0)
_SANE_PIXEL_NM = (0.05, 10_000.0)


def _merge(facts: FileFacts, other: FileFacts) -> None:
    """Append what another source states, behind what is there already."""
    for field in dataclasses.fields(FileFacts):
        mine, theirs = getattr(facts, field.name), getattr(other, field.name)
        if isinstance(mine, list):
            mine.extend(theirs)
        elif isinstance(mine, dict):
            mine.update(theirs)
        elif not mine:
            setattr(facts, field.name, theirs)


def _pixel_fact(x_nm: float, y_nm: float | None, source: str) -> Fact:
    problem = ""
    if y_nm is not None and abs(x_nm - y_nm) > 0.02 * x_nm:
        problem = (
            f"Pixels are {x_nm:.6g} nm wide and {y_nm:.6g} nm high ({source}) where square ones "
            "are expected; resample the images, or state pixel_nm if the header is wrong."
        )
    return Fact(x_nm, source, problem)


def _per_pixel(page: Any, name: str) -> float | None:
    """Units of length per pixel from a resolution tag."""
    tag = page.tags.get(name)
    try:
        pixels, length = tag.value
        return length / pixels
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None


def _imagej_facts(metadata: Mapping, page: Any, file: str) -> FileFacts:
    facts = FileFacts()
    unit = metadata.get("unit", "")
    pixel = length_nm(_per_pixel(page, "XResolution"), unit)
    if pixel:
        height = length_nm(_per_pixel(page, "YResolution"), metadata.get("yunit", unit))
        facts.pixel_nm.append(_pixel_fact(pixel, height, f"ImageJ resolution tag of {file}"))
    spacing = number(metadata.get("spacing"))
    thickness = length_nm(abs(spacing) if spacing else None, metadata.get("zunit", unit))
    if thickness:
        facts.slice_nm.append(Fact(thickness, f"ImageJ spacing of {file}"))
    labels = metadata.get("Labels")
    if isinstance(labels, list | tuple):
        facts.channel_names = tuple(str(label) for label in labels)
    return facts


def _ome_facts(xml: str, file: str) -> FileFacts:
    facts = FileFacts()
    source = f"OME-XML of {file}"
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        facts.warnings.append(f"The {source} is not well-formed and was not used.")
        return facts
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return facts

    def size(axis: str) -> float | None:
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        return length_nm(pixels.get(f"PhysicalSize{axis}"), unit)

    width, thickness = size("X"), size("Z")
    if width:
        facts.pixel_nm.append(_pixel_fact(width, size("Y"), source))
    if thickness:
        facts.slice_nm.append(Fact(thickness, source))
    channels = pixels.findall("{*}Channel")
    facts.channel_names = tuple(channel.get("Name") or "" for channel in channels)
    return facts


def _resolution_facts(page: Any, file: str) -> FileFacts:
    """Plain TIFF resolution, where it can be that of a microscope."""
    facts = FileFacts()
    unit_tag = page.tags.get("ResolutionUnit")
    unit = {2: "inch", 3: "cm"}.get(int(unit_tag.value) if unit_tag is not None else 0)
    x_nm = length_nm(_per_pixel(page, "XResolution"), unit)
    if x_nm is None or not _SANE_PIXEL_NM[0] <= x_nm <= _SANE_PIXEL_NM[1]:
        return facts
    dots_per_inch = 2.54e7 / x_nm
    if any(abs(dots_per_inch - dpi) < 0.5 for dpi in _SCREEN_DPI):
        return facts
    y_nm = length_nm(_per_pixel(page, "YResolution"), unit)
    facts.pixel_nm.append(_pixel_fact(x_nm, y_nm, f"TIFF resolution tag of {file}"))
    return facts


def sidecar_facts(path: Path, shape: tuple[int, int]) -> FileFacts:
    """What a TESCAN ``.hdr`` file beside the image states; nothing if there is none."""
    header = tescan_sidecar(path)
    if header is None:
        return FileFacts()
    text = tescan_text(header.read_bytes())
    return tescan_facts(text, shape, f"TESCAN header {header.name}")


def tiff_facts(tif: Any, path: Path) -> FileFacts:
    """All that a TIFF's header and the files beside it state, the most trusted first.

    Args:
        tif: open `tifffile.TiffFile`.
        path: where it lies, for sidecar files and the names of sources.
    """
    page = tif.pages[0]
    shape = (int(page.imagelength), int(page.imagewidth))
    tags = page.tags
    facts = FileFacts()
    for code in (34682, 34680):
        if code in tags and isinstance(tags[code].value, Mapping) and tags[code].value:
            _merge(facts, fei_facts(tags[code].value, shape, path.name))
            break
    if 34118 in tags and isinstance(tags[34118].value, Mapping):
        _merge(facts, zeiss_facts(tags[34118].value, path.name))
    if 50431 in tags:
        value = tags[50431].value
        header = tescan_text(value) if isinstance(value, bytes | str) else {}
        _merge(facts, tescan_facts(header, shape, f"TESCAN header of {path.name}"))
    if tif.is_ome and tif.ome_metadata:
        _merge(facts, _ome_facts(tif.ome_metadata, path.name))
    if tif.is_imagej and tif.imagej_metadata:
        _merge(facts, _imagej_facts(tif.imagej_metadata, page, path.name))
    _merge(facts, _resolution_facts(page, path.name))
    _merge(facts, sidecar_facts(path, shape))
    return facts
