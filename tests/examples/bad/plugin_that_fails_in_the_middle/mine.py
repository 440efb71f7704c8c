"""A generator that fails after good samples."""


class Mine:
    summary = "mine"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, parameters, context):
        for number in range(3000):
            if number == 2500:
                raise KeyError("answer")
            yield {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
