"""A generator that lacks half of its contract."""


class Mine:
    summary = "mine"

    def samples(self, parameters, context):
        yield from ()
