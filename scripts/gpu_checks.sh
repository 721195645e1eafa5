#!/usr/bin/env bash
# What waits for a CUDA GPU, in sections, the figures that matter most first. Figures go to OUT.
#
#   scripts/gpu_checks.sh [OUT] [SECTION...]     OUT: benchmarks/gpu; relative to the repository
#   scripts/gpu_checks.sh --help                 the sections, and the minutes each is given at most
#
# Without SECTION all run whose OUT/SECTION.txt is not there yet; a section that is named runs in any case.
# All but the comparison are given ten minutes or less, so they can be run one a time. A section that fails or
# is ended leaves OUT/SECTION.failed.txt, the others run all the same, and the exit code is 1. Run it again:
# dynamics, growth, kernels, tiles, trainings and the comparison go on where they were ended (to measure them
# again, remove their files).
#
# PYTHON_BIN: the Python to use (.venv/bin/python), with torch for CUDA and the packages of pyproject.toml.
# TRITON_CACHE_DIR: a folder that lasts, where the machine does not: compiling the kernels takes minutes.
# TINY=1: a rehearsal of all sections on the CPU in small, which measures nothing.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON_BIN:-.venv/bin/python}

sections='
tests        10  parity of the backends on CUDA and with the CPU, a training run, resume: the tests marked gpu
steps_108    10  nickel, 5 frames of 108 atoms: MACE (and its CUDA graphs), mace-torch, mace-torch with cuEquivariance
steps_1000   10  the same with one frame of 1,000 atoms: training steps, energy and forces
steps_10000  10  the same with one frame of 10,000 atoms
million      10  dynamics of 100,000 and 1,000,000 atoms, MS-MACE and MACE: microseconds an atom and step
md_peers     10  dynamics of 1,000 and 10,000 atoms against ASE with mace-torch, and with cuEquivariance
kernels      10  every Triton kernel against the measured ceilings of the GPU, and what bounds it
steps_tf32   10  steps_1000 with dense products in TF32, as our training has them
small        10  steps of small systems: operators, milliseconds, replayed as CUDA graphs
growth       10  energy and forces of 1,000 to 1,000,000 atoms of nickel, whole and in pieces
default_1    10  the default training, seed 1
md_engine    10  the engine in a step of dynamics, its share and the drift (needs default_1)
hydrogen     10  dynamics of 93,312 and 1,024,000 atoms of hydrogen with the trained model (needs default_1)
compile      10  the default training without and with CUDA graphs
cueq_backend 10  the default training on ops.backend=cuequivariance
default_2    10  the default training, seed 2
default_3    10  the default training, seed 3
distill      10  choosing frames: the descriptor computed on the GPU, and from the cache
tiles        10  other tiles of each kernel of the convolution; one a time: scripts/gpu_kernels.py --sweep KERNEL
comparison   90  selectors compared by a network, trained as train.py trains it
'

case "${1:-}" in
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' scripts/gpu_checks.sh
        echo "Sections, minutes at most:"
        echo "$sections"
        exit 0
        ;;
esac
out=${1:-benchmarks/gpu}
shift || true

# What differs in a rehearsal.
device=cuda rounds=(--rounds 2 --repeats 20) graph=(--graph) hyperparameters=()
steps_sizes=(1000 10000) million=(100000 1000000) peers=(1000 10000) growth=(1000 10000 100000 1000000)
kernels=() short=() repeats=(9 20) md_steps=100 drift=2 selectors=full,random,cpd,fps,fps_environments,direct,d_optimal
budgets=[25,100,400] seeds=1,2,3,4,5,6 jobs=4
threads=$(($(nproc) < 8 ? $(nproc) : 8))
if [ -n "${TINY:-}" ]; then
    device=cpu rounds=(--rounds 1 --repeats 1 --tcmalloc none --batch 1) graph=() threads=1
    hyperparameters=(--channels 4 --hidden-l-max 0 --l-max 1 --cutoff 3)
    steps_sizes=(32 108) million=(32) peers=(32) growth=(32 108) kernels=(--interpret)
    short=(training.steps=4 training.validations=1 training.schedule.warmup_steps=1 gate=false) repeats=(1) md_steps=2 drift=0.005
    selectors=random budgets=[4] seeds=1 jobs=1
