"""The checks of ``gpu_validate.py``, a file each subject."""
