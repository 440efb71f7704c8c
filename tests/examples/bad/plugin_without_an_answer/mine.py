"""A generator whose sample nobody answers."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        yield {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}
