"""One step's gradient and what may be done to it. Tensors in, tensors out."""
