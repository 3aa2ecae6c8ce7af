"""A learning-rate schedule that is counted in one unit and stepped in another."""

from collections.abc import Iterator

from lightning_gradtools.diagnosis.finding import Change, Evidence, Finding, Kind, Remedy, Severity
from lightning_gradtools.diagnosis.loop_observation import ScheduleObservation
from lightning_gradtools.diagnosis.observation import History
from lightning_gradtools.diagnosis.rule import Need, Rule, RuleContext

APART = 2.0  # times: of a run whose two units are nearer than that either will do
_ZEROS = 4  # observations at a rate of zero

_EACH_STEP = Remedy(
    sentence="Have Lightning step it after each optimizer step.",
    change=Change.SCHEDULE_OVER_RUN,
    code="return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'}}",
)
_EACH_EPOCH = Remedy(
    sentence="Have Lightning step it after each epoch, or give its length in optimizer steps.",
    change=Change.SCHEDULE_OVER_RUN,
    code="return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler, 'interval': 'epoch'}}",
)
_COUNT_STEPS = Remedy(
    sentence="Count its length in optimizer steps, of which accumulation makes fewer than there are batches.",
    change=Change.SCHEDULE_OVER_RUN,
    code="total_steps = self.trainer.estimated_stepping_batches",
)


def find_schedule_interval(context: RuleContext) -> Iterator[Finding]:
    """A schedule as long as the run in steps that is stepped each epoch, or the other way round.

    Only an exact match counts: the number of the run's optimizer steps, batches or epochs is the schedule's length, or
    one that its function holds. A run that was cut short, or goes on for longer, matches none. Besides that, a rate of
    exactly zero that the first epoch's end is to raise.
    """
    for schedule in context.history.schedules:
        found = _mismatch(context, schedule)
        if found is not None:
            yield found
            return
    if _waits_at_zero(context.history):
        yield _zero_for_an_epoch(context, context.history.schedules[0])


def _mismatch(context: RuleContext, schedule: ScheduleObservation) -> Finding | None:
    steps, batches, epochs = schedule.steps, schedule.batches, schedule.epochs
    if schedule.interval == "epoch":
        if epochs in schedule.lengths or steps < APART * epochs:
            return None
        for length, unit in ((steps, "optimizer steps"), (batches, "batches")):
            if length in schedule.lengths:
                return _finding(context, schedule, length, unit, epochs, _EACH_STEP)
        return None
    if steps in schedule.lengths:
        return None
    if batches >= APART * steps and batches in schedule.lengths:
        return _finding(context, schedule, batches, "batches", steps, _COUNT_STEPS)
    if 2 <= epochs <= steps / APART and schedule.lengths == (epochs,):
        return _finding(context, schedule, epochs, "epochs", steps, _EACH_EPOCH)
    return None


def _finding(
    context: RuleContext, schedule: ScheduleObservation, length: int, unit: str, times: int, remedy: Remedy
) -> Finding:
    step = "an epoch" if schedule.interval == "epoch" else "an optimizer step"
    so = (
        f"goes through the first {times / length:.1%} of it only"
        if length > times
        else f"is at its end after {length / times:.1%} of the run"
    )
    return Finding(
        kind=Kind.SCHEDULE_INTERVAL,
        layer="",
        step=context.latest.step,
        severity=Severity.WARNING,
        evidence=(
            Evidence(quantity="length of the schedule", value=length, threshold=times),
            Evidence(quantity="times it is stepped in the run", value=times, threshold=length),
        ),
        message=(
            f"{schedule.name} is {length} long, as many as the run has {unit}, but it is stepped once {step}, {times}"
            f" times in all: the learning rate {so}"
        ),
        remedy=(remedy,),
    )


def _waits_at_zero(history: History) -> bool:
    first, schedules = history.first_observations[:_ZEROS], history.schedules
    return (
        bool(schedules)
        and len(first) == _ZEROS
        and first[0].step == 0
        and not any(each.learning_rate for each in first)
        and all(each.interval == "epoch" for each in schedules)
        and schedules[0].epoch_steps >= 2 * _ZEROS
    )


def _zero_for_an_epoch(context: RuleContext, schedule: ScheduleObservation) -> Finding:
    return Finding(
        kind=Kind.SCHEDULE_INTERVAL,
        layer="",
        step=context.latest.step,
        severity=Severity.WARNING,
        evidence=(
            Evidence(quantity="learning rate of the first epoch", value=0.0, threshold=0.0, steps=schedule.epoch_steps),
            Evidence(quantity="steps until the schedule is stepped", value=schedule.epoch_steps, threshold=1),
        ),
        message=(
            f"{schedule.name} begins with a learning rate of 0 and is stepped once an epoch: none of the"
            f" {schedule.epoch_steps} steps of the first epoch changes a weight"
        ),
        remedy=(_EACH_STEP,),
    )


RULE = Rule(
    kind=Kind.SCHEDULE_INTERVAL,
    order=13,
    needs=frozenset({Need.OBSERVATIONS}),
    find=find_schedule_interval,
    remedies=lambda _: (),
)
