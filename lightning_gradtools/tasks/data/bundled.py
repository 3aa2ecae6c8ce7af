"""Access to the data sets that come with scikit-learn."""

from typing import Any

from lightning_gradtools.arguments import ArgumentError


def load_bundled(name: str, **arguments: Any) -> Any:
    """Return what ``sklearn.datasets.load_<name>`` returns.

    Raises:
        ArgumentError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ArgumentError(f"the {name} data needs scikit-learn: pip install 'lightning-gradtools[cli]'") from error
    return getattr(datasets, f"load_{name}")(**arguments)
