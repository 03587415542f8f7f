"""The command line ``equiv-probe``; plugins add commands."""
