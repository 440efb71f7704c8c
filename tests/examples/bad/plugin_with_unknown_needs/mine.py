"""A generator that needs what tunemake does not know."""


class Mine:
    summary = "mine"
    version = "1"
    needs = ("judge",)
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        yield from ()
