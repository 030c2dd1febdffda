"""plan: the real data set on paper. From the data set's counts, the scripts' settings, FLOPs counted on the real networks and rates measured on small
data: GB, hours, what binds and which flag changes it, for each stage on four machines. Nothing of it was measured on the data set itself.

    python tools/benchmark.py plan
    python tools/benchmark.py plan --no-write-slices --workers 16 --compile
    python tools/benchmark.py plan --encoder vit_base_patch16_dinov3.lvd1689m --crop-size 384
"""

from dataclasses import replace

from tools.count_flops import Network
from tools.plan_costs import (
    ALL,
    BESIDES,
    COPIES,
    SINGLE,
    Device,
    Plan,
    Row,
    Total,
    array_bytes,
    best_and_last_bytes,
    devices,
    feature_bytes,
    networks_of,
    processor_peak,
    rows_of,
    totals,
)

CHANGES = {  # what a resource that binds needs
    "cores": "more --workers, --shard on several machines; end to end, where one thread reads a fold's DICOM, by several folds side by side",
    "disk": "a faster disk, --no-write-slices",
    "FLOPs": "a smaller --encoder or --crop-size (training: --compile; features for hard negatives alone: --series held-out)",
    "launches": "--compile, or one fold a GPU, side by side, instead of each on all",
}
WHAT_IF = {
    "--workers 16": {"workers": 16},
    "--no-write-slices": {"write_slices": False},
    "--compile": {"compile": True},
    "--crop-size 384": {"crop_size": 384},
}


def plan(config: Plan) -> list[Row]:
    """The stages in order with what they cost on each machine; printed as a table with totals and formulas."""
    machines = devices(1e12 * config.laptop_tflops if config.laptop_tflops else processor_peak())
    networks = networks_of(config)
    rows = rows_of(config, networks, machines)
    show_header(config, networks[0])
    show_table(rows, machines, config.folds)
    for flag, change in WHAT_IF.items():
        changed = replace(config, **change)
        if changed == config:
            continue
        show_totals({f"all, {flag}": totals(rows_of(changed, networks_of(changed), machines), config.folds)[ALL]})
    show_formulas(config, machines)
    show_binding(rows, machines, config.folds)
    show_room(config, networks, machines)
    return rows


def human(seconds: float) -> str:
    unit, size = next(((unit, size) for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)) if seconds >= size), ("s", 1.0))
    value = seconds / size
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.0f}" if count >= 1e10 else f"{count / 1e9:.2g}"


def show_header(config: Plan, slice_cnn: Network) -> None:
    data = config.data
    print(f"An estimate, not a measurement: {data.series:,} series, {data.slices:,} slices, {data.dicom_gb:.0f} GB of DICOM, {data.compressed:.0%} compressed")
    print(f"{config.encoder} at {config.crop_size}: {slice_cnn.forward / 1e9:.1f} GFLOP an image, {slice_cnn.training / 1e9:.1f} in training (counted)")
    print()


def show_table(rows: list[Row], machines: list[Device], folds: int) -> None:
    show_line("stage", "GB read", "GB written", [device.name for device in machines])
    for stage, costs in rows:
        cells = [f"{human(seconds)}, {name} bind{'s' * (name == 'disk')}" for seconds, name in costs.values()]
        show_line(stage.name, gigabytes(stage.read), gigabytes(stage.written), cells)
    show_totals(totals(rows, folds))


def show_totals(found: dict[str, Total]) -> None:
    for what, total in found.items():
        show_line(what, gigabytes(total.read), gigabytes(total.written), [human(value) for value in total.seconds.values()])


def show_line(what: str, read: str, written: str, cells: list[str]) -> None:
    print(f"{what:23s} {read:>8s} {written:>10s}   " + " ".join(f"{cell:23s}" for cell in cells).rstrip())


def show_formulas(config: Plan, machines: list[Device]) -> None:
    laptop, fastest = machines[0], machines[-1]
    print(f"""
All times are estimates: of what is done at once the slowest counts, what follows one another is added, starting a script is left out.
cores     core seconds / processes, of which the machine has a core each: slices / (slices/s a core) + compressed slices x {config.decode_ms:g} ms;
          samples / ({config.loader_rate:g} samples/s a process)
disk      bytes read / reading rate + bytes written / writing rate, nothing cached (rates assumed)
FLOPs     items x FLOP an item / (GPUs x peak x share of it that is reached): shares assumed; peaks are the vendors' for dense bfloat16,
          the laptop's is that of a matrix product on all cores of this processor, {1e-12 * laptop.peak:.2g} TFLOP/s (--laptop-tflops for another)
launches  training steps x {1000 * fastest.launch:g} ms, which the host needs to start the kernels of one, however small (assumed)
The first two stages once, the others for each of {config.folds} folds; end to end and the evaluations use one GPU, training and extraction all.""")


def show_binding(rows: list[Row], machines: list[Device], folds: int) -> None:
    """Of each machine the stage that takes most of all folds, and what would change it."""
    print()
    for device in machines:
        seconds = {row.stage.name: row.costs[device.name].seconds * (folds if row.stage.each_fold else 1) for row in rows}
        longest = max(rows, key=lambda row: seconds[row.stage.name])
        binding = longest.costs[device.name].binding
        share = seconds[longest.stage.name] / sum(seconds.values())
        print(f"{device.name}: {longest.stage.name} is {share:.0%} of all folds, by its {binding}; less by {CHANGES[binding]}")


def show_room(config: Plan, networks: tuple[Network, Network], machines: list[Device]) -> None:
    """Disk for all, and memory for a batch of training."""
    slice_cnn = networks[0]
    once = 1e9 * config.data.dicom_gb + sum(array_bytes(config))
    fold = feature_bytes(config, slice_cnn.channels) + sum(sum(best_and_last_bytes(network)) + SINGLE * network.parameters for network in networks)
    training = slice_cnn.kept + COPIES * SINGLE * slice_cnn.parameters
    tight = [device.name for device in machines if device.gpus and device.memory < BESIDES * training]
    spared = f" ({gigabytes(once - array_bytes(config)[1])} with --no-write-slices)" if config.write_slices else ""
    print(f"Disk needed: {gigabytes(once)} GB{spared} and {gigabytes(fold)} a fold, {gigabytes(once + config.folds * fold)} for {config.folds}")
    print(f"GPU memory to train stage 1, batch {config.batch_size}: at least {gigabytes(training)} GB", end="")
    print(f"; may be too much for a {', '.join(tight)}: --accumulate 4 or --checkpointing" if tight else "")
