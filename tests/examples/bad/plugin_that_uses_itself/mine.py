"""A generator that goes round in a circle."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def uses(self, parameters):
        return [("mine", {})]

    def samples(self, parameters, context):
        yield from context.samples_of("mine", {})
