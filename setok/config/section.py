"""The base of every config class."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: immutable, and without room for unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


def differences(old: Any, new: Any, key: str) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of the settings that differ, with both values.

    Args:
        old: a section, or a value.
        new: what it is compared with.
        key: of both.
    """
    if isinstance(old, BaseModel) and isinstance(new, BaseModel):
        return {
            inner: values
            for name in type(new).model_fields
            for inner, values in differences(getattr(old, name), getattr(new, name), f"{key}.{name}").items()
        }
    return {} if old == new else {key: (old, new)}
