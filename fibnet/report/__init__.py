"""The report of a reconstruction: one self-contained HTML file."""

from fibnet.report.content import AdaptationSection, FitSection, ReportContent, TrainingSection
from fibnet.report.write import write_report

__all__ = ["AdaptationSection", "FitSection", "ReportContent", "TrainingSection", "write_report"]
