"""Reaching a cluster: Ray's launcher, SSH, the Jobs API."""
