"""Audits: a calculator on many structures, measured, summed up and kept in a journal."""
