"""Templates: everything is escaped unless it was markup when it was written; nothing is looked up at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detent.kernel.identity import Permission
from detent.web import words
from detent.web.assets import Manifest


class Templates:
    """The console's templates, compiled once."""

    def __init__(self, manifest: Manifest) -> None:
        self._environment = Environment(
            loader=PackageLoader("detent.web", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(words.FILTERS)
        self._environment.globals.update(
            asset=manifest.url, built=bool(manifest.files), percent=words.percent, ago=words.ago, P=Permission
        )

    def show(self, template: str, values: Mapping[str, Any]) -> str:
        """A template's text."""
        return self._environment.get_template(template).render(values)
