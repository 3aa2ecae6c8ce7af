"""A recipe on a training set: its twin and its batch size. Each recipe may set another."""

from functools import partial

from detection import data
from detection.recipe import numbers, trained

on_wine = partial(trained, data=data.wine, twin="wine", batch_size=16)
on_iris = partial(trained, data=data.iris, twin="iris", batch_size=16)
on_cancer = partial(trained, data=data.cancer, twin="breast_cancer", batch_size=32)
on_diabetes = partial(trained, data=data.diabetes, twin="diabetes", batch_size=32, make=numbers)
on_petal = partial(trained, data=data.petal, twin="petal", batch_size=16, make=numbers)
on_waves = partial(trained, data=data.waves, twin="waves", make=numbers)
on_digits = partial(trained, data=data.digits, twin="mlp_adam")
on_parity = partial(trained, data=data.parity, twin="parity")
on_pixels = partial(trained, data=data.pixels, twin="pixels")
on_halves = partial(trained, data=data.half_image, twin="half_image", make=numbers)
on_one_digit = partial(trained, data=data.one_digit, twin="one_digit")
on_images = partial(trained, data=data.digit_images, twin="cnn_plain", batch_size=32)
on_rows = partial(trained, data=data.digit_rows, twin="attention")
on_recall = partial(trained, data=data.recall, twin="recall")
on_bags = partial(trained, data=data.bags, twin="sparse_embedding")
on_text = partial(trained, data=data.short_text, twin="small_gpt", batch_size=24, steps=200)
on_long_text = partial(trained, data=data.text, twin="gpt", batch_size=16, steps=200)
reconstructing = partial(trained, data=data.digit_reconstruction, twin="autoencoder", make=numbers)
coding_wine = partial(trained, data=data.wine_code, twin="wine_code", batch_size=16, make=numbers)
on_spirals = partial(trained, data=data.spirals, twin="spirals", batch_size=48)
on_friedman = partial(trained, data=data.friedman, twin="friedman", make=numbers)
on_sines = partial(trained, data=data.sines, twin="sines", batch_size=48, make=numbers)
