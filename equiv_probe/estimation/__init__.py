"""Pure functions from rotated-back outputs to numbers: losses, jackknife, sums, intervals, verdict, spectrum."""
