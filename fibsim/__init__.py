"""fibsim: a differentiable FIB-SEM forward model in JAX.

Virtual specimen in, the multi-voltage image stack of a real instrument out, with the exact truth
beside it; every physical parameter can be fitted to a recorded stack by gradient.

Names are loaded when first used, so that ``import fibsim`` and the command line's ``--help``
stay fast.
"""

import importlib
from typing import TYPE_CHECKING

from fibsim._version import __version__ as __version__
from fibsim.errors import InputError as InputError
from fibsim.stack import Channel as Channel
from fibsim.stack import Stack as Stack

if TYPE_CHECKING:
    from fibsim.depth_order import DepthOrder as DepthOrder
    from fibsim.depth_order import depth_order_warnings as depth_order_warnings
    from fibsim.depth_order import depth_orders as depth_orders
    from fibsim.fit import FitResult as FitResult
    from fibsim.fit import FitSettings as FitSettings
    from fibsim.fit import fit_instrument as fit_instrument
    from fibsim.instrument import Instrument as Instrument
    from fibsim.instrument_file import load_instrument as load_instrument
    from fibsim.instrument_file import save_instrument as save_instrument
    from fibsim.io import read_stack as read_stack
    from fibsim.material_file import material_from_table as material_from_table
    from fibsim.materials import Material as Material
    from fibsim.materials import material as material
    from fibsim.milling import Milling as Milling
    from fibsim.presets import make_instrument as make_instrument
    from fibsim.presets import preset as preset
    from fibsim.realign import MillingEstimate as MillingEstimate
    from fibsim.realign import estimate_milling as estimate_milling
    from fibsim.realign import reposition as reposition
    from fibsim.simulate import Sample as Sample
    from fibsim.simulate import expected_stack as expected_stack
    from fibsim.simulate import sample_stack as sample_stack
    from fibsim.slabs import SampledSlab as SampledSlab
    from fibsim.slabs import Slab as Slab
    from fibsim.slabs import expected_slabs as expected_slabs
    from fibsim.slabs import sample_slabs as sample_slabs
    from fibsim.specimens import Specimen as Specimen
    from fibsim.specimens import make as make_specimen  # noqa: F401

# public name -> (module, name there)
_LAZY = {
    "DepthOrder": ("fibsim.depth_order", "DepthOrder"),
    "depth_order_warnings": ("fibsim.depth_order", "depth_order_warnings"),
    "depth_orders": ("fibsim.depth_order", "depth_orders"),
    "FitResult": ("fibsim.fit", "FitResult"),
    "FitSettings": ("fibsim.fit", "FitSettings"),
    "fit_instrument": ("fibsim.fit", "fit_instrument"),
    "Instrument": ("fibsim.instrument", "Instrument"),
    "load_instrument": ("fibsim.instrument_file", "load_instrument"),
    "save_instrument": ("fibsim.instrument_file", "save_instrument"),
    "read_stack": ("fibsim.io", "read_stack"),
    "Material": ("fibsim.materials", "Material"),
    "material": ("fibsim.materials", "material"),
    "material_from_table": ("fibsim.material_file", "material_from_table"),
    "Milling": ("fibsim.milling", "Milling"),
    "make_instrument": ("fibsim.presets", "make_instrument"),
    "preset": ("fibsim.presets", "preset"),
    "MillingEstimate": ("fibsim.realign", "MillingEstimate"),
    "estimate_milling": ("fibsim.realign", "estimate_milling"),
    "reposition": ("fibsim.realign", "reposition"),
    "Sample": ("fibsim.simulate", "Sample"),
    "expected_stack": ("fibsim.simulate", "expected_stack"),
    "sample_stack": ("fibsim.simulate", "sample_stack"),
    "SampledSlab": ("fibsim.slabs", "SampledSlab"),
    "Slab": ("fibsim.slabs", "Slab"),
    "expected_slabs": ("fibsim.slabs", "expected_slabs"),
    "sample_slabs": ("fibsim.slabs", "sample_slabs"),
    "Specimen": ("fibsim.specimens", "Specimen"),
    "make_specimen": ("fibsim.specimens", "make"),
}

__all__ = ["Channel", "InputError", "Stack", "__version__", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'fibsim' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
