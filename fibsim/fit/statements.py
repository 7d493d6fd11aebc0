"""What a fit found, in numbers with errors and in plain sentences."""

import numpy as np
from numpy.typing import ArrayLike

from fibsim.fit.optimise import FitResult
from fibsim.fit.unknowns import SPECIMEN_PREFIX, from_free, natural_error
from fibsim.instrument import leaves_by_name
from fibsim.instrument_file import InstrumentFile

__all__ = [
    "UNDETERMINED",
    "correlated",
    "instrument_file_of",
    "standard_errors",
    "statements",
    "table_of_unknowns",
    "unit_of",
]

UNDETERMINED = 0.2
"""Below this share of the prior's variance that a fit removes, the stack says nothing."""

# An error grows by half where this share of the expected scatter is missed.
_MISFIT = 2.0
_CORRELATED = 0.9
# Less is not worth a word.
_LEAST_DRIFT_NM = 0.05
_OWN_UNITS = {"gain": "grey/yield", "offset": "grey"}
_UNITS = {"nm": "nm", "deg": "°", "grey": "grey", "electrons": "electrons", "kev": "keV"}


def unit_of(name: str) -> str:
    """Unit of an unknown, from the end of its name; empty for a plain number.

    >>> unit_of("geometry.tilt_deg")
    '°'
    >>> unit_of("interaction.edge_gain")
    ''
    """
    last = name.split(".")[-1]
    if last in _OWN_UNITS:
        return _OWN_UNITS[last]
    return _UNITS.get(name.rsplit("_", 1)[-1], "")


def instrument_file_of(result: FitResult) -> InstrumentFile:
    """What the instrument file of a fit holds."""
    return InstrumentFile(
        instrument=result.instrument,
        kind=result.kind,
        specimen=result.specimen,
        standard_errors=standard_errors(result),
        undetermined=result.undetermined,
        ground=result.ground,
    )


def standard_errors(result: FitResult) -> dict[str, np.ndarray]:
    """Standard error of every unknown in its own unit, as its leaf is shaped.

    The error in the free space times the slope of the transform, none if it was not computed; and
    what `fibsim.fit.unevenness` states of the milling.
    """
    refinement = result.refinement
    errors = {}
    if result.unevenness is not None:
        errors |= {name: np.asarray(v) for name, v in result.unevenness.errors.items()}
    if refinement is None:
        return errors
    in_free = refinement.flat.split(refinement.standard_errors)
    for name, error in in_free.items():
        free, unknown = refinement.free[name], result.unknowns[name]
        errors[name] = np.asarray(natural_error(free, error, unknown))
    return errors


def table_of_unknowns(result: FitResult) -> list[str]:
    """One line per unknown: name, value, standard error, unit, and how much the stack says.

    The last is the share of the assumed variance that the stack took away, in percent. Without
    errors there are names, values and units alone.
    """
    refinement = result.refinement
    if refinement is None:
        return _table_without_errors(result)
    errors, known = standard_errors(result), refinement.flat.split(refinement.determined)
    lines = [f"{'unknown':34}{'value':>10}{'error':>10}  {'unit':12}{'from the stack':>14}"]

    def add(label: str, name: str, value: float, error: float, share: float) -> None:
        lines.append(
            f"{label:34}{value:10.4g}{error:10.2g}  {unit_of(name):12}{100 * share:12.0f} %"
        )

    for name, free in refinement.free.items():
        values = np.asarray(from_free(free, result.unknowns[name]))
        for i, (label, value) in enumerate(_labelled(name, values)):
            error, share = np.atleast_1d(errors[name])[i], np.atleast_1d(known[name])[i]
            add(label, name, value, error, share)
    if result.unevenness is not None:
        for name, value in result.unevenness.values.items():
            add(name, name, value, float(errors[name]), 1.0)
    return lines


