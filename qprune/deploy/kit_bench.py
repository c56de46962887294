"""Latency of the ONNX files beside this script, on the machine that runs it. Needs Python >= 3.9, numpy and onnxruntime.

python bench.py [--batch 1,32] [--threads 1] [--rounds 15] [--output latency.csv]: the first three as they were given to
`qprune bench --kit` where they are left out.

Files are warmed up and timed in turn, round by round; a time is the median over rounds, with its quartiles, and a speedup that
against the dense FP32 network in the same rounds. That network is also timed by itself before, between and after: `drift` is
the largest of those times over the least. Each file's logits are held against those that manifest.json's makers got.
`qprune bench DIR --import latency.csv --as NAME` takes the table in. Nothing of the machine's name goes into it.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

SAMPLE_SECONDS = 0.02  # a sample is at least so long: as many calls as that takes
PROFILED = 20  # calls under ONNX Runtime's profiler
FULL_RANGE = ("session.x64quantprecision", "1")  # else sums of 8-bit products saturate on x86 processors without VNNI
AGREEMENT = 0.9  # of the images' top-1; below it a file computes something else here
INTEGER = {
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
}  # fmt: skip
FLOAT = {
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "NhwcFusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "MatMulNBits",
}
COLUMNS = (
    "cell", "precision", "network_sha256", "runtime", "arithmetic", "batch", "threads", "latency_ms", "latency_ms_q1",
    "latency_ms_q3", "images_per_second", "dense_latency_ms", "speedup", "speedup_q1", "speedup_q3", "rounds", "drift",
    "agreement", "largest_difference", "machine", "versions",
)  # fmt: skip


def interleaved(actions, rounds):
    """Seconds of one call of each action (name -> function) in each round, the actions in turn, each warmed up first."""
    repeats = {}
    for name, action in actions.items():
        action()
        start = time.perf_counter()
        action()
        repeats[name] = max(1, round(SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                action()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return seconds


def quartiles(values):
    """(first quartile, median, third)."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def figures(own, batch, reference=None):
    """Columns of a network's seconds per round: latency, and its speedup against a reference in the same rounds."""
    low, middle, high = quartiles(own)
    found = {"latency_ms": 1e3 * middle, "latency_ms_q1": 1e3 * low, "latency_ms_q3": 1e3 * high}
    found["images_per_second"] = batch / middle
    if reference is not None:
        low, middle, high = quartiles([theirs / mine for mine, theirs in zip(own, reference)])  # noqa: B905 (Python 3.9 has no strict)
        found |= {"speedup": middle, "speedup_q1": low, "speedup_q3": high}
    return found


def with_drift(actions, reference, rounds):
    """(seconds as interleaved gives them, drift): the reference is also timed by itself at the start, in the middle, at the end."""

    def alone():
        return statistics.median(interleaved({"": actions[reference]}, 3)[""])

    times = [alone()]
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for part in ((rounds + 1) // 2, rounds // 2):
        if part:
            for name, values in interleaved(actions, part).items():
                seconds[name] += values
            times.append(alone())
    return seconds, max(times) / min(times)


def open_session(path, threads, profile=None):
    """An ONNX Runtime session on the CPU; profile: where its profile goes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry(*FULL_RANGE)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def profile_of(path, images, threads):
    """What ONNX Runtime's own profile says: {"integer": layers on integer kernels, "layers", "outside": share of the time in
    nodes that are no convolutions, linear layers or matmuls, "most": the kind of these that takes most, "overhead": share of a
    call that is in no node}."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, threads, Path(folder) / "profile")
        name = session.get_inputs()[0].name
        for _ in range(PROFILED):
            session.run(None, {name: images})
        with open(session.end_profiling()) as file:
            events = json.load(file)
    kinds: dict[str, str] = {}
    times: dict[str, int] = {}
    whole = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"]["op_name"]
            kinds[event["name"]] = kind
            times[kind] = times.get(kind, 0) + event["dur"]
        elif event["name"] == "model_run":
            whole.append(event["dur"])
    integer = sum(kind in INTEGER for kind in kinds.values())
    others = {kind: spent for kind, spent in times.items() if kind not in INTEGER | FLOAT}
    total = sum(times.values()) or 1
    return {
        "integer": integer,
        "layers": integer + sum(kind in FLOAT for kind in kinds.values()),
        "outside": sum(others.values()) / total,
        "most": max(others, key=lambda kind: others[kind]) if others else "",
        "overhead": max(0.0, 1 - total / max(sum(whole), 1)),
    }


def reasons(profile, quantized, widths):
    """Why a network isn't faster, as sentences. quantized: whether its weights are integers; widths: output channels by layer."""
    found = []
    integer, layers = profile["integer"], profile["layers"]
    if quantized and integer < layers:
        found.append(f"{layers - integer} of {layers} layers multiply in FP32, {integer} on integer kernels")
    for size in (8, 16):
        uneven = sum(width % size > 0 for width in widths.values())
        if uneven:
            found.append(
                f"{uneven} of {len(widths)} widths are no multiples of {size}, to which kernels fill up (prune.round_to)"
            )
            break
    if profile["outside"] > 0.2:
        found.append(
            f"{profile['outside']:.0%} of the time in nodes is outside convolutions and linear layers, most of it in {profile['most']}"
        )
    if profile["overhead"] > 0.2:
        found.append(
            f"{profile['overhead']:.0%} of a call is the runtime's own, in no node: smaller layers don't change that"
        )
    return found


