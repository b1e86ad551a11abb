"""The site's one app: it has templates, a fixture and the receivers."""

from __future__ import annotations

from django.apps import AppConfig


class ExampleSiteConfig(AppConfig):
    name = "example_site"

    def ready(self) -> None:
        from example_site import receivers  # noqa: F401 -- connects them
