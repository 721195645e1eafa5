#!/usr/bin/env bash
# The study of docs/comparison.md: all selectors on three pools, then CPD's and d_optimal's open choices. Started again, it goes on.
#   scripts/compare_selectors.sh DATA [OUT]     DATA: folder with organics_gfn2xtb and dense_hydrogen_pbe
set -euo pipefail
data=${1:?folder with organics_gfn2xtb and dense_hydrogen_pbe}
out=${2:-comparisons}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON_BIN:-$root/.venv/bin/python}
export OMP_NUM_THREADS=1
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$data"

. "$root/scripts/pools.sh"

compare() { # POOL, then overrides
    pool_settings "$1"
    "$python" -m msmlff.app compare "hydra.sweep.dir=$out/$1" "${pool[@]}" "${learner[@]}" "${@:2}"
}

vary() { # POOL
    set -- "$@" "budgets=[25,100,400]"
    compare "$@" selector=cpd selector.central_share=0.0,0.25,1.0
    compare "$@" selector=cpd selector.density=knn
    compare "$@" selector=cpd selector.weights=rank
    compare "$@" selector=cpd selector.pooling=mean,per_element
    compare "$@" selector=cpd selector.variance=0.8
    compare "$@" selector=cpd selector.standardise=false
    compare "$@" selector=cpd selector.central=0.1 selector.peripheral=0.1
    compare "$@" selector=cpd selector.central=0.4 selector.peripheral=0.4
    compare "$@" selector=d_optimal selector.noise=0.1,1.0
    compare "$@" selector=d_optimal selector.components=8
    compare "$@" selector=d_optimal selector.per_atom=true
}

compare organics
compare dense_hydrogen_pbe
vary dense_hydrogen_pbe
compare dense_hydrogen
vary organics
vary dense_hydrogen
"$python" "$root/scripts/comparison_page.py" "$out/organics" "$out/dense_hydrogen_pbe" "$out/dense_hydrogen" --out "$root/docs/comparison.md"
