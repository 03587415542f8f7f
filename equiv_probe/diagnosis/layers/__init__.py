"""Where in a network does symmetry break? The equivariance error of every submodule's output, and what each adds."""
