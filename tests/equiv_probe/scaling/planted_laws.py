"""Losses of runs that follow a known power law, of one variable and of two."""

import numpy as np

SIZES = 10 ** np.linspace(2, 5, 8)
TRUTH = {"E": 0.05, "A": 3.0, "alpha": 0.5}
N, D = np.repeat(10 ** np.linspace(3, 6, 5), 5), np.tile(10 ** np.linspace(2, 5, 5), 5)
JOINT = {"E": 0.05, "A": 3.0, "alpha": 0.4, "B": 2.0, "beta": 0.5}


def losses(noise: float = 0.0, seed: int = 0, sizes: np.ndarray = SIZES) -> np.ndarray:
    scatter = np.random.default_rng(seed).standard_normal(len(sizes))
    return (TRUTH["E"] + TRUTH["A"] * sizes ** -TRUTH["alpha"]) * np.exp(noise * scatter)


def joint(noise: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    law = JOINT["E"] + JOINT["A"] * N ** -JOINT["alpha"] + JOINT["B"] * D ** -JOINT["beta"]
    scatter = np.random.default_rng(seed).standard_normal(len(N))
    return {"N": N, "D": D, "L_total": law * np.exp(noise * scatter)}
