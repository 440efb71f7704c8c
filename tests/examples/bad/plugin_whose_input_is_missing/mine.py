"""A generator whose file is not there."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def inputs(self, parameters):
        return ["notes.txt"]

    def samples(self, parameters, context):
        yield from ()
