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

hydrogen=(learner.cutoff=2.5 learner.channels=32 learner.l_max=2)
organics=(pool=organics pool.path=organics_gfn2xtb learner.cutoff=4.0 learner.channels=24)
pbe=(pool=dense_hydrogen_pbe pool.path=dense_hydrogen_pbe "${hydrogen[@]}")
embedded=(pool=dense_hydrogen "${hydrogen[@]}")

compare() { # OUT/NAME, then overrides
    "$python" -m msmlff.app compare "hydra.sweep.dir=$out/$1" "${@:2}"
}

vary() {
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

compare organics "${organics[@]}"
compare dense_hydrogen_pbe "${pbe[@]}"
vary dense_hydrogen_pbe "${pbe[@]}"
compare dense_hydrogen "${embedded[@]}"
vary organics "${organics[@]}"
vary dense_hydrogen "${embedded[@]}"
"$python" "$root/scripts/comparison_page.py" "$out/organics" "$out/dense_hydrogen_pbe" "$out/dense_hydrogen" --out "$root/docs/comparison.md"
