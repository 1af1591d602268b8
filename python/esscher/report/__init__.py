"""A report shown: as JSON for machines, as text in a terminal, as one HTML page with plots."""

from esscher.report.as_json import to_dict, to_json
from esscher.report.evaluation import print_report, write_page

__all__ = ["print_report", "to_dict", "to_json", "write_page"]
