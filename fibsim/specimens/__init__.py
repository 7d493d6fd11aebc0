"""Virtual structures: random specimens of several kinds, and specimens from files."""

from fibsim.specimens.boolean import boolean_fibres, boolean_spheres
from fibsim.specimens.catalog import KINDS, Kind, draw, make
from fibsim.specimens.from_file import SpecimenFile, open_specimen, specimen_from_file
from fibsim.specimens.ground import Ground, on_ground, part_on_ground, slices_to_ground
from fibsim.specimens.hierarchical import hierarchical_waves
from fibsim.specimens.levelling import open_box
from fibsim.specimens.resampling import ResampledVolume, resample
from fibsim.specimens.specimen import Specimen, make_specimen, porosity
from fibsim.specimens.tpms import gyroid
from fibsim.specimens.waves import levelled_waves

__all__ = [
    "KINDS",
    "Ground",
    "Kind",
    "ResampledVolume",
    "Specimen",
    "SpecimenFile",
    "boolean_fibres",
    "boolean_spheres",
    "draw",
    "gyroid",
    "hierarchical_waves",
    "levelled_waves",
    "make",
    "make_specimen",
    "on_ground",
    "open_box",
    "open_specimen",
    "part_on_ground",
    "porosity",
    "resample",
    "slices_to_ground",
    "specimen_from_file",
]
