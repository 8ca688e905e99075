"""What can be said of a score and of a run: the loop defect, quadrature checks, a report."""

from scoreppl.diagnostics.curl import LoopDefect, loop_defect
from scoreppl.diagnostics.path_chord import PathAgainstChord, path_against_chord
from scoreppl.diagnostics.report import Report, report
from scoreppl.diagnostics.step_halving import StepHalving, step_halving

__all__ = [
    "LoopDefect",
    "PathAgainstChord",
    "Report",
    "StepHalving",
    "loop_defect",
    "path_against_chord",
    "report",
    "step_halving",
]
