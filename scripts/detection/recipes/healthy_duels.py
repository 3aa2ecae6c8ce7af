"""Several optimizers, stepped by hand: critics without bounds, two networks that take turns."""

from detection import data
from detection.duels import (
    ActorCritic,
    Alternating,
    Clipped,
    Hinge,
    LeastSquares,
    Penalised,
    Reversed,
    SharpnessAware,
    Uncooperative,
)
from detection.recipe import Recipe

RECIPES = [
    Recipe(
        "wasserstein_penalised", Penalised, data.ring, "wasserstein_penalised", steps=1200, hard=True, half="fourth"
    ),
    Recipe("wasserstein_clipped", Clipped, data.clusters, "wasserstein_clipped", steps=900, hard=True, half="fourth"),
    Recipe("hinge_gan", Hinge, data.arc, "hinge_gan", steps=600, hard=True, half="fourth"),
    Recipe("least_squares_gan", LeastSquares, data.ring, "least_squares_gan", steps=800, hard=True, half="fourth"),
    Recipe("actor_critic", ActorCritic, data.waves, "actor_critic", steps=600, hard=True, half="fourth"),
    Recipe("alternating_factors", Alternating, data.low_rank, "alternating_factors", hard=True, half="fourth"),
    Recipe("sharpness_aware", SharpnessAware, data.digits, "sharpness_aware", steps=250, hard=True, half="fourth"),
    Recipe("reversed_gradient", Reversed, data.two_sources, "reversed_gradient", hard=True, half="fourth"),
    Recipe("encoder_against_probe", Uncooperative, data.digits, "mlp_adam", steps=600, hard=True, half="fourth"),
]
