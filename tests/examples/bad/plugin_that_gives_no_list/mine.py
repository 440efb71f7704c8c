"""A generator that gives a single sample, and not one after the other."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        return None
