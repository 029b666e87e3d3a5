"""Families read back from a study's JSON, with or without the code that defines them."""

from __future__ import annotations

import dataclasses
from typing import Any

from scaling_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class StoredFamily:
    """A family known by its stored options only: enough to report its results, not to train it.

    Attributes:
      name: of the family.
      options: by name, as plain JSON types.
    """

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: str = ""

    def check(self, width: int, depth: int, spec: Any) -> None:
        """Raises UserError: it cannot be built."""
        raise UserError(
            f"family {self.name!r} is not registered here; import the module that defines it (models.register)"
        )

    counts = activation_bytes = build = check


def rebuilt(options: dict[str, Any], any_family: bool) -> Any:
    """The family of these options, rebuilt through the registry."""
    try:
        from scaling_jax.models import family as families  # brings Flax: only where there is a family to build
    except ModuleNotFoundError:
        if not any_family:
            raise
        return StoredFamily(str(options.pop("name")), options)
    if any_family and options.get("name") not in families.FAMILIES:
        return StoredFamily(str(options.pop("name")), options)
    return families.from_dict(options)
