#!/usr/bin/env bash
# Everything that waits for a CUDA GPU, in one go: tests, default training, step times. Figures go to benchmarks/.
#   scripts/gpu_checks.sh [OUT]          (needs the environment of `make install`, torch with CUDA)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/gpu}
python=${PYTHON_BIN:-.venv/bin/python}
mkdir -p "$out"

"$python" - <<'PY'
import sys, torch
sys.exit(0 if torch.cuda.is_available() else "torch sees no CUDA GPU: nothing to check")
PY

{
    date -u +%Y-%m-%d
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$python" -c "import torch; print('torch', torch.__version__, 'cuda', torch.version.cuda)"
} | tee "$out/hardware.txt"

# 1. correctness: the tests marked gpu (parity of CPU and CUDA, a training run, resume)
"$python" -m pytest -m gpu --timeout 600 | tee "$out/tests.txt"

# 2. the default run, three seeds
for seed in 1 2 3; do
    "$python" train.py device=cuda seed=$seed hydra.run.dir="$out/default_seed$seed" | tee "$out/default_seed$seed.txt"
done

# 3. time and memory of a training step and of energy and forces, against mace-torch in the same process run
"$python" -m msmlff.app benchmark --device cuda --out "$out" | tee "$out/benchmark.txt"
