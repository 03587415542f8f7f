"""The figures of a report as methods: each returns Matplotlib axes, in a new figure of pyplot's unless given some."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from equiv_probe.results.report import Report


class Figures:
    """What :class:`equiv_probe.results.report.Report` can draw; ``report.plot_share().figure.savefig("share.pdf")``.

    All of it raises EquivProbeError if the report does not hold what is to be drawn, or Matplotlib is not installed.
    """

    def plot_share(self: Report, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """``L_equiv`` as a part of ``L_total``, with its 95 % interval."""
        from equiv_probe.results import plots

        return plots.share(self, ax=ax)

    def plot_structures(self: Report, quantity: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """How the root error is spread over structures."""
        from equiv_probe.results import plots

        return plots.structures(self, quantity, ax=ax)

    def plot_elements(self: Report, quantity: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """Root error by chemical element."""
        from equiv_probe.results import plots

        return plots.elements(self, quantity, ax=ax)

    def plot_spectrum(self: Report, quantity: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """At which angular degrees ``L_equiv`` lies, in percent of it."""
        from equiv_probe.results import angular_plots

        return angular_plots.spectrum(self, quantity, ax=ax)

    def plot_angle(self: Report, quantity: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """How much two predictions differ against the angle between their orientations, in degrees."""
        from equiv_probe.results import angular_plots

        return angular_plots.angle(self, quantity, ax=ax)

    def plot_axis_map(self: Report, quantity: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """How much two predictions differ against the axis of the rotation between them; given axes must be polar."""
        from equiv_probe.results import angular_plots

        return angular_plots.axis_map(self, quantity, ax=ax)

    def plot_history(self: Report, value: str = "share", x: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """An estimate over the course of a run, against ``x``: a column of the history; None finds the time in it."""
        from equiv_probe.results import plots

        return plots.history(self, value, x, ax=ax)

    def plot_gradients(self: Report, value: str = "ratio", output: str | None = None, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """Gradients of a run, ``"ratio"`` or ``"cosine"``; see :func:`equiv_probe.results.gradient_plots.history`."""
        from equiv_probe.results import gradient_plots

        return gradient_plots.history(self, value, output, ax=ax)

    def plot_trajectory(self: Report, name: str = "forces_rms_meV_per_A", ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """See :func:`equiv_probe.results.trajectory_plots.trajectory`."""
        from equiv_probe.results import trajectory_plots

        return trajectory_plots.trajectory(self, name, ax)

    def plot_angular_momentum(self: Report, ax: Axes | None = None) -> Axes:  # type: ignore[misc]
        """See :func:`equiv_probe.results.trajectory_plots.angular_momentum`."""
        from equiv_probe.results import trajectory_plots

        return trajectory_plots.angular_momentum(self, ax)
