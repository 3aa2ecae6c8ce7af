from lightning_gradtools.callbacks.pathology_detector.sampling import SamplingSchedule
from lightning_gradtools.diagnosis.observation import ActivationObservation, Observation


def due(schedule, steps):
    return [step for step in steps if schedule.due(step)]


def seen(step, silent, dead=0):
    return Observation(step, (), (ActivationObservation("1", "relu", units=10, silent=silent, dead=dead),))


def test_the_first_steps_then_every_so_many_then_half_as_often():
    schedule = SamplingSchedule(20)
    assert due(schedule, range(61)) == [0, 1, 2, 4, 8, 12, 16, 20, 40, 60]
    assert due(schedule, range(161, 321)) == [180, 200, 240, 280, 320]


def test_a_layer_that_may_have_died_is_looked_at_every_other_step_for_sixteen_samples():
    schedule = SamplingSchedule(20)
    schedule.feed(seen(100, silent=6))
    for step in range(102, 134, 2):
        assert due(schedule, (step - 1, step)) == [step]
        schedule.feed(seen(step, silent=6))
    assert due(schedule, range(133, 180)) == [140, 160]


def test_the_next_such_burst_has_to_wait():
    schedule = SamplingSchedule(20)
    for step in (100, *range(102, 134, 2), 140, 380):
        schedule.feed(seen(step, silent=6))
    assert not schedule.due(382)
    schedule.feed(seen(400, silent=6))  # twice 100 and ten periods on
    assert schedule.due(402)


def test_what_is_dead_for_sure_or_mostly_alive_is_no_reason():
    schedule = SamplingSchedule(20)
    schedule.feed(seen(100, silent=10, dead=6))
    schedule.feed(seen(120, silent=5))
    assert not schedule.due(122)
