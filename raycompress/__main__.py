"""``python -m raycompress``."""

from raycompress.cli.main import main

main()
