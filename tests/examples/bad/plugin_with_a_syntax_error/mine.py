"""A generator."""

class Mine
    summary = "mine"
