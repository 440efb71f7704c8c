"""A generator that gives nothing."""


class Nothing:
    summary = "no samples at all"
    version = "1"
    parameters = {"type": "object"}

    def samples(self, parameters, context):
        return iter(())
