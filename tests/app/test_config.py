"""The command line, checked before anything is started."""

from __future__ import annotations

import pytest

from msmlff.app.config import check_overrides, register_resolvers
from msmlff.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "model=msmace,mcae"], r"(?s)mcae.*Available options in 'model'"),
        (["-m", "data=cpd_50,cpd_051"], "data=cpd_051: '051' is no whole number"),
        (["-m", "seed=1,2,abc"], "seed='abc': write a whole number >= 0"),
        (["-m", "model=glob(x*)"], r"model=glob\(x\*\): nothing is called so"),
        (["seed=1,2"], "seed=1,2: .*add -m"),
        (["seed=abc"], "seed='abc': write a whole number >= 0"),
        (["seed=-1"], "seed=-1: write a whole number >= 0"),
        (["seed=true"], "seed=True: write a whole number"),
        (["seed=null"], "seed=None: write a whole number"),
        (["threads=x"], "threads='x': write a whole number >= 1, or null"),
        (["threads=0"], "threads=0: write a whole number >= 1, or null"),
        (["gate=7"], "gate=7: write true or false"),
        (["report=maybe"], "report='maybe': write true or false"),
        (["dtype=float16"], "dtype='float16': write float32 or float64"),
        (["device=tpu"], "device='tpu': write auto, cpu or cuda"),
        (["tags=one"], r"tags='one': write a list of words, as \[first,baseline\]"),
        (["data.budget=many"], "data.budget='many': write a whole number >= 1, or null"),
        (["data.selection_seed=x"], "data.selection_seed='x': write a whole number"),
        (["logger.tensorboard=7"], "logger.tensorboard=7: write true or false"),
        (["logger=wandb", "logger.wandb.mode=live"], "logger.wandb.mode='live': write online"),
        (
            ["model=mace", "model.cutof=3"],
            r"'model.cutof'. Did you mean model.cutoff.*of model: .*model.l_max",
        ),
        (["-m", "model=msmace,mace", "model.scales=[]"], "'model.scales'. .*of model: .*model.cutoff"),
        (["logger=wandb", "logger.wandb.mod=x"], "'logger.wandb.mod'. Did you mean logger.wandb.mode"),
        (["training/los=mae"], "no configuration group 'training/los'. Did you mean training/loss"),
        (["loss=mae"], "no configuration key 'loss'. Did you mean training/loss|training.loss"),
        (["+sead=3"], "no configuration key 'sead'. Did you mean seed"),
        (["+data.foo=1"], "no configuration key 'data.foo'. .*Keys of data: data.budget"),
        (["++data.foo=1"], "no configuration key 'data.foo'"),
        (["+selector=cpd"], "no configuration key 'selector'. Did you mean .*selector@data.selector"),
        (["pool=files"], "pool.path has no value and must be given: write pool.path="),
        (["data.budget=2.5"], "data.budget=2.5: write a whole number >= 1 of frames, or data.unit=cost"),
        (["data.unit=kg"], "data.unit='kg': write frames or atoms or cost"),
        (["data.must=3"], r"data.must=3: write a list of frame numbers, as \[0,7\]"),
        (
            ["data.quotas=even"],
            "data.quotas='even': write null, equal, proportional, or frames of each group",
        ),
        (["-m", "seed=1,2", "data.budget=5,0"], "data.budget=0: write a whole number >= 1"),
        (["training=5"], "Config group override must be a string"),
    ],
)
def test_what_is_refused(arguments: list[str], words: str) -> None:
    register_resolvers()
    with pytest.raises(InputError, match=words):
        check_overrides("train", arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-m", "model=glob(*)", "data=glob([cpd_*,f*])", "seed=range(1,4)"],
        ["-m", "data=cpd_51,full,random_7", "data.selection_seed=range(1,20)"],
        ["--cfg", "job", "pool=files"],
        ["-m", "experiment=cpd_paper", "pool.path=x", "seed=1,2"],
        ["+training.loss.group_weights.g1=2", "++seed=3", "selector@data.selector=random"],
        ["threads=2", "data.budget=null", "tags=[a,b]", "logger=csv", "hydra.run.dir=there"],
    ],
)
def test_what_is_let_through(arguments: list[str]) -> None:
    register_resolvers()
    check_overrides("train", arguments)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("budget=x", "budget='x': write a whole number >= 1, or null"),
        ("budget=0.5", "budget=0.5: write a whole number >= 1 of frames, or unit=cost"),
        ("budget=-1", "budget=-1: write a whole number >= 1"),
        ("unit=frame", "unit='frame': write frames or atoms or cost"),
        ("cost_exponent=x", "cost_exponent='x': write a number"),
        ("must=[1.5]", r"must=\[1.5\]: write a list of frame numbers"),
        ("forbidden=[-1]", "forbidden=.* write a list of frame numbers"),
        ("quotas={a: 0.5}", "quotas={'a': 0.5}: write null, equal, proportional"),
        ("reference=7", "reference=7: write null, the path of a selection.json, or a list"),
        ("map=7", "map=7: write true or false"),
        ("seed=1", "there is no configuration key 'seed'"),
    ],
)
def test_distill_has_keys_of_its_own(argument: str, words: str) -> None:
    register_resolvers()
    with pytest.raises(InputError, match=words):
        check_overrides("distill", [argument])


@pytest.mark.parametrize(
    "arguments",
    [
        ["budget=null", "selector=random"],
        ["budget=0.5", "unit=cost", "cost_exponent=1"],
        ["must=[1]", "forbidden=[2,3]", "reference=[4]", "quotas={a: 1, 1.4: 2}"],
        ["-m", "selector=cpd,random", "budget=5,6,7", "quotas=equal,proportional,null"],
        ["~descriptor", "selector=random"],
    ],
)
def test_what_distill_takes(arguments: list[str]) -> None:
    register_resolvers()
    check_overrides("distill", arguments)
