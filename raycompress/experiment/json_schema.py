"""The JSON Schema of the experiment file, for editors."""

from __future__ import annotations

from typing import Any


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the experiment file."""
    from raycompress.experiment.keys import ExperimentKeys

    schema = _without_null_defaults(ExperimentKeys.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _without_null_defaults(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_null_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_null_defaults(item) for key, item in value.items() if not (key == "default" and item is None)}
