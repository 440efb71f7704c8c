"""A generator that gives text where a sample belongs."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        yield "a"
