#!/usr/bin/env bash
# Multiscale models against the peers' at equal steps: errors of both, then the time of a training step against
# mace-torch and nequip themselves. Started again, it goes on. Time on an idle machine.
#   scripts/matched_study.sh DATA OUT [NEQUIP_PYTHON]
#       DATA: folder with organics_gfn2xtb and dense_hydrogen_pbe; NEQUIP_PYTHON: a Python that has nequip
set -euo pipefail
data=$(cd "${1:?folder with organics_gfn2xtb and dense_hydrogen_pbe}" && pwd)
mkdir -p "${2:?folder for the runs}"
out=$(cd "$2" && pwd)
nequip=${3:-}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}

train() { # POOL NAME STEPS, then overrides
    "$python" "$root/train.py" -m data=d_optimal_200 "seed=${SEEDS:-1,2,3}" "threads=${THREADS:-1}" logger=files report=false gate=false \
        "training.steps=$3" training.validations=5 hydra/launcher=joblib "hydra.launcher.n_jobs=${JOBS:-2}" \
        "hydra.sweep.dir=$out/$1/$2" "hydra.sweep.subdir=seed\${seed}" "${@:4}"
}

# mace-torch's own hyperparameters (our MACE has its numbers) and two scales; NequIP the same way
study() { # POOL STEPS CUTOFF BEYOND SHORT LONG CHANNELS, then overrides of the pool
    local pool=$1 steps=$2 cutoff=$3 beyond=$4 short=$5 long=$6 channels=$7
    shift 7
    train "$pool" mace "$steps" model=mace "model.cutoff=$cutoff" model.l_max=3 model.hidden_l_max=1 \
        model.channels=128 "model.radial_mlp=[64,64,64]" "$@"
    train "$pool" msmace "$steps" model=msmace "model.channels=$channels" model.hidden_l_max=1 \
        "model.scales=[{cutoff: $short, channels: $channels, l_max: 3, radial_mlp: [64, 64, 64]}, {cutoff: $long, channels: 16, l_max: 1, radial_mlp: [16, 8]}]" "$@"
    train "$pool" nequip "$steps" model=nequip "model.cutoff=$cutoff" model.l_max=2 model.channels=32 model.layers=4 "$@"
    train "$pool" msnequip "$steps" model=msnequip model.channels=32 model.hidden_l_max=2 model.layers=4 \
        "model.scales=[{cutoff: $cutoff, channels: 32, l_max: 2, radial_mlp: [64, 64]}, {cutoff: $beyond, channels: 8, l_max: 1, radial_mlp: [16, 8]}]" "$@"
}

[ -n "${ONLY_TIMES:-}" ] || study organics 1000 5.0 6.0 5.0 6.0 128 pool=organics pool.path="$data/organics_gfn2xtb"
[ -n "${ONLY_TIMES:-}" ] || study dense_hydrogen_pbe 500 3.5 4.5 3.0 4.0 64 pool=dense_hydrogen_pbe pool.path="$data/dense_hydrogen_pbe"

times() { # POOL CUTOFF FRAMES BATCH
    local common=(--system "$3" --cutoff "$2" --batch "$4" --rounds "${ROUNDS:-3}" --out "$out/$1")
    "$python" -m msmlff.app benchmark --model mace --ours "$out/$1/msmace/seed1/model.safetensors" "${common[@]}"
    [ -z "$nequip" ] || "$python" -m msmlff.app benchmark --model nequip --channels 32 --l-max 2 --layers 4 --nequip-python "$nequip" \
        --ours "$out/$1/msnequip/seed1/model.safetensors" "${common[@]}"
}
times organics 5.0 "$data"/organics_gfn2xtb/test* 5
times organics 5.0 "$data"/organics_gfn2xtb/test* 20 # as many atoms as in five of the larger frames
times dense_hydrogen_pbe 3.5 "$data"/dense_hydrogen_pbe/test* 5
"$python" "$root/scripts/matched_page.py" "$out"
