"""Fitting the simulator to a recorded stack, without labels."""

from fibsim.fit.bias import keep_noise as keep_noise
from fibsim.fit.bias import without_bias as without_bias
from fibsim.fit.choose import fit_best_kind as fit_best_kind
from fibsim.fit.faces import bulge_midway as bulge_midway
from fibsim.fit.faces import expected_faces as expected_faces
from fibsim.fit.faces import face_count as face_count
from fibsim.fit.faces import face_surfaces as face_surfaces
from fibsim.fit.faces import mirrored as mirrored
from fibsim.fit.first_guess import grey_levels as grey_levels
from fibsim.fit.first_guess import grey_scale as grey_scale
from fibsim.fit.first_guess import on_grey_scale as on_grey_scale
from fibsim.fit.optimise import FitResult as FitResult
from fibsim.fit.optimise import FitSettings as FitSettings
from fibsim.fit.optimise import fit_instrument as fit_instrument
from fibsim.fit.problem import patch_distance as patch_distance
from fibsim.fit.refine import Refinement as Refinement
from fibsim.fit.refine import RefineSettings as RefineSettings
from fibsim.fit.regress import ChannelResidual as ChannelResidual
from fibsim.fit.regress import RegressionResult as RegressionResult
from fibsim.fit.regress import RegressionSettings as RegressionSettings
from fibsim.fit.regress import moved_by as moved_by
from fibsim.fit.regress import regress_instrument as regress_instrument
from fibsim.fit.regress import regression_unknowns as regression_unknowns
from fibsim.fit.regress import stack_residual as stack_residual
from fibsim.fit.robust import robust_loss as robust_loss
from fibsim.fit.sight import Sight as Sight
from fibsim.fit.sight import sight_of as sight_of
from fibsim.fit.simulated import check_drawable as check_drawable
from fibsim.fit.simulated import draw_sample as draw_sample
from fibsim.fit.simulated import slices_below as slices_below
from fibsim.fit.start import check_fittable as check_fittable
from fibsim.fit.start import first_instrument as first_instrument
from fibsim.fit.statements import instrument_file_of as instrument_file_of
from fibsim.fit.statements import standard_errors as standard_errors
from fibsim.fit.statements import statements as statements
from fibsim.fit.statements import table_of_unknowns as table_of_unknowns
from fibsim.fit.unevenness import run_as_seen as run_as_seen
from fibsim.fit.unknowns import Unknown as Unknown
from fibsim.fit.unknowns import apply_unknowns as apply_unknowns
from fibsim.fit.unknowns import default_unknowns as default_unknowns
from fibsim.fit.unknowns import from_free as from_free
from fibsim.fit.unknowns import specimen_unknowns as specimen_unknowns
from fibsim.fit.unknowns import start_point as start_point
from fibsim.fit.unknowns import to_free as to_free

__all__ = [
    "ChannelResidual",
    "FitResult",
    "FitSettings",
    "RefineSettings",
    "Refinement",
    "RegressionResult",
    "RegressionSettings",
    "Unknown",
    "apply_unknowns",
    "bulge_midway",
    "check_drawable",
    "check_fittable",
    "default_unknowns",
    "draw_sample",
    "expected_faces",
    "face_count",
    "face_surfaces",
    "first_instrument",
    "fit_best_kind",
    "fit_instrument",
    "from_free",
    "grey_levels",
    "keep_noise",
    "mirrored",
    "moved_by",
    "patch_distance",
    "regress_instrument",
    "regression_unknowns",
    "robust_loss",
    "run_as_seen",
    "slices_below",
    "specimen_unknowns",
    "stack_residual",
    "instrument_file_of",
    "standard_errors",
    "start_point",
    "statements",
    "table_of_unknowns",
    "to_free",
    "without_bias",
]
