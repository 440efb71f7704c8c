"""What may be written on the command line, held against what can be run."""

import argparse

from tunemake import arguments, cli


def test_every_command_has_what_runs_it():
    parser = arguments.parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    told = {name: command.get_default("command") for name, command in commands.choices.items()}
    assert told.pop("xtuner") is None  # all of its arguments are XTuner's own: cli.main hands them on
    assert set(told.values()) == set(cli._COMMANDS)
    assert told["why"] == told["plan"] == "plan"
