"""On a torch from which torch.ao is gone, int8 says what to do, and all else works."""

import subprocess
import sys
import textwrap

SCRIPT = """
    import sys, torch, torchvision  # torch itself still imports some of it
    for name in [name for name in sys.modules if name.startswith("torch.ao")]:
        sys.modules[name] = None
    sys.modules |= dict.fromkeys(["torch.ao", "torch.ao.quantization", "torch.ao.nn.quantized"])
    import qprune
    from torch import nn
    from qprune.registry.errors import UserError
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    data = torch.rand(32, 1, 8, 8), torch.randint(0, 3, (32,))
    for precision in ("fp16", "w8a8"):
        quantized = qprune.quantize(model, *data, precision, updates=2)
        print(qprune.count_cost(quantized, (1, 8, 8)).gbops)
    try:
        qprune.quantize(model, *data, "int8", updates=2)
    except UserError as error:
        print(error)
"""


def test_int_8_alone_is_missing():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    half, eight, said = done.stdout.splitlines()
    macs = 9 * 4 * 36 + 144 * 3
    assert float(half) == macs * 16 * 16 / 1e9 and float(eight) == macs * 8 * 8 / 1e9
    assert "pip install 'torch==2." in said and "w8a8" in said
