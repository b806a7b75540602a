"""Conformance kits to subclass."""
