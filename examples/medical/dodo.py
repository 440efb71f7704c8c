"""doit's way in."""

from tunemake.tasks import DOIT_CONFIG, task_tunemake  # noqa: F401 - doit looks for these names
