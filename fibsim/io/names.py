"""What file, folder and channel names say: beam energy, detector, and whether it is a label."""

import re
from itertools import pairwise

__all__ = [
    "detector_kind",
    "detector_of_name",
    "is_label_name",
    "kev_of_name",
    "name_template",
    "normalise_detector",
]

# A number may be written 1.8, 1,8 or 1p8; it must not start inside another number.
_KEV = re.compile(r"(?<!\d)(?<!\d[.,p])(\d+(?:[.,p]\d+)?)[ _-]?ke?v", re.IGNORECASE)
# Volts only with three digits or more and a capital V: "v2" is a version, "750V" a voltage.
_VOLT = re.compile(r"(?<!\d)(?<!\d[.,])([1-9]\d{2,4})[ _-]?e?V(?![A-Za-z0-9])")

_LABEL_WORDS = {
    "annotation", "annotations", "groundtruth", "gt", "label", "labels", "labelstr", "labelsts",
    "mask", "masks", "prediction", "predictions", "prob", "probability", "probabilities", "seg",
    "segmentation", "segmented", "truth",
}  # fmt: skip

_SE_DETECTORS = {
    "etd", "everhartthornley", "gsed", "hese", "hese2", "inbeamse", "inlens", "inlensse", "lfd",
    "lvd", "lvsed", "se1", "se2", "sed", "sesi", "tld", "uvd", "vpse",
}  # fmt: skip
_BSE_DETECTORS = {
    "4qbsd", "abs", "absd", "aobsd", "asb", "bsd", "bsed", "cbs", "cbsd", "dbs", "esb", "hdbsd",
    "icd", "inbeambse", "inlensbse", "lebse", "lvbse", "ntsbsd", "rbse", "vcd",
}  # fmt: skip
# Too short to be trusted in a file name, where MD may be initials and T1 a time.
_BSE_IN_HEADERS = {"md", "t1"}
_SE_IN_HEADERS = {"t2"}


def _values(pattern: re.Pattern[str], text: str) -> set[float]:
    return {float(re.sub("[,pP]", ".", match)) for match in pattern.findall(text)}


def kev_of_name(text: str) -> float | None:
    """Beam energy in keV that a name states (``1kV``, ``1.8 keV``, ``1p8kV``, ``750V``).

    ``None`` if there is none, or if two different ones make the name ambiguous.
    """
    found = _values(_KEV, text) or {volt / 1000 for volt in _values(_VOLT, text)}
    return found.pop() if len(found) == 1 else None


def _words(text: str) -> list[str]:
    without_voltage = _VOLT.sub("_", _KEV.sub("_", text))
    return [word for word in re.split(r"[^a-z0-9]+", without_voltage.lower()) if word]


def _kind(words: list[str], *, header: bool) -> str | None:
    # "In-Lens" is split into two words, so neighbours are tried together too.
    joined = {a + b for a, b in pairwise(words)}
    joined |= {a + b + c for a, b, c in zip(words, words[1:], words[2:], strict=False)}
    terms = set(words) | joined
    signals = {"SE": "se" in words, "BSE": "bse" in words}
    if not any(signals.values()):
        # The signal, where one is named, decides; a detector may collect either.
        signals["SE"] = bool(terms & (_SE_DETECTORS | (_SE_IN_HEADERS if header else set())))
        signals["BSE"] = bool(terms & (_BSE_DETECTORS | (_BSE_IN_HEADERS if header else set())))
    kinds = [kind for kind, found in signals.items() if found]
    return kinds[0] if len(kinds) == 1 else None


def detector_of_name(text: str) -> str | None:
    """``"SE"`` or ``"BSE"`` if a file, folder or channel name states one of them."""
    return _kind(_words(text), header=False)


def detector_kind(detector: object, mode: object = "") -> str | None:
    """``"SE"`` or ``"BSE"`` for a detector as instruments call it, with the mode it was used in.

    Args:
        detector: for example ``ETD``, ``InLens``, ``ESB``, ``TLD``.
        mode: signal or mode the header states with it, for example ``SE`` or ``BSE``; a through
            the lens detector collects either.
    """
    return _kind(_words(str(mode)), header=True) or _kind(_words(str(detector)), header=True)


def normalise_detector(text: str) -> str | None:
    """``"SE"`` or ``"BSE"`` for what a user typed: one of the two in any case, or a detector."""
    return detector_kind(text)


def is_label_name(text: str) -> bool:
    """Whether a name is that of a truth, label, mask or probability rather than of an image."""
    words = set(_words(text))
    # "specimen_5kV" is an image of a specimen, "specimen" a virtual one.
    return bool(words & _LABEL_WORDS) or ("specimen" in words and kev_of_name(text) is None)


def name_template(text: str) -> str:
    """The name with its voltage kept and every other number replaced, to see a numbered series."""
    kev = kev_of_name(text)
    return f"{kev}:" + re.sub(r"\d+", "#", _VOLT.sub("_", _KEV.sub("_", text)).lower())
