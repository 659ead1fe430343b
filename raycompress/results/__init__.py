"""The results of an experiment: journal, folder, record, report. Imports no ray."""
