from tunemake.faults import Fault, InputError, StageError, StoppedError, did_you_mean


def test_a_fault_is_one_line_of_where_what_expected_got_next():
    fault = Fault("project.toml", "train.lr: wrong type", "a number", '"x"', "remove the quotes", 3, 1)
    assert str(fault) == 'project.toml:3:1: train.lr: wrong type; expected a number, got "x"; remove the quotes'


def test_parts_that_are_not_known_are_left_out():
    assert str(Fault("data", "no samples")) == "data: no samples"
    assert str(Fault("data", "no samples", got="0")) == "data: no samples; got 0"


def test_what_a_user_wrote_breaks_no_line_and_steers_no_terminal():
    assert str(Fault("a\nb", "no \x1b[31m file", got="\ud800\u2028小")) == r"a\nb: no \x1b[31m file; got \ud800\u2028小"


def test_all_faults_are_told_together():
    error = InputError([Fault("a", "x"), Fault("b", "y")])
    assert str(error) == "a: x\nb: y"
    assert error.exit_code == 2


def test_exit_codes():
    assert StageError(Fault("train", "failed")).exit_code == 1
    assert StoppedError(Fault("build", "interrupted"), 2).exit_code == 130


def test_a_close_word_is_proposed_and_a_far_one_is_not():
    assert did_you_mean("epoch", ["epochs", "lr"]) == 'did you mean "epochs"?'
    assert did_you_mean("zzz", ["epochs", "lr"]) is None
