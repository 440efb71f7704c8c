"""A generator whose schema is none."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object", "properties": {"size": {"type": "int"}}}  # noqa: RUF012

    def samples(self, parameters, context):
        yield from ()
