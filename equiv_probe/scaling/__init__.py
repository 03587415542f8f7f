"""How losses scale with model size, data, compute and time, and which of two models makes more of them.

Power laws with robust fits and bootstrap intervals, the best sizes for a budget, data efficiency, and the efficiency
gap between two models, from tables of runs or from the callback's logs.

>>> sizes = [1e2, 1e3, 1e4, 1e5]
>>> runs = table_of({"parameters": sizes * 4, "structures": [d for d in sizes for _ in range(4)]})
>>> losses = 0.01 + 3 * runs["N"] ** -0.5 + 2 * runs["D"] ** -0.4
>>> law = fit({**runs.columns, "L_total": losses}, x=("N", "D"))
>>> f"{law['alpha'].value:.3f} {law['beta'].value:.3f}"
'0.500 0.400'
"""

from equiv_probe.scaling.allocation import Allocation, allocate
from equiv_probe.scaling.cost import Cost, measured_cost
from equiv_probe.scaling.data_efficiency import DataEfficiency, data_efficiency
from equiv_probe.scaling.estimates import Estimate
from equiv_probe.scaling.figures import figure_of
from equiv_probe.scaling.fitting import fit
from equiv_probe.scaling.forecast import forecast
from equiv_probe.scaling.forecast_result import Forecast
from equiv_probe.scaling.gap import gap
from equiv_probe.scaling.gap_result import Crossing, Gap
from equiv_probe.scaling.law import Fit
from equiv_probe.scaling.logs import joined, read_table
from equiv_probe.scaling.results import Results
from equiv_probe.scaling.table import Table, table_of

__all__ = [
    "Allocation",
    "Cost",
    "Crossing",
    "DataEfficiency",
    "Estimate",
    "Fit",
    "Forecast",
    "Gap",
    "Results",
    "Table",
    "allocate",
    "data_efficiency",
    "figure_of",
    "fit",
    "forecast",
    "gap",
    "joined",
    "measured_cost",
    "read_table",
    "table_of",
]
