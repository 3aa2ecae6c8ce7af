import pytest
from helpers.histories import falling, found, history

from lightning_gradtools.diagnosis.loop_observation import ScheduleObservation


def run(interval, *lengths, steps=1000, batches=1000, epochs=10, rate=lambda step: 0.1):
    made = history(loss=falling, rate=rate)
    made.scheduled = True
    made.schedules = [
        ScheduleObservation(
            name="CosineAnnealingLR",
            interval=interval,
            lengths=lengths,
            steps=steps,
            batches=batches,
            epochs=epochs,
            epoch_steps=steps // epochs,
        )
    ]
    return found(made).get(("schedule_interval", ""))


@pytest.mark.parametrize(
    ("schedule", "said", "code"),
    [
        (("epoch", 1000), "goes through the first 1.0% of it only", "'interval': 'step'"),
        (("epoch", 50, 1000), "goes through the first 1.0% of it only", "'interval': 'step'"),
        (("step", 10), "is at its end after 1.0% of the run", "'interval': 'epoch'"),
    ],
)
def test_another_unit(schedule, said, code):
    finding = run(*schedule)
    assert finding.severity == "warning"
    assert said in finding.message
    assert code in finding.remedy[0].code


def test_batches_under_accumulation():
    finding = run("step", 4000, batches=4000)
    assert "as many as the run has batches" in finding.message
    assert "estimated_stepping_batches" in finding.remedy[0].code
    assert run("epoch", 4000, batches=4000)


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (("epoch", 10), {}),
        (("step", 1000), {}),
        (("epoch", 10, 1000), {}),
        (("step", 10, 1000), {}),
        (("epoch", 200), {}),
        (("step", 100), {}),
        (("step", 10, 30), {}),
        (("epoch",), {}),
        (("epoch", 10), {"steps": 10}),
        (("step", 1), {"epochs": 1}),
    ],
)
def test_a_match_of_its_own_unit_and_no_match_are_right(schedule, settings):
    assert run(*schedule, **settings) is None


def test_a_first_epoch_at_rate_zero():
    finding = run("epoch", rate=lambda step: 0.0 if step < 50 else 0.1)
    assert "none of the 100 steps of the first epoch changes a weight" in finding.message
    assert run("step", rate=lambda step: 0.0 if step < 50 else 0.1) is None
    assert run("epoch", rate=lambda step: 0.0 if step < 5 else 0.1) is None
    assert run("epoch", epochs=200, rate=lambda step: 0.0 if step < 50 else 0.1) is None