def arithmetic(weights, profile):
    """How a file multiplies here. weights: float, half or integer."""
    if profile["integer"]:
        return f"integer in {profile['integer']} of {profile['layers']} layers"
    return "FP32" if weights == "float" else f"{weights} weights, FP32 products"


def processor():
    """Name of the processor."""
    found: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                found.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    named = [found[key] for key in ("model name", "Model", "Hardware") if found.get(key)]
    return named[0] if named else platform.processor() or platform.machine()


def numbers(version):
    """ "1.19.2" -> (1, 19)."""
    return tuple(int(part) for part in version.split(".")[:2])


def table(manifest, folder, batches, threads, rounds):
    """Rows as in COLUMNS; prints each, and why it isn't faster."""
    import numpy
    import onnxruntime

    data = numpy.load(folder / "expected.npz")
    images = data["images"].astype(numpy.float32) / 255
    entries, sessions, checks = manifest["files"], {}, {}
    for number, entry in enumerate(entries):
        content = (folder / entry["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            sys.exit(
                f"error: {entry['file']} is not the file that the kit was made with (wrong checksum); copy the kit again"
            )
        session = sessions[entry["cell"]] = open_session(folder / entry["file"], threads)
        found = session.run(None, {session.get_inputs()[0].name: images})[0]
        expected = data[f"logits_{number}"]
        agreement = float((found.argmax(1) == expected.argmax(1)).mean())
        checks[entry["cell"]] = agreement, float(numpy.abs(found - expected).max())
        if agreement < AGREEMENT:
            print(
                f"warning: {entry['cell']}: top-1 is as expected on {agreement:.0%} of the images; its times are of other numbers"
            )
    machine = f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()} {platform.machine()}"
    versions = f"python={platform.python_version()} numpy={numpy.__version__} onnxruntime={onnxruntime.__version__}"
    versions += f" providers={'+'.join(onnxruntime.get_available_providers())}"
    print(f"{machine}\n{versions}; {threads} thread(s), {rounds} rounds")
    profiles = {entry["cell"]: profile_of(folder / entry["file"], images[:1], threads) for entry in entries}
    rows, reference = [], next(entry["cell"] for entry in entries if entry["dense"])
    for batch in batches:
        some = images[numpy.arange(batch) % len(images)]

        def call(session, some=some):
            name = session.get_inputs()[0].name
            return lambda: session.run(None, {name: some})

        seconds, drift = with_drift({cell: call(session) for cell, session in sessions.items()}, reference, rounds)
        print(
            f"batch {batch}: the reference's times by itself differ by {drift:.2f}x"
            + (" (others use this machine)" if drift > 1.1 else "")
        )
        for entry in entries:
            cell = entry["cell"]
            agreement, largest = checks[cell]
            row = {
                "cell": cell,
                "precision": entry["precision"],
                "network_sha256": entry["network_sha256"],
                "runtime": "onnxruntime",
                "arithmetic": arithmetic(entry["weights"], profiles[cell]),
                "batch": batch,
                "threads": threads,
                **figures(seconds[cell], batch, seconds[reference]),
                "dense_latency_ms": 1e3 * statistics.median(seconds[reference]),
                "rounds": rounds,
                "drift": drift,
                "agreement": agreement,
                "largest_difference": largest,
                "machine": machine,
                "versions": versions,
            }
            rows.append(row)
            print(
                f"  {row['latency_ms']:8.3f} ({row['latency_ms_q1']:.3f}..{row['latency_ms_q3']:.3f}) ms  "
                f"{row['speedup']:5.2f}x  {cell}: {row['arithmetic']}"
            )
    for entry in entries:
        for reason in reasons(profiles[entry["cell"]], entry["weights"] == "integer", entry["widths"]):
            print(f"{entry['cell']}: {reason}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(__file__).resolve().parent
    manifest = json.loads((folder / "manifest.json").read_text())
    parser.add_argument("--batch", default=manifest["batch"], help="batch sizes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=manifest["threads"], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=manifest["rounds"], help="(default: %(default)s)")
    parser.add_argument("--output", default="latency.csv", help="(default: %(default)s)")
    given = parser.parse_args()
    try:
        import numpy  # noqa: F401
        import onnxruntime
    except ImportError as error:
        sys.exit(f"error: {error}; install what is needed: pip install numpy onnxruntime")
    sizes = given.batch.split(",")
    if not all(size.strip().isdecimal() and int(size) for size in sizes) or given.threads < 1 or given.rounds < 1:
        sys.exit("error: --batch, --threads and --rounds are whole numbers from 1 on, such as --batch 1,32")
    try:
        open(given.output, "a").close()
    except OSError as error:
        sys.exit(f"error: --output {given.output} can't be written: {error.strerror}")
    needed = manifest["least_onnxruntime"]
    if numbers(onnxruntime.__version__) < numbers(needed):
        sys.exit(f"error: these files need ONNX Runtime {needed} or newer, and {onnxruntime.__version__} is installed")
    rows = table(manifest, folder, [int(size) for size in sizes], given.threads, given.rounds)
    with open(given.output, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"-> {given.output}")


if __name__ == "__main__":
    main()
