"""What each column of costs counts, in words: the page's axes and explanations, and the table in the documentation."""

from dataclasses import dataclass

from qprune.analysis.front import MEASURED

LATENCY, FILE_BYTES = "latency_ms", "file_bytes_"


@dataclass(frozen=True)
class CostWords:
    """title: of an axis, with the unit; text: one or two sentences, in Markdown; unit: "bytes", "ms" or ""."""

    title: str
    text: str
    unit: str = ""


COST_WORDS = {
    "bit_gflops": CostWords(
        "bit-weighted GFLOPs",
        "the headline: gflops weighted by w_bits x a_bits / 32², so dense FP32 has bit_gflops = gflops; = gbops / 512",
    ),
    "linear_gflops": CostWords(
        "linearly weighted GFLOPs",
        "weighted by max(w_bits, a_bits) / 32: how the peak rate of matrix units grows",
    ),
    "gbops_acc": CostWords("GBOPs with accumulation", "with accumulation, after UNIQ and Hawks et al. 2021"),
    "relative_bops": CostWords("BOPs relative to dense FP32", "gbops / gbops of the dense FP32 network"),
    "gflops": CostWords(
        "GFLOPs whatever the width",
        "multiply-accumulates of convolutions, linear layers and matmuls of one image; 2 x macs / 1e9. Biases, BN, "
        "activations, pooling and adds count 0",
    ),
    "weight_bytes": CostWords(
        "weights in bytes",
        "of the network as handed over: weights at their width, plus what stays in float (batch normalisation is 4 "
        "floats a map in w4a4; int8 folds it)",
        "bytes",
    ),
    "weight_bits_bytes": CostWords(
        "weights alone in bytes",
        "weights at their width and nothing else, as most papers count the size of a network",
        "bytes",
    ),
    "stored_bytes": CostWords(
        "stored weights in bytes",
        "of an exported file without its graph: weights at the 4, 8, 16 or 32 bits that they are stored in, plus what "
        "stays in float",
        "bytes",
    ),
    "peak_activation_bytes": CostWords(
        "peak of activations in bytes",
        "the largest sum of tensors alive at once in one image's forward pass, at their widths: the memory that a "
        "device needs beside the weights",
        "bytes",
    ),
    LATENCY: CostWords(
        "measured latency in ms",
        "of one image, as qprune bench has measured it on this machine; missing where it wasn't measured",
        "ms",
    ),
} | {
    column: CostWords(
        f"bytes of the {column.removeprefix(FILE_BYTES)} file",
        f"of the file that qprune export --format {column.removeprefix(FILE_BYTES)} has written; missing where it wasn't exported",
        "bytes",
    )
    for column in MEASURED
    if column.startswith(FILE_BYTES)
}


def cost_words(column: str) -> CostWords:
    """The words of a column; `latency_ms@NAME` is what was measured on a device of that name. Raises KeyError."""
    base, _, device = column.partition("@")
    words = COST_WORDS[base]
    if not device:
        return words
    return CostWords(f"{words.title} on {device}", words.text.replace("this machine", device), words.unit)
