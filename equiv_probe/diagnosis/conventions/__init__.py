"""Is it a convention: which fixed change of an output's, or an input's, components makes the model equivariant?"""
