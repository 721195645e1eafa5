#!/usr/bin/env bash
# One scale and two: accuracy and speed over short cutoff, long cutoff, long channels and long l. Started again, it goes on.
#   scripts/multiscale_study.sh DATA [OUT]     DATA: folder with organics_gfn2xtb and dense_hydrogen_pbe
set -euo pipefail
data=$(cd "${1:?folder with organics_gfn2xtb and dense_hydrogen_pbe}" && pwd)
out=${2:-multiscale}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
seeds=${SEEDS:-1,2,3}
steps=${STEPS:-1000}
mkdir -p "$out"
out=$(cd "$out" && pwd)

common=(data=d_optimal_200 "seed=$seeds" threads=1 logger=files report=false gate=false training.steps="$steps" training.validations=5
    hydra/launcher=joblib hydra.launcher.n_jobs="${JOBS:-2}")
short() { echo "{cutoff: $1, channels: 16, l_max: 2, radial_mlp: [16, 16, 8]}"; }

train() { # POOL NAME SCALES, then overrides of the pool
    "$python" "$root/train.py" -m model=msmace model.channels=16 model.hidden_l_max=0 "model.scales=[$3]" "${common[@]}" \
        "hydra.sweep.dir=$out/$1/$2" "hydra.sweep.subdir=seed\${seed}" "${@:4}"
}

two() { # SHORT LONG CHANNELS, then overrides
    local channels l
    for channels in $3; do
        for l in 0 1; do
            train "$pool" "two_$1_$2_${channels}_$l" \
                "$(short "$1"), {cutoff: $2, channels: $channels, l_max: $l, radial_mlp: [16, 8]}" "${@:4}"
        done
    done
}

study() { # POOL, cutoffs "SHORT MIDDLE LONG", then overrides
    local pool=$1 c1 c2 c3 cutoff long
    read -r c1 c2 c3 <<< "$2"
    shift 2
    for cutoff in $c1 $c2 $c3; do
        train "$pool" "one_$cutoff" "$(short "$cutoff")" "$@"
    done
    for long in $c2 $c3; do
        two "$c1" "$long" "4 8" "$@"
    done
    two "$c2" "$c3" 8 "$@"
}

study organics "3.0 4.0 6.0" pool=organics pool.path="$data/organics_gfn2xtb"
study dense_hydrogen_pbe "1.5 2.5 3.5" pool=dense_hydrogen_pbe pool.path="$data/dense_hydrogen_pbe"
"$python" "$root/scripts/multiscale_page.py" "$out"