def _table_without_errors(result: FitResult) -> list[str]:
    found = leaves_by_name(result.instrument)
    found |= {SPECIMEN_PREFIX + name: value for name, value in result.specimen.items()}
    lines = [f"{'unknown':34}{'value':>10}  unit"]
    for name in result.unknowns:
        lines += [
            f"{label:34}{value:10.4g}  {unit_of(name)}".rstrip()
            for label, value in _labelled(name, found[name])
        ]
    return lines


def _labelled(name: str, values: ArrayLike) -> list[tuple[str, float]]:
    """Every value of an unknown under its name, with the channel where there are several."""
    values = np.atleast_1d(values)
    labels = [name] if len(values) == 1 else [f"{name}[{i}]" for i in range(len(values))]
    return list(zip(labels, values, strict=True))


def correlated(result: FitResult) -> list[tuple[str, str, float]]:
    """Pairs of determined unknowns that the stack can hardly tell apart, strongest first."""
    refinement = result.refinement
    if refinement is None:
        return []
    names, matrix, known = refinement.flat.names, refinement.correlation, refinement.determined
    pairs = [
        (names[i], names[j], float(matrix[i, j]))
        for i in range(len(names))
        for j in range(i)
        if abs(matrix[i, j]) > _CORRELATED and min(known[i], known[j]) > UNDETERMINED
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def statements(result: FitResult) -> list[str]:
    """Sentences that the user should read, the gravest first."""
    refinement, said = result.refinement, []
    if result.ground is not None:
        said.append(
            f"From slice {result.slices_used + 1} on the pores brighten towards the stack's end, "
            f"as over dense ground {float(result.ground.depth_nm):.0f} nm below the first face; "
            "these slices took no part in the fit, and simulated stacks rest on such ground."
        )
    if result.kinds:
        said.append(
            f"{result.kind} was chosen by how well kinds of specimen resemble the milled faces: "
            + ", ".join(f"{kind.kind} {kind.distance:.3f}" for kind in result.kinds)
            + f" (0: not to be told apart; two draws of {result.kinds[0].kind}: "
            f"{result.kinds[0].chance:.3f})."
        )
    uneven = result.unevenness
    if uneven is not None and uneven.found:
        jitter, drift = "faults.thickness_sd", "faults.drift_nm"
        size, error = uneven.values[drift], uneven.errors[drift]
        drifts = f", and drift by {size:.1f} +- {error:.1f} nm" if size >= _LEAST_DRIFT_NM else ""
        said.append(
            f"The slices are unevenly thick, by {100 * uneven.values[jitter]:.0f} "
            f"+- {100 * uneven.errors[jitter]:.0f} % rms{drifts}; simulated stacks do so too. "
            "fibsim milling lists every slice and puts slices back in their place."
        )
    if refinement is None:
        said.append("No errors were computed, since the fit ended with its descent.")
        return said
    if not refinement.converged:
        said.append(
            f"The fit did not converge: its last step moved {refinement.last_moved} by "
            f"{refinement.steps[-1]:.1f} standard errors; give it more "
            "steps, and check the voltages, tilt and material stated."
        )
    if refinement.misfit > _MISFIT:
        worst = np.argsort(-np.abs(refinement.deviations))[:3]
        said.append(
            f"The model does not describe the stack in full (misfit {refinement.misfit:.1f}, "
            "1 is expected); farthest off: "
            + "; ".join(
                f"{result.moment_names[i]} ({refinement.deviations[i]:+.1f} errors)" for i in worst
            )
            + ". Errors are enlarged accordingly."
        )
    silent = [
        name.removeprefix(SPECIMEN_PREFIX)
        for name, known in zip(refinement.flat.names, refinement.determined, strict=True)
        if known < UNDETERMINED
    ]
    if silent:
        said.append(
            "The stack does not determine " + ", ".join(silent) + "; their values are those "
            "assumed before the fit, their errors as large as assumed."
        )
    for one, other, r in correlated(result):
        said.append(
            f"{one} and {other} can hardly be told apart (correlation {r:+.2f}): "
            + ("their product" if r < 0 else "their ratio")
            + " is better known than each."
        )
    return said
