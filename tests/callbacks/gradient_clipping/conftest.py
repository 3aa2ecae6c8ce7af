import pytest

from lightning_gradtools._lightning.gradient_pass import GradientPass


@pytest.fixture
def reading_is_expensive(monkeypatch):
    """Make the callback treat this CPU as a device that the host would have to wait for."""
    monkeypatch.setattr(GradientPass, "is_free_to_read", False)
