"""What a text is, whatever made it."""

from __future__ import annotations

__all__ = ["characters"]

characters = str.__str__
"""The characters of a str, of a subclass too, as a plain str: what a template or a translation made has methods of its
own (``Markup`` escapes what is added to it), and the ``__str__`` of an enumeration tells its name."""
