"""Plugins for tunemake, as a package of its own."""
