#!/usr/bin/env python3
"""Reports what it read: its own values, and a number that stands for all that its file says of the compression."""

import hashlib
import json
import sys

import aup

config = aup.BasicConfig().load(sys.argv[1])
with open(sys.argv[1]) as file:
    said = json.load(file)
concerning = {
    key: said[key] for key in ("compressor", "compression_framework", "compression_type", "config_list", "lr", "k")
}
digest = int(hashlib.sha256(json.dumps(concerning, sort_keys=True).encode()).hexdigest()[:12], 16)
sparsities = [entry["sparsity"] for entry in config.config_list]
aup.print_result([config.lr, config["k"], digest, said["tid"], *sparsities])
