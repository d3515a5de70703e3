"""Calibration: data in, parameters with their uncertainty out. Knows no files, figures or configurations."""
