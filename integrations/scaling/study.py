"""The whole study in one command: train every size on every number of structures, then tables, fits and figures.

    python integrations/scaling/study.py [--config small|gpu]

Runs that were stopped are continued, and what is finished is not done again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from train import HERE, Run, Setting, load


def read(name: str) -> dict[str, Any]:
    """A file of `configs`, by its name or path."""
    path = HERE / "configs" / f"{name}.yaml"
    config: dict[str, Any] = yaml.safe_load((path if path.exists() else Path(name)).read_text())
    return config


def plan(config: dict[str, Any]) -> list[Setting]:
    """Every run, the most telling first: all sizes on all structures there are, one size on fewer, longer, and again.

    The rate of learning falls with the root of the width, from that of the configuration at a width of 32.
    """
    common = {key: config[key] for key in ("steps", "batch", "held_out", "precision", "warmup") if key in config}
    counts = sorted(config["structures"], reverse=True)

    def setting(model: dict[str, Any], width: int, structures: int, **others: Any) -> Setting:
        named = {key: value for key, value in model.items() if key not in {"widths", "rate"}}
        own = {**common, **named, "width": model["widths"][width], "structures": structures, **others}
        return Setting(**own, rate=model["rate"] * (32 / own["width"]) ** 0.5)

    repeated, longer, models = config["repeated"], config["longer"], config["models"]
    sizes = range(len(models[0]["widths"]))
    here = repeated["width"]
    cross = [(w, counts[0], {}) for w in sizes] + [(here, d, {}) for d in counts[1:]]
    more = [(longer["width"], counts[0], {"steps": longer["steps"]})]
    again = [(here, d, {"seed": seed}) for d in counts for seed in repeated["seeds"]]
    rest = [(w, d, {}) for d in counts[1:] for w in sizes if w != here]
    count = len(repeated["seeds"])
    cells = cross + more + again[:count] + rest + again[count:]
    return [setting(model, w, d, **others) for w, d, others in cells for model in models]


def train_all(config: dict[str, Any], folder: Path, device: str) -> list[Run]:
    """Train, or continue, every run."""
    settings = plan(config)
    data = load(max(config["structures"]), config["held_out"])
    runs: dict[str, Run] = {}
    for k, one in enumerate(settings):
        longest = replace(one, steps=max(s.steps for s in settings[: k + 1] if s.folder == one.folder))
        runs[one.folder] = Run(longest, folder / one.folder, data, device).train()
        last = runs[one.folder].rows[-1]
        print(
            f"{k + 1}/{len(settings)} {one.folder}: step {last['step']}, {last['seconds']:.0f} s, "
            f"L_total {last['L_total']:.4g}, share {100 * last['share']:.2g} %",
            flush=True,
        )
    return list(runs.values())


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    train_all(read(args.config), HERE / "runs" / args.config, args.device)


if __name__ == "__main__":
    main()
