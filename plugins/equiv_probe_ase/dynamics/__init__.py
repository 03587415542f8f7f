"""Molecular dynamics: the monitor, its log, budget and report."""
