import signal

import pytest

from lightning_gradtools.interrupts import held_interrupts, raise_held_interrupt


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_comes_at_the_end_and_the_body_runs_to_it():
    reached = []

    def body():
        with held_interrupts():
            interrupt()
            reached.append("end")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert reached == ["end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_can_be_taken_at_a_moment_of_the_bodys_choosing_and_once():
    with held_interrupts():
        raise_held_interrupt()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            raise_held_interrupt()
        raise_held_interrupt()
    raise_held_interrupt()


def test_inside_another_it_ends_with_the_outer_one():
    reached = []

    def body():
        with held_interrupts():
            with held_interrupts():
                interrupt()
                reached.append("inner")
            reached.append("outer")

    with pytest.raises(KeyboardInterrupt):
        body()
    assert reached == ["inner", "outer"]


def test_an_error_of_the_body_comes_first():
    def body():
        with held_interrupts():
            interrupt()
            raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        body()
