r"""Calculators averaged over rotations.

With rotations ``g_k`` and weights ``w_k`` that do not change from call to call, the averaged energy is

    ``Ē(x) = Σ_k w_k E(g_k x)``,   and so   ``−∇Ē(x) = Σ_k w_k g_kᵀ (−∇E)(g_k x) = Σ_k w_k g_kᵀ F(g_k x)``

by the chain rule if ``F = −∇E``: the average of the rotated-back forces *is* the gradient of the average energy, for
any rotations, and dynamics conserves ``Ē`` plus kinetic energy as well as the calculator's own dynamics conserves its
own. The same holds for strain and stress. It rests on two things. Rotation is about the origin: about the centroid,
which moves with the atoms, a model that depends on where the structure is would leave a term in the net force. And the
rotations stay: with new ones at every call there is no function of the positions of which the forces were the gradient.

The torque, which forces give for free, has zero mean over rotations, and is of no use as a control variate: it is
``−∂_a E``, and ``E_g[E ∂_a E] = ½ E_g[∂_a E²] = 0``, so it is uncorrelated with the energy, and so are their averages
over a randomly rotated design. What could use it has second derivatives of the energy in its forces.
"""
