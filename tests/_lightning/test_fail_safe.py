import gc
import logging
import warnings
import weakref

import pytest
from helpers.runs import Regression, fit
from lightning.pytorch import Callback

from lightning_gradtools._lightning.fail_safe import FailSafe, Observer, restore_state, tell
from lightning_gradtools.arguments import ArgumentError


def broken():
    raise OSError("disk full")


def test_it_says_once_what_failed_and_does_nothing_more():
    released = []
    guard = FailSafe("Probe", lambda: released.append(1))
    with pytest.warns(UserWarning, match=r"Probe is off .* OSError in broken: disk full") as told:
        assert guard.run(broken) is None
    assert len(told) == 1
    assert guard.run(lambda: 1) is None
    assert guard.failure == "OSError in broken: disk full"
    assert released == [1]
    guard.renew()
    assert guard.run(lambda: 1) == 1


def test_a_failure_is_kept_as_text_and_holds_nothing():
    class Large:
        pass

    large = Large()
    held = weakref.ref(large)

    def failing(_):
        raise ValueError("x")

    guard = FailSafe("Probe")
    with pytest.warns(UserWarning, match="ValueError in failing: x"):
        guard.run(failing, large)
    del large
    gc.collect()
    assert held() is None


def test_where_the_user_makes_warnings_errors_it_is_logged_and_nothing_is_raised(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.ERROR, "lightning_gradtools"):
        warnings.simplefilter("error")
        FailSafe("Probe").run(broken)
        tell("something else")
    assert [record.getMessage() for record in caplog.records] == [
        "Probe is off for the rest of this run, training goes on: OSError in broken: disk full",
        "something else",
    ]


def test_an_error_that_cannot_say_what_it_is():
    class SpeechlessError(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    def speechless():
        raise SpeechlessError

    with pytest.warns(UserWarning, match="SpeechlessError in speechless"):
        FailSafe("Probe").run(speechless)


def test_every_hook_of_an_observer_is_guarded_and_refusals_are_not():
    class Broken(Observer):
        refuses = False

        def on_fit_start(self, trainer, pl_module):
            if self.refuses:
                raise ArgumentError("strategy='x': must be another")

        def on_train_batch_end(self, *args):
            broken()

        def state_dict(self):
            broken()

    observer = Broken()
    with pytest.warns(UserWarning, match="Broken is off .* in on_train_batch_end"):
        fit(Regression(), observer)
    assert "disk full" in observer.failure
    observer.refuses = True
    with pytest.raises(ArgumentError, match="strategy='x'"):
        fit(Regression(), observer)


def test_what_a_class_raises_on_purpose_is_raised():
    class Deliberate(Observer):
        deliberate = (KeyError,)

        def on_train_batch_end(self, *args):
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        fit(Regression(), Deliberate())


def test_the_same_object_begins_anew_in_another_fit_and_forgets_only_in_another_run():
    class Counting(Observer):
        resets = fits = 0

        def reset(self):
            self.resets += 1

        def start_fit(self):
            self.fits += 1

    observer = Counting()
    run = fit(Regression(), observer)
    assert (observer.fits, observer.resets) == (1, 1)
    run.fit_loop.max_epochs = 2
    run.fit(run.lightning_module, run.train_dataloader)  # goes on
    assert (observer.fits, observer.resets) == (2, 1)
    fit(Regression(), observer)
    assert (observer.fits, observer.resets) == (3, 2)


def test_a_state_of_another_version_is_taken_as_far_as_it_goes():
    read = {}
    readers = {"a": lambda value: read.update(a=value), "b": lambda value: read.update(b=value), "c": int}
    with pytest.warns(
        UserWarning, match=r"Probe: of its state .* 'b' is missing, 'c' cannot be read \(ValueError.*, 'd' is unknown"
    ) as told:
        restore_state("Probe", {"version": 7, "a": 1, "c": "x", "d": 2}, readers)
    assert read == {"a": 1}
    assert len(told) == 1


def test_a_state_that_fits_is_taken_in_silence():
    read = []
    restore_state("Probe", {"version": 1, "a": 1}, {"a": read.append})
    assert read == [1]


def test_all_hooks_that_lightning_has_are_among_those_guarded():
    class All(Observer):
        pass

    hooks = [name for name in dir(Callback) if name.startswith("on_") or name in ("teardown", "state_dict")]
    namespace = {name: lambda self, *args, **kwargs: broken() for name in hooks}
    every = type("Every", (Observer,), namespace)
    for name in hooks:
        with pytest.warns(UserWarning, match="Every is off .* in <lambda>"):
            getattr(every(), name)(None, None)


def test_a_checkpoint_saved_after_it_is_off_still_has_what_it_knew():
    class Knowing(Observer):
        known = 0

        def on_train_batch_end(self, *args):
            self.known += 1
            if self.known == 3:
                broken()

        def state_dict(self):
            return {"known": self.known}

    observer = Knowing()
    with pytest.warns(UserWarning, match="Knowing is off"):
        fit(Regression(), observer)
    assert observer.state_dict() == {"known": 3}


def test_a_guard_is_made_once():
    observer = Observer()
    assert observer.guard is observer.guard
