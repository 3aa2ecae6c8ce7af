"""``python -m lightning_gradtools`` is ``gradtools-train``."""

from lightning_gradtools.cli.main import main

if __name__ == "__main__":
    main()