fi

benchmark() { "$python" -m msmlff.app benchmark "$@"; }

steps() { # NAME=VALUE options of the setting
    benchmark --system nickel --device "$device" --out "$out" "${rounds[@]}" "${graph[@]}" "${cueq_peer[@]}" \
        "${hyperparameters[@]}" "$@"
}

dynamics() { # codes, then --sizes
    benchmark md --systems nickel --device "$device" --out "$out" --memory-gib "$memory" --threads "$threads" \
        --limit 280 "${hyperparameters[@]}" --codes "$@"
}

train() { # FOLDER OVERRIDE...: begun, or continued where it was ended
    local folder=$1
    shift
    if grep -qs '"status": "finished"' "$folder/record.json"; then
        echo "$folder: finished before"
    elif [ -f "$folder/checkpoints/last.ckpt" ]; then
        "$python" train.py resume="$folder"
    else
        "$python" train.py device="$device" hydra.run.dir="$folder" "${short[@]}" "$@"
    fi
}

pool=msmlff/data/pools/dense_hydrogen/test.extxyz.gz # 128 atoms a frame

section_tests() { "$python" -m pytest -m gpu --timeout 600; }
section_steps_108() { steps; }
section_steps_1000() { steps --batch 1 --atoms "${steps_sizes[0]}"; }
section_steps_10000() { steps --batch 1 --atoms "${steps_sizes[1]}"; }
section_steps_tf32() { steps --batch 1 --atoms "${steps_sizes[0]}" --tf32; }
section_million() { dynamics msmace msmlff --sizes "${million[@]}"; }
section_md_peers() { dynamics msmlff mace-torch "${cueq_md[@]}" --sizes "${peers[@]}"; }
section_kernels() { "$python" scripts/gpu_kernels.py "${kernels[@]}" --out "$out"; }
section_tiles() { "$python" scripts/gpu_kernels.py "${kernels[@]}" --sweep --out "$out"; }
section_small() { "$python" scripts/profile_steps.py --device "$device"; }
section_growth() {
    benchmark growth --device "$device" --memory-gib "$memory" --threads "$threads" --limit 280 \
        --sizes "${growth[@]}" --out "$out"
}
section_default_1() { train "$out/default_seed1" seed=1; }
section_default_2() { train "$out/default_seed2" seed=2; }
section_default_3() { train "$out/default_seed3" seed=3; }
section_compile() {
    local choices=(none graph) choice
    [ "$device" = cuda ] || choices=(none)
    for choice in "${choices[@]}"; do
        train "$out/compile_$choice" training.compile="$choice" training.workers=2
    done
}
section_cueq_backend() {
    if [ -n "$cueq_missing" ]; then
        echo "$cueq_missing"
        return 1
    fi
    train "$out/cuequivariance" ops.backend=cuequivariance
}
section_md_engine() {
    "$python" scripts/benchmark_md.py "$out/default_seed1" "$pool" --device "$device" --steps "$md_steps" \
        --drift-ps "$drift" --out "$out"
}
section_hydrogen() {
    local n
    for n in "${repeats[@]}"; do
        rm -rf "$out/hydrogen_$n"
        "$python" -m msmlff.app simulate model="$out/default_seed1" system="$pool" repeat="[$n,$n,$n]" \
            device="$device" ensemble=nvt temperature=1000 steps="$md_steps" output.every=100 \
            hydra.run.dir="$out/hydrogen_$n"
    done
}
section_distill() {
    local attempt cache
    cache=$(mktemp -d)
    for attempt in computed cached; do
        rm -rf "$out/distill_$attempt"
        time MSMLFF_CACHE=$cache "$python" -m msmlff.app distill device="$device" selector=d_optimal \
            hydra.run.dir="$out/distill_$attempt"
    done
    rm -rf "$cache"
}
section_comparison() {
    "$python" -m msmlff.app compare device="$device" learner=network selector="$selectors" budgets="$budgets" \
        selection_seed="$seeds" hydra.launcher.n_jobs="$jobs" hydra.sweep.dir="$out/comparison"
}

