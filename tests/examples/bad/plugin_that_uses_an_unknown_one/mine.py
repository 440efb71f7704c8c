"""A generator that uses one that is not there."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def uses(self, parameters):
        return [("self_cognitions", {})]

    def samples(self, parameters, context):
        yield from context.samples_of("self_cognitions", {})
