"""Nonsense gets one line that names the key, and says what to type instead: which then works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from typed import corrected, run

from moex.cli.errors import CONF, one_line, register_resolvers

if TYPE_CHECKING:
    from pathlib import Path

REFUSALS = (HydraException, OmegaConfBaseException, ValueError, FileNotFoundError)
SIMULATED = [
    ("hardware=toy hardware.visit_s=nan", "hardware.visit_s=nan: expected a finite number"),
    ("hardware=toy hardware.visit_s=1e308", "hardware.visit_s=1e+308: expected a finite number"),
    ("hardware=toy hardware.visit_s=-1", "hardware.visit_s=-1: expected seconds, 0 or more"),
    ("hardware=toy hardware.link_bytes_per_s=nan", "link_bytes_per_s=nan: expected a finite"),
    ("hardware=toy hardware.link_bytes_per_s=inf", "link_bytes_per_s=inf: expected a finite"),
    ("hardware=toy hardware.link_bytes_per_s=0", "link_bytes_per_s=0: expected a positive"),
    ("hardware=toy hardware.link_bytes_per_s=1e-300", "e-300: expected a positive number of bytes"),
    ("hardware=toy hardware.chunk_bytes=0", "hardware.chunk_bytes=0: expected at least 1"),
    ("hardware=toy +hardware.break_even={ram:7}", "hardware.break_even.ram=7: expected a share"),
    ("hardware=toy miss=host", "hardware=toy: does not say how fast its host computes an expert"),
    ("miss=hybrid hardware=toy", "miss.host_s=null: miss=hybrid splits misses by constants"),
    ("miss=hybrid hardware=rtx3060 miss.worth_s=inf", "miss.worth_s=inf: expected a finite number"),
    ("miss=skip miss.threshold=nan", "miss.threshold=nan: expected a finite number"),
    ("miss=skip miss.threshold=0.9", "miss.threshold=0.9: expected 0 or more, and less than 1 /"),
    ("miss=low_bits", "miss=low_bits: asks for slices of experts, and these records have one"),
    ("quant=rtn_4bit miss=slices", "miss=slices: asks for slices of experts, and these records"),
    ("quant=sliced miss=low_bits miss.low=0.5", "miss.high=0.6 miss.low=0.5: expected shares"),
    ("quant=sliced miss=slices miss.important=2", "miss.important=2: expected a share"),
    ("quant=sliced miss=slices miss.whole=2", "miss.whole=2: expected the share of residents"),
    ("routing=cache_prior", "trace: holds no router rows, which CachePrior chooses from"),
    ("memory.slots=nan", "memory.slots=nan: expected a finite number"),
    ("memory.slots=inf", "memory.slots=inf: expected a finite number"),
    ("memory.slots=2.5", "memory.slots=2.5: expected a whole number, or a fraction below 1"),
    ("memory.slots=-1", "memory.slots=-1: expected 0 (every expert passes through staging)"),
    ("memory.slots=[2,2,2]", "memory.slots: a list of 3, for a model of"),
    ("memory.slots=[2,half]", "memory.slots=[2,half]: expected"),
    ("memory.slots=null", "memory.slots=null memory.budget=null: expected exactly one of them"),
    ("memory.budget=5GB", "memory.budget=5GB: a budget also holds the bytes beside experts"),
    ("memory.staging=1000000000", "expected at least 1 slot to load into, at most 48 (all experts"),
    ("memory.staging=0", "memory.staging=0: expected at least 1 slot to load into"),
    ("memory.reader_threads=100000", "memory.reader_threads=100000: expected at least 1, at most"),
    ("memory.pool=both", "memory.pool=both: expected one of layer, global"),
    ("memory.rows=0.5", "memory.rows=0.5: slots for a share of an expert need a neuron selector"),
    ("runner.threads=100000", "runner.threads=100000: expected a whole number, at least 1,"),
    ("runner.threads=0", "runner.threads=0: expected a whole number, at least 1, at most"),
    ("seed=1000000000000000000000", "seed=1000000000000000000000: expected a finite number, at"),
    ("seed=-1", "seed=-1: expected a whole number, at least 0; try seed=0"),
    ("seed.x=1", "seed.x: seed is one value, and has no keys"),
    ("cache=gdsf cache.weights=[nan]", "cache.weights=[nan]: expected a finite number"),
    ("cache=gdsf cache.weights=[1]", "cache.weights: 1 given, expected one per layer"),
    ("cache=static cache.counts=[[nan]]", "cache.counts=[[nan]]: expected a finite number"),
    ("cache=lecar cache.rate=1000000000", "cache.rate=1000000000: expected a rate in (0, 100]"),
    ("cache=lru_k cache.k=0", "cache.k=0: expected a number of uses from 1"),
    ("prefetch.depth=9", "prefetch.depth=9: expected 1 to 3 layers ahead"),
    ("prefetch=gate_norm", "trace: holds no lookahead_norm, which GateNorm needs"),
    ("trace=nowhere.parquet", "trace=nowhere.parquet: no such file; expected a recorded trace"),
    ("trace=run.py", "trace=run.py: not a whole parquet file"),
    ("trace=[tiny,run.py]", "trace=run.py: not a whole parquet file"),
    (
        "prefetch=none trace=[tiny,synthetic_mixtral]",
        "recorded on 32 layers x 8 experts, top-2, of ",
    ),
    ("shards=2", "shards=2: this cache stays warm from one sequence to the next"),
    ("shards=0", "shards=0: expected a whole number, at least 1; try shards=1"),
    ("shard=3", "shard=3: expected 0 to 0, because shards=1; try shard=null"),
    ("trace=null", "trace=null: mode=simulate replays a recorded trace"),
    ("objective=speed", "objective=speed: the row has no such number"),
]
PLANNED = [
    ("memory.budget=5GB", "memory.slots=0.5 memory.budget=5GB: expected exactly one of them"),
    ("memory.slots=null memory.budget=1.2.3GB", "memory.budget=1.2.3GB: expected bytes"),
    ("memory.slots=null memory.budget=nan", "memory.budget=nan: expected bytes"),
    ("memory.slots=null memory.budget=1e400GB", "memory.budget=1e400GB: expected bytes"),
    ("memory.slots=null memory.budget=.GB", "memory.budget=.GB: expected bytes"),
    ("memory.slots=null memory.budget=0", "memory.budget=0 (0 bytes): expected at least"),
    ("mode.hit_rates=[2]", "mode.hit_rates=[2]: expected a list of numbers, at least 0, at most 1"),
    ("mode.hit_rates=[nan]", "mode.hit_rates=[nan]: expected a finite number"),
    ("mode.bits=[-4]", "mode.bits=[-4]: expected a list of numbers, above 0, at most 32"),
    ("mode.bits=[0]", "mode.bits=[0]: expected a list of numbers, above 0, at most 32"),
    ("mode.bits=[4.5,1e308]", "mode.bits=[4.5,1e+308]: expected a finite number"),
    ("memory.staging=1000000000", "memory.staging=1000000000: expected at least 1 slot"),
    ("workload.prompt_tokens=1000000000000", "expected a number, at least 1, at most 1048576"),
    ("workload.sampling=sample workload.temperature=1e-300", "workload.temperature=1e-300: expec"),
    ("workload.sampling=sample workload.temperature=inf", "workload.temperature=inf: expected a"),
    ("workload.sampling=sample workload.top_p=nan", "workload.top_p=nan: expected a finite"),
    ("train.width=1000000000", "train.width=1000000000: expected at most 65536"),
    ("model.device=foo", "model.device=foo: expected a device name of torch"),
    ("+model.architecture.x=nan", "model.architecture={'x': nan}: expected a finite number"),
    ("quant=rtn_4bit quant.kernel=tinygemm", "quant.kernel=tinygemm: tinygemm needs a CUDA device"),
    ("quant=rtn_4bit quant.group_size=7", "quant.group_size=7: does not divide the 256 inputs"),
    ("quant=rtn_4bit quant.scale_group=0", "quant.scale_group=0: expected 1 or more"),
    ("quant=sliced quant.bits=3", "quant.bits=3: expected 4 or 8, which two slices share"),
    ("quant=sliced quant.group_size=7", "quant.group_size=7: does not divide the 256 inputs"),
    ("quant=mixed quant.gate_up.bits=5", "quant.gate_up.bits=5: expected one of 8, 4, 3, 2"),
    ("quant=mixed quant.down.group_size=7", "quant.down.group_size=7: does not divide the 384"),
    ("quant=only quant.quantizer.group_size=7", "quant.quantizer.group_size=7: does not divide"),
    ("quant=mixed quant.gate_up=4", "quant.gate_up=4: expected a quantizer or null (16 bits)"),
    ("model.dtype=float8", "model.dtype=float8: expected one of auto, float32"),
]


@pytest.fixture(autouse=True)
def hydra_here(monkeypatch):
    register_resolvers()
    monkeypatch.chdir(CONF.parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    ("mode", "words", "line"),
    [("simulate", *case) for case in SIMULATED] + [("plan", *case) for case in PLANNED],
)
def test_what_is_suggested_for_bad_input_works_when_typed(
    mode: str, words: str, line: str, tmp_path: Path
):
    typed = [f"mode={mode}", *words.split()]
    with pytest.raises(REFUSALS) as caught:
        run(tmp_path, *typed)
    found = one_line(caught.value)
    assert line in found
    assert "\n" not in found
    assert not list(tmp_path.iterdir())
    run(tmp_path, *corrected(typed, found))
    assert (tmp_path / "run" / "result.json").is_file()
