"""Whether a model that computes less is faster."""

from __future__ import annotations

from collections.abc import Mapping

Sizes = Mapping[str, float | None]
"""``flops``, and where they were measured ``latency_ms``, ``latency_low_ms`` and ``latency_high_ms`` of a model."""


def warning(before: Sizes | None, after: Sizes | None) -> str:
    """Say that the FLOPs fell and the latency did not; an empty text where it did, or where it was not measured.

    Parameters
    ----------
    before, after
        The dense model and the compressed one. The latency fell where the intervals of the two do not meet.

    Examples
    --------
    >>> warning(
    ...     {"flops": 100, "latency_ms": 2.0, "latency_low_ms": 1.9, "latency_high_ms": 2.1},
    ...     {"flops": 41, "latency_ms": 1.96, "latency_low_ms": 1.88, "latency_high_ms": 2.05},
    ... ).partition(":")[0]
    "FLOPs fell to 41 % and latency did not (98 % of the dense model's)"
    """
    flops, latency = _share(before, after, "flops"), _share(before, after, "latency_ms")
    low, high = (before or {}).get("latency_low_ms"), (after or {}).get("latency_high_ms")
    if flops is None or latency is None or low is None or high is None or flops >= 0.9 or high < low:
        return ""
    return (
        f"FLOPs fell to {100 * flops:.0f} % and latency did not ({100 * latency:.0f} % of the dense model's): channels "
        'that are no multiple of 8, or layers too small to matter; "round_to": 8 and fewer, wider cuts help'
    )


def _share(before: Sizes | None, after: Sizes | None, name: str) -> float | None:
    whole, rest = (before or {}).get(name), (after or {}).get(name)
    return rest / whole if whole and rest is not None else None