# What is installed: checked once, handed to the processes of the sections.
if [ -z "${GPU_CHECKS_SECTION:-}" ]; then
    mkdir -p "$out" || exit 1
    if [ "$device" = cuda ]; then
        "$python" -c 'import sys, torch
sys.exit(0 if torch.cuda.is_available() else "torch sees no CUDA GPU: nothing to check (TINY=1 rehearses)")' \
            || exit 1
    fi
    {
        date -u +%Y-%m-%d
        [ "$device" = cpu ] || nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
        "$python" -c "import torch; print('torch', torch.__version__, 'cuda', torch.version.cuda)"
    } | tee "$out/hardware.txt"
    facts=$("$python" -W ignore - "$device" <<'PY'
import sys

import torch

from msmlff.data.neighbors_device import device_search_available
from msmlff.nn.ops.backends import BACKENDS

device = sys.argv[1]
print(int(0.7 * torch.cuda.mem_get_info()[1] / 2**30) if device == "cuda" else 1)
print(BACKENDS["cuequivariance"].missing(device) or "")
print(BACKENDS["triton"].missing("cuda") or "")
print("" if device_search_available() else "nvalchemi-toolkit-ops is not installed: pip install 'msmlff[cuda]'")
PY
    ) || exit 1
    { read -r memory; read -r cueq_missing; read -r triton_missing; read -r search_missing; } <<< "$facts"
    export memory cueq_missing triton_missing search_missing
fi
cueq_peer=() cueq_md=()
if [ -z "$cueq_missing" ]; then cueq_peer=(--cueq) cueq_md=(mace-cueq); fi

if [ -n "${GPU_CHECKS_SECTION:-}" ]; then # one section, in a process of its own
    set -e
    "section_$GPU_CHECKS_SECTION"
    exit
fi

lacking() { # loudly, at the start and at the end
    local line
    for line in "$cueq_missing|mace-torch with cuEquivariance is not measured, nor our backend of that name" \
        "$triton_missing|our operations run without their kernels, and no figure of ours means anything" \
        "$search_missing|neighbours are searched for on the CPU, which slows dynamics of many atoms"; do
        [ -n "${line%%|*}" ] && printf '\n!!! %s\n!!! Without it %s.\n' "${line%%|*}" "${line##*|}"
    done
    echo
}

minutes_of() { awk -v name="$1" '$1 == name { print $2 }' <<< "$sections"; }

names=("$@")
named=${#names[@]}
((named)) || read -r -d '' -a names <<< "$(awk 'NF { print $1 }' <<< "$sections")"
for name in "${names[@]}"; do
    [ -n "$(minutes_of "$name")" ] || { echo "$name is no section: scripts/gpu_checks.sh --help" >&2; exit 2; }
done

lacking | tee "$out/lacking.txt"
summary='' failed=0
for name in "${names[@]}"; do
    if ((!named)) && [ -f "$out/$name.txt" ]; then
        summary+="$name: there already"$'\n'
        continue
    fi
    minutes=$(minutes_of "$name")
    echo "=== $name (at most $minutes minutes)"
    rm -f "$out/$name.failed.txt"
    start=$SECONDS
    GPU_CHECKS_SECTION=$name timeout -k 30 "${minutes}m" bash scripts/gpu_checks.sh "$out" 2>&1 \
        | tee "$out/$name.running"
    code=${PIPESTATUS[0]}
    if [ "$code" = 0 ]; then
        mv "$out/$name.running" "$out/$name.txt"
        summary+="$name: done in $((SECONDS - start)) s"$'\n'
        continue
    fi
    mv "$out/$name.running" "$out/$name.failed.txt"
    failed=1
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then
        summary+="$name: ENDED after $minutes minutes; run it again"$'\n'
    else
        summary+="$name: FAILED, see $out/$name.failed.txt"$'\n'
    fi
done
echo "=== summary"
lacking
printf '%s' "$summary" | tee "$out/summary.txt"
exit "$failed"
