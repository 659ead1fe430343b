"""The working folder of a trial: its own, though its files are the script's."""
