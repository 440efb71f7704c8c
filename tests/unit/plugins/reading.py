"""What generators that read files are tested by: their samples, bad rows and words, in a project's folder."""

import json

import pytest
from checked import checked

from tunemake import schema
from tunemake.contracts import Context, GeneratorError


class Read:
    """What a generator gave."""

    def __init__(self, generator, root, parameters, seed=1, samples_of=None):
        assert not schema.invalid_schema(generator.parameters)
        assert not schema.schema_faults(parameters, generator.parameters, "test")
        self.bad, self.said = [], []
        more = {"samples_of": samples_of} if samples_of else {}
        context = Context(root, seed, say=self.said.append, bad=self._bad, **more)
        filled = schema.with_defaults(parameters, generator.parameters)
        self.samples = checked(generator.samples(filled, context))

    def _bad(self, place, reason, row=None):
        json.dumps(row, default=repr)  # as the stage keeps it
        self.bad.append(f"{place}: {reason}")

    @property
    def pairs(self):
        return [tuple(message["content"] for message in sample["messages"]) for sample in self.samples]


def fault(generator, root, parameters):
    with pytest.raises(GeneratorError) as caught:
        Read(generator, root, parameters)
    assert "\n" not in str(caught.value)
    return str(caught.value)
