"""The curves of a run as a picture: ns per element over elements a call, both axes logarithmic; a soak over time.

A bar goes from the first to the third quartile of the rounds.
"""

from pathlib import Path

from tests.harness.benchmarks.measure import Median, machine

TITLES = {
    "bulk": "8-byte values, there or back, in one process",
    "processes": "8-byte records from one process to another",
    "soak": "memory and descriptors while millions of elements pass",
}


def draw(path: Path, panels: dict[str, dict[str, dict[float, float]]]) -> None:
    """Writes a PNG with one panel for each benchmark that has curves. Needs matplotlib."""
    # Here, for the tables must do without it; and Figure instead of pyplot needs no display.
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    for axes, (name, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
        for label, points in curves.items():
            flat = len(set(points.values())) == 1
            axes.errorbar(
                list(points),
                list(points.values()),
                yerr=list(zip(*map(_around, points.values()), strict=True)),
                label=label,
                linestyle="--" if flat else "-",
                marker=None if flat else ".",
                elinewidth=1,
            )
        axes.set_title(TITLES[name], fontsize=10)
        axes.legend(fontsize=7)
        axes.grid(visible=True, alpha=0.3)
        axes.set_yscale("log")
        if name == "soak":
            axes.set_xlabel("seconds")
            continue
        batches = sorted({batch for points in curves.values() for batch in points})
        axes.set_xscale("log", base=4)
        axes.set_xticks(batches, list(map(str, batches)), fontsize=8)
        axes.set_xlabel("elements a call")
        axes.set_ylabel("ns per element")
    figure.suptitle(machine(), fontsize=8)
    figure.savefig(path, dpi=75, pil_kwargs={"optimize": True})


def _around(value: float) -> tuple[float, float]:
    """How far the quartiles are below and above; what was measured once has none."""
    low, high = value.quartiles if isinstance(value, Median) else (value, value)
    return value - low, high - value
