"""A generator that gives nothing."""


class Nothing:
    summary = "no samples at all"
    version = "1"
    parameters = {"type": "object"}  # noqa: RUF012

    def samples(self, _parameters, _context):
        return iter(())
