"""The report: one HTML file that shows an experiment and needs no network, made from the journal alone."""
