"""Single-scattering electron Monte Carlo on voxel volumes: the package's own truth."""

from fibsim.montecarlo.detectors import Detector, detector
from fibsim.montecarlo.image import Yields, bulk_yields, film_yields, image_yields

__all__ = ["Detector", "Yields", "bulk_yields", "detector", "film_yields", "image_yields"]
