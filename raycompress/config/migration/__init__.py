"""Experiment files of Auptimizer's Compressor: what their keys became, and how such a file is written today."""
