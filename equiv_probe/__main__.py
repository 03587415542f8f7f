"""``python -m equiv_probe`` is the command ``equiv-probe``."""

from equiv_probe.cli.main import main

if __name__ == "__main__":
    main()
