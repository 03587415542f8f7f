"""Rotations to average over: Haar sampling, designs, and the plans made of them."""
