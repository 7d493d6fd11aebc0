"""Published numbers of electron-solid physics in the shared data, for the tests that need them."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

PHYSICS = Path(__file__).resolve().parents[2] / "shared" / "data" / "physics"


def rows(name: str) -> list[dict[str, str]]:
    """A table's rows; the test is skipped where the shared data is absent."""
    path = PHYSICS / name
    if not path.is_file():
        pytest.skip(f"{path.name} of the shared data is absent")
    with path.open() as file:
        return list(csv.DictReader(file))


def agreed_eta() -> Iterator[tuple[tuple[str, float, float], float, float]]:
    """(solid, keV, tilt), EPQ's eta and PenRed's, up to 5 keV where these differ by 5 % at most."""
    penred = {
        (r["material"], float(r["E0_keV"]), float(r["tilt_deg"])): float(r["eta_primary"])
        for name in ("penred_eta_bulk.csv", "penred_eta_bulkother.csv")
        for r in rows(name)
    }
    for row in rows("epq_eta_bulk_combined.csv"):
        case = (row["material"], float(row["E0_keV"]), float(row["tilt_deg"]))
        epq, other = float(row["eta"]), penred.get(case)
        if other is not None and case[1] <= 5 and abs(epq / other - 1) <= 0.05:
            yield case, epq, other
