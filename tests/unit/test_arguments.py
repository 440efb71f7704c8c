"""What may be written on the command line leads to what runs."""

import argparse

from tunemake import arguments, cli


def test_every_command_is_one_that_runs():
    parser = arguments.parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    told = {name: command.get_default("command") for name, command in commands.choices.items()}
    assert told.pop("xtuner") is None  # all of its arguments are XTuner's own: cli.main hands them on
    assert set(told.values()) == set(cli._COMMANDS)
    assert told["why"] == told["plan"] == "plan"
