"""A generator that needs what is not there."""

import no_such_library


class Mine:
    pass
