"""A training that goes on too long: an early checkpoint is chosen where the last fails, and nothing is trained anew."""

import json

import pytest

# Ten samples, learnt by heart at a high rate that never falls.
TOO_LONG = {
    "samples = 24": "samples = 10", "held_out = 0.1": "held_out = 0.3", "batch_size = 2": "batch_size = 4",
    "steps = 4": 'steps = 120\nmethod = "full"\nschedule = "constant"', "lr = 1e-3": "lr = 2e-2",
    "every = 2, keep = 2": "every = 12, keep = 20",
}  # fmt: skip


def probed(project, bound):
    head = (project.root / "project.toml").read_text().partition("[evaluate]")[0]
    probe = f'[evaluate]\n\n[[evaluate.probe]]\nname = "held_out"\nkind = "held_out_loss"\nat_most = {bound:.6f}\n'
    project.write("project.toml", head + probe)
    return project


def losses(project):
    told = json.loads((project.root / "build/default/selection/scores.json").read_text())
    return {row["checkpoint"]: row["scores"]["held_out"] for row in told["checkpoints"]}, told


@pytest.mark.train
def test_the_earliest_checkpoint_that_passes_is_taken_where_the_last_one_fails(project):
    for old, new in TOO_LONG.items():
        project.edit(old, new)
    first = probed(project, 0.001).doit("gate")
    assert first.code == 1  # nothing can be so good
    curve, told = losses(project)
    assert len(curve) == 10
    best, last = min(curve, key=curve.get), list(curve)[-1]
    assert told["chosen"] == best
    assert "none meets all probes" in told["why"]
    assert curve[last] > 1.1 * curve[best], curve  # learnt by heart
    merged = (project.root / "build/default/merged/model.safetensors").resolve()

    bound = (curve[best] + curve[last]) / 2
    done = probed(project, bound).doit("gate")
    assert done.code == 0, done.told()
    assert not {"train", "baseline"} & set(done.ran)
    earliest = next(name for name, loss in curve.items() if loss <= bound)
    assert losses(project)[1]["chosen"] == earliest
    assert earliest != last
    assert (("merge" in done.ran), project.record("default/gate")["facts"]["passed"]) == (earliest != best, True)

    again = probed(project, bound * 1.0001).doit("gate")
    assert again.ran == ["select", "report", "gate"]  # the same checkpoint is chosen, so nothing is merged
    project.edit("[evaluate]\n", '[evaluate]\nselect = "last"\n')
    plain = project.doit("gate")
    assert plain.code == 1
    assert "train" not in plain.ran
    assert f"gate: held_out: expected at most {bound * 1.0001:g}" in plain.told()
    assert (project.root / "build/default/merged/model.safetensors").resolve() != merged
