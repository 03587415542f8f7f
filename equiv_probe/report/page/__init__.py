"""The page that a report becomes: one file of HTML, without the network, for screens of all sizes and for paper."""

from equiv_probe.report.page.writing import fragment, page

__all__ = ["fragment", "page"]
