"""The recorded stack: images, what each channel is, voxel size, and where every fact came from."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fibsim.instrument import Instrument

__all__ = ["Channel", "Stack", "channels_of", "virtual_stack"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channel:
    """One (voltage, detector) pair.

    Attributes:
        beam_kev: beam energy in keV.
        detector: ``"SE"`` or ``"BSE"`` (what the detector mainly collects).
        name: label used in tables and pictures, for example ``"1kV"``.
    """

    beam_kev: float
    detector: str = "SE"
    name: str = ""

    @property
    def label(self) -> str:
        """The name, or voltage and detector where it has none."""
        return self.name or f"{self.beam_kev:g}kV {self.detector}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """A multi-channel FIB-SEM image stack with its metadata (host side, NumPy).

    Attributes:
        images: grey values, shape ``(channel, slice, y, x)``, dtype as recorded. Slice 0 was
            milled first; y is the images' vertical.
        channels: one `Channel` per leading index of ``images``.
        pixel_nm: side of a (square) pixel in nm.
        slice_nm: nominal slice thickness in nm.
        tilt_deg: angle between beam and slice normal in degrees, positive when the beam leans
            towards +y as it goes deeper; ``None`` when nothing states it.
        material: name of the solid in `fibsim.materials`, or path of an ``.npz`` that ``fibsim
            calibrate`` wrote; ``None`` when nothing states it.
        pores: material that fills the pores, likewise; ``None`` for open pores.
        specimen: name of the specimen generator the user asks for; ``None`` to choose.
        name: short name of the data set.
        provenance: fact -> where it came from, for example ``{"pixel_nm": "ImageJ tag"}``.
        warnings: sentences the user should read.
    """

    images: np.ndarray
    channels: tuple[Channel, ...]
    pixel_nm: float
    slice_nm: float
    tilt_deg: float | None = None
    material: str | None = None
    pores: str | None = None
    specimen: str | None = None
    name: str = "stack"
    provenance: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def num_channels(self) -> int:
        return self.images.shape[0]

    @property
    def num_slices(self) -> int:
        return self.images.shape[1]

    @property
    def voxel_nm(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x) in nm."""
        return (self.slice_nm, self.pixel_nm, self.pixel_nm)


def channels_of(instrument: "Instrument") -> tuple[Channel, ...]:
    """What an instrument records, unnamed."""
    return tuple(
        Channel(beam_kev=float(kev), detector=detector)
        for kev, detector in zip(instrument.beam_kev, instrument.detectors, strict=True)
    )


def virtual_stack(images: np.ndarray, instrument: "Instrument") -> Stack:
    """Simulated grey values of 0 to 255 as bytes, with the facts that the instrument knows.

    Args:
        images: ``(channel, slice, y, x)``, as `fibsim.sample_stack` gives them.
        instrument: that recorded them.
    """
    geometry = instrument.geometry
    return Stack(
        images=np.round(np.asarray(images)).astype(np.uint8),
        channels=tuple(
            dataclasses.replace(channel, name=f"{channel.beam_kev:g}kV")
            for channel in channels_of(instrument)
        ),
        pixel_nm=float(geometry.pixel_nm),
        slice_nm=float(geometry.slice_nm),
        tilt_deg=float(geometry.tilt_deg),
    )
