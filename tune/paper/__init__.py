"""Grids of the paper's rows: as a study, their numbers, tables and figures."""
