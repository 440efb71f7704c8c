"""A generator with a role that no model knows."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        yield {"messages": [{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}]}
