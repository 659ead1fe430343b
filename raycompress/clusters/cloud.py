"""Checks and prices of a cluster, by provider."""

from __future__ import annotations

from raycompress.clusters.file.check import Check, Estimate, EstimateLine, State
from raycompress.clusters.file.files import ClusterFile

__all__ = ["Check", "Estimate", "EstimateLine", "State", "checks", "estimate"]


def checks(cluster: ClusterFile, storage: str) -> list[Check]:
    """Look at everything that a start of `cluster` needs; nothing is created.

    Parameters
    ----------
    storage
        Where results go: a folder, or ``s3://bucket/prefix``.
    """
    match cluster.provider:
        case "aws":
            from raycompress.clusters.aws.checks import checks as aws_checks

            return list(aws_checks(cluster, storage))
        case "local":
            from raycompress.clusters.file.hosts import checks as host_checks

            return host_checks(cluster)
    detail = f'of the provider "{cluster.provider}" nothing is checked before the start; prices neither'
    return [Check("cloud", State.NOT_CHECKED, detail)]


def estimate(cluster: ClusterFile) -> Estimate | None:
    """Return what `cluster` costs an hour; None for a provider whose prices are not known here."""
    if cluster.provider != "aws":
        return None
    from raycompress.clusters.aws.prices import estimate as aws_estimate

    return aws_estimate(cluster)
