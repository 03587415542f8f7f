"""Hooks and transforms that rotate, and checks of somebody's own augmentation."""
