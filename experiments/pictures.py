"""What the figures share: drawing without a screen, and small files."""

import io
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")


def save(figure, path: Path, *, dpi: int = 110, colours: int = 64) -> None:
    """Write a PNG of few colours: 64 take a third of the bytes, 16 are enough for grey images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi)
    image = Image.open(buffer).convert("RGB")
    small = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
