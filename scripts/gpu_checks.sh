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

# 1. correctness: the tests marked gpu (parity of the backends on CUDA and with the CPU, a training run, resume)
"$python" -m pytest -m gpu --timeout 600 | tee "$out/tests.txt"

# 2. the default run, three seeds
for seed in 1 2 3; do
    "$python" train.py device=cuda seed=$seed hydra.run.dir="$out/default_seed$seed" | tee "$out/default_seed$seed.txt"
done

# 3. time and memory of a training step and of energy and forces, against mace-torch in the same process run
"$python" -m msmlff.app benchmark --device cuda --out "$out" | tee "$out/benchmark.txt"

# 4. choosing frames: descriptor computed on the GPU in a cache of its own, then from the cache
export MSMLFF_CACHE=$(mktemp -d)
for attempt in computed cached; do
    /usr/bin/env time -p "$python" -m msmlff.app distill device=cuda selector=d_optimal hydra.run.dir="$out/distill_$attempt" \
        > "$out/distill_$attempt.txt" 2>&1
done
unset MSMLFF_CACHE

# 5. selectors compared by a network, as train.py trains it
"$python" -m msmlff.app compare device=cuda learner=network selector=full,random,cpd,fps,fps_environments,direct,d_optimal \
    budgets=[25,100,400] selection_seed=1,2,3,4,5,6 hydra.launcher.n_jobs=4 \
    hydra.sweep.dir="$out/comparison" | tee "$out/comparison.txt"

# 6. the Triton kernels one by one against the GPU's ceilings, other tiles; the backends' whole operations and, where
#    it is installed, cuEquivariance's own
"$python" scripts/gpu_kernels.py --sweep --out "$out"

# 7. the default run on the optional backend, where it can run
if "$python" -c "from msmlff.nn.ops import check_backend; check_backend('cuequivariance', 'cuda')" 2> "$out/cuequivariance.txt"; then
    "$python" train.py device=cuda ops.backend=cuequivariance hydra.run.dir="$out/cuequivariance" | tee "$out/cuequivariance.txt"
fi

# 8. steps of small systems captured as CUDA graphs, and runs with and without
"$python" scripts/profile_steps.py --device cuda | tee "$out/steps.txt"
for compile in none graph; do
    "$python" train.py device=cuda training.compile=$compile training.workers=2 hydra.run.dir="$out/compile_$compile" \
        | tee "$out/compile_$compile.txt"
done

# 9. growth to a million atoms of nickel, whole and in pieces; then dynamics of 100,000 and of 1,000,000 atoms of hydrogen
"$python" -m msmlff.app benchmark growth --device cuda --memory-gib 40 --sizes 1000 10000 100000 1000000 --out "$out" | tee "$out/growth.txt"
pool=msmlff/data/pools/dense_hydrogen/test.extxyz.gz       # 128 atoms a frame
for repeat in 9 20; do                                     # 93,312 and 1,024,000 atoms
    "$python" -m msmlff.app simulate model="$out/default_seed1" system="$pool" repeat=[$repeat,$repeat,$repeat] device=cuda \
        ensemble=nvt temperature=1000 steps=100 output.every=100 hydra.run.dir="$out/md_$repeat" | tee "$out/md_$repeat.txt"
done
"$python" -m msmlff.app benchmark md --device cuda --memory-gib 40 --sizes 1000 10000 100000 1000000 --out "$out" | tee "$out/md.txt"
"$python" scripts/benchmark_md.py "$out/default_seed1" "$pool" --device cuda --out "$out" | tee "$out/benchmark_md.txt"
