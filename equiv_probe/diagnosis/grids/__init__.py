"""Is it the grid: kernels, strides and padding of convolutions on voxels?"""
