"""Diagnosis of an ASE calculator: its structures as a subject, and the experiments that need a calculator."""
