"""How a report writes numbers."""

import math
import numbers
from collections.abc import Sequence

__all__ = ["aligned", "fixed", "format_value"]

MINUS, THIN_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"


def format_value(value: object, digits: int = 4) -> str:
    """A value as text: ``0.6337``, ``12 300``, ``0.634 ± 0.012``, ``0.634 (0.621 to 0.650)``.

    Numbers get ``digits`` significant digits; with an uncertainty the number of decimals follows
    from two digits of that uncertainty. Text stays as it is; None and nan become a dash.

    Args:
        value: number, text, ``(value, uncertainty)`` or ``(value, low, high)``.
        digits: significant digits of a plain number.
    """
    several = list(value) if isinstance(value, tuple | list) else []
    if len(several) in (2, 3) and all(map(_is_number, several)):
        centre, *rest = map(float, several)
        if not all(math.isfinite(v) for v in (centre, *rest)):
            return fixed(centre, _decimals(centre, digits))
        spread = abs(rest[0]) if len(rest) == 1 else abs(rest[1] - rest[0]) / 2
        decimals = _decimals(spread, 2) if spread > 0 else _decimals(centre, digits)
        if len(rest) == 1:
            return f"{fixed(centre, decimals)} ± {fixed(spread, decimals)}"
        low, high = (fixed(v, decimals) for v in rest)
        return f"{fixed(centre, decimals)} ({low} to {high})"
    if value is None:
        return "–"
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if isinstance(value, numbers.Integral):
            return fixed(number, 0)
        if number != 0 and math.isfinite(number) and not 1e-4 <= abs(number) < 1e7:
            mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
            return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
        return fixed(number, _decimals(number, digits))
    return str(value)


def aligned(values: Sequence[float], digits: int = 3, *, smallest: bool = False) -> list[str]:
    """Numbers with the same count of decimals, so that right-aligned columns line up.

    The largest magnitude gets ``digits`` significant digits (whole numbers stay whole).

    Args:
        values: the numbers of one row or column.
        digits: significant digits.
        smallest: give them to the smallest magnitude instead, unless the numbers are so far
            apart (10^4) that each is better written by itself.
    """
    finite = [abs(float(v)) for v in values if math.isfinite(v) and v != 0]
    if not finite:
        return [fixed(float(v), 0) for v in values]
    if smallest and max(finite) > 1e4 * min(finite):
        return [format_value(float(v), digits) for v in values]
    whole = all(v.is_integer() for v in finite)
    leading = min(finite) if smallest else max(finite)
    decimals = 0 if whole else _decimals(leading, digits)
    return [fixed(float(v), decimals) for v in values]


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _decimals(number: float, digits: int) -> int:
    if number == 0 or not math.isfinite(number):
        return digits - 1
    # Rounding first: 0.0999 to two digits is 0.10, not 0.100.
    exponent = int(f"{abs(number):.{digits - 1}e}".split("e")[1])
    return max(digits - 1 - exponent, 0)


def fixed(number: float, decimals: int) -> str:
    """``0.006``, ``12 300.5``, a dash for nan: a number with so many decimals."""
    if math.isnan(number):
        return "–"
    if math.isinf(number):
        return "∞" if number > 0 else f"{MINUS}∞"
    text = f"{number:,.{decimals}f}"
    if abs(number) < 10000:
        text = text.replace(",", "")
    text = text.replace(",", THIN_SPACE)
    return text.replace("-", "" if float(f"{number:.{decimals}f}") == 0 else MINUS)
