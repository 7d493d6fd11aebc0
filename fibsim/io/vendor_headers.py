"""Headers of microscope makers: FEI / Thermo Fisher, Zeiss, TESCAN, and Zeiss Atlas 3D jobs.

Headers in the wild hold empty strings, words where numbers belong, and settings of other beams;
what cannot be read is left out, never guessed.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from fibsim.io.facts import Fact, FileFacts, beam_to_face_deg, length_nm, number
from fibsim.io.names import detector_kind

__all__ = [
    "atlas_slice_fact",
    "fei_facts",
    "tescan_facts",
    "tescan_sidecar",
    "tescan_text",
    "zeiss_facts",
]


def _section(header: Mapping, name: object) -> Mapping:
    section = header.get(name)
    return section if isinstance(section, Mapping) else {}


def _add_tilt(facts: FileFacts, stage_deg: float | None, source: str) -> None:
    tilt = beam_to_face_deg(stage_deg)
    if tilt is not None:
        text = f"90 degrees minus the stage tilt of {abs(stage_deg or 0):.4g} degrees ({source})"
        facts.tilt_deg.append(Fact(tilt, text))


def _add_foreshortening(facts: FileFacts, corrected: bool, source: str) -> None:
    # Without correction a pixel covers 1 / cos(tilt) more of the face along y than along x.
    if facts.tilt_deg and not corrected:
        facts.warnings.append(
            f"{source} says that tilt correction was off: the images are foreshortened along y "
            f"by cos({facts.tilt_deg[0].value:g} degrees); stretch them before measuring."
        )


def fei_facts(header: Mapping, shape: tuple[int, int], file: str) -> FileFacts:
    """Facts of an FEI / Thermo Fisher header (TIFF tags 34680, 34682 as tifffile parses them).

    Args:
        header: nested dictionary; lengths in m, voltages in V, angles in rad.
        shape: rows and columns of the image as stored, a data bar included.
        file: name for the sources.
    """
    facts = FileFacts()
    source = f"FEI header of {file}"
    beam = _section(header, "Beam")
    scan = _section(header, "Scan")
    image = _section(header, "Image")
    own_beam = _section(header, beam.get("Beam"))
    own_scan = _section(header, beam.get("Scan"))

    columns = number(image.get("ResolutionX"))
    rows = number(image.get("ResolutionY"))
    height, step = number(scan.get("VerFieldsize")), number(scan.get("PixelHeight"))
    if rows is None and height and step:
        rows = round(height / step)
    if rows and columns in (None, shape[1]) and 0 < rows < shape[0]:
        facts.rows = int(rows)
        facts.notes["data bar"] = (
            f"lowest {shape[0] - int(rows)} rows cropped: {source} states {int(rows)} rows"
        )

    if beam.get("Beam") not in ("EBeam", None, ""):
        facts.warnings.append(
            f"{source} says that the image was made with {beam.get('Beam')}, not with the "
            "electron beam; its voltage and pixel size are not used."
        )
        return facts

    width = number(scan.get("PixelWidth")) or number(own_scan.get("PixelWidth"))
    field = number(own_beam.get("HFW")) or number(scan.get("HorFieldsize"))
    if not width and field and columns:
        width = field / columns
    if width and width > 0:
        facts.pixel_nm.append(Fact(width * 1e9, source))

    volts = number(beam.get("HV")) or number(own_beam.get("HV"))
    deceleration = _section(header, "EBeamDeceleration")
    landing = number(deceleration.get("LandingEnergy"))
    if str(deceleration.get("ModeOn")).lower() in ("on", "yes", "true") and landing:
        # With the stage biased, electrons land slower than the column's voltage says.
        facts.beam_kev.append(Fact(landing / 1000, f"landing energy in the {source}"))
    elif volts and volts > 0:
        facts.beam_kev.append(Fact(volts / 1000, source))

    name = _section(header, "Detectors").get("Name")
    own_detector = _section(header, name)
    mode = own_detector.get("Signal") or _section(header, "Detectors").get("Mode") or ""
    kind = detector_kind(name or "", mode)
    if kind:
        facts.detector.append(Fact(kind, f"{name} {mode}".strip() + f" in the {source}"))

    radians = number(_section(header, "Stage").get("StageT"))
    if radians is None:
        radians = number(own_beam.get("StageTa"))
    _add_tilt(facts, None if radians is None else math.degrees(radians), source)
    corrected = str(own_beam.get("TiltCorrectionIsOn")).lower() != "no"
    _add_foreshortening(facts, corrected, source)
    return facts


def _zeiss(header: Mapping, *keys: str) -> tuple[object, object]:
    """Value and unit of the first key present; entries are (label, value, unit)."""
    for key in keys:
        entry = header.get(key)
        if isinstance(entry, tuple | list) and len(entry) >= 2:
            return entry[1], entry[2] if len(entry) > 2 else ""
    return None, ""


def zeiss_facts(header: Mapping, file: str) -> FileFacts:
    """Facts of a Zeiss SmartSEM header (TIFF tag 34118 as tifffile parses it)."""
    facts = FileFacts(writes_bar=True)
    source = f"Zeiss header of {file}"
    # The pixel of the stored image comes first: the other one is that of the display.
    pixel = length_nm(*_zeiss(header, "ap_image_pixel_size")) or length_nm(
        *_zeiss(header, "ap_pixel_size")
    )
    numbers = header.get("")
    if pixel is None and isinstance(numbers, tuple | list) and len(numbers) > 3:
        pixel = length_nm(numbers[3], "m")
    if pixel:
        facts.pixel_nm.append(Fact(pixel, source))

    value, unit = _zeiss(header, "ap_actualkv", "ap_manualkv")
    energy = number(value)
    if energy is None and isinstance(numbers, tuple | list) and len(numbers) > 6:
        # The line "EHT = 900 V" is all capitals, which tifffile takes for a key and drops.
        energy, unit = number(numbers[6]), "V"
    if energy and energy > 0:
        facts.beam_kev.append(Fact(energy / 1000 if unit == "V" else energy, source))

    name, _ = _zeiss(header, "dp_detector_channel", "dp_detector_type")
    kind = detector_kind(name or "")
    if kind:
        facts.detector.append(Fact(kind, f"{name} in the {source}"))

    _add_tilt(facts, number(_zeiss(header, "ap_stage_at_t")[0]), source)
    corrected, _ = _zeiss(header, "dp_tilt_correction")
    _add_foreshortening(facts, corrected is not False, source)
    return facts


def tescan_text(tag: bytes | str) -> dict[str, str]:
    """``key=value`` lines of a TESCAN header; what stands before them (a picture) is skipped."""
    text = tag.decode("latin-1") if isinstance(tag, bytes) else str(tag)
    return dict(re.findall(r"(?m)^[^\S\n]*([A-Za-z0-9]\w{0,40})=([^\r\n\x00]{0,200})", text))


def tescan_sidecar(path: Path) -> Path | None:
    """The ``.hdr`` file that TESCAN software writes beside an image, if there is one."""
    candidates = (path.with_name(f"{path.stem}-{path.suffix[1:]}.hdr"), path.with_suffix(".hdr"))
    return next((file for file in candidates if file.is_file()), None)


def tescan_facts(header: Mapping[str, str], shape: tuple[int, int], source: str) -> FileFacts:
    """Facts of a TESCAN header (TIFF tag 50431 or ``.hdr`` file); lengths in m, voltage in V."""
    facts = FileFacts()
    pixel = length_nm(header.get("PixelSizeX"), "m")
    if pixel:
        facts.pixel_nm.append(Fact(pixel, source))
    volts = number(header.get("HV"))
    if volts and volts > 0:
        facts.beam_kev.append(Fact(volts / 1000, source))
    kind = detector_kind(header.get("Detector", ""))
    if kind:
        facts.detector.append(Fact(kind, f"{header['Detector']} in the {source}"))
    _add_tilt(facts, number(header.get("StageTilt")), source)
    corrected = number(header.get("TiltCorrection"))
    _add_foreshortening(facts, corrected != 0, source)
    strip = number(header.get("ImageStripSize"))
    if strip and 0 < strip < shape[0] / 2 and strip == int(strip):
        facts.rows = shape[0] - int(strip)
        facts.notes["data bar"] = f"lowest {int(strip)} rows cropped: {source} states a strip"
    return facts


def atlas_slice_fact(folder: Path) -> Fact | None:
    """Nominal slice thickness of a Zeiss Atlas 3D job file (``*.a3d-setup``) in a folder."""
    for job in sorted(folder.glob("*.a3d-setup")):
        try:
            root = ElementTree.fromstring(job.read_bytes())
        except (ElementTree.ParseError, OSError, ValueError, LookupError):
            continue
        thickness = length_nm(root.findtext("Settings/Imaging/Interval"), "um")
        if thickness:
            return Fact(thickness, f"Atlas 3D job {job.name}")
    return None
