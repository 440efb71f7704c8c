"""A generator whose inputs fail."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def inputs(self, parameters):
        return [parameters["file"]]

    def samples(self, parameters, context):
        yield from ()
