"""Other names of keys, options and modules: whoever types one is told the name here."""

KEYS = {"verdict": "bottleneck"}
"""Configuration keys that have another name since 0.2.0."""

SYNONYMS = {
    "batch_size": "workload.batch_size",
    "cache.capacity": "memory.slots",
    "cache.size": "memory.slots",
    "cache.slots": "memory.slots",
    "gpu_memory": "memory.budget",
    "max_new_tokens": "workload.new_tokens",
    "memory.size": "memory.budget",
    "model.path": "model.name",
    "name": "model.name",
    "path": "model.name",
    "policy": "cache",
    "prefetch.layers": "prefetch.depth",
    "prefetcher": "prefetch",
    "prompt": "workload.prompts",
    "prompts": "workload.prompts",
    "quantization": "quant",
    "vram": "memory.budget",
}
"""Configuration keys as others call them."""

OPTIONS = {
    "cache": {"clock": "sieve", "mrs_lru": "mrs", "opt": "belady", "optimal": "belady"},
    "hardware": dict.fromkeys(("cuda", "cpu", "gpu", "here", "local"), "auto"),
    "mode": {
        "accuracy": "eval",
        "generate": "chat",
        "interactive": "chat",
        "replay": "simulate",
        "run": "live",
        "test": "verify",
    },
    "prefetch": {"lookahead": "gate", "speculative": "gate", "off": "none"},
    "quant": {
        **{f"int{bits}": f"rtn_{bits}bit" for bits in (8, 4, 3, 2)},
        **{f"{bits}bit": f"hqq_{bits}bit" for bits in (8, 4, 3, 2)},
        **{
            f"{kind}{bits}": f"{kind}_{bits}bit" for bits in (8, 4, 3, 2) for kind in ("hqq", "rtn")
        },
        **{str(bits): f"hqq_{bits}bit" for bits in (8, 4, 3, 2)},
        **dict.fromkeys(("bf16", "fp16", "fp32", "16"), "none"),
        "nf4": "hqq_4bit",
    },
    "runner": dict.fromkeys(("baseline", "hf", "transformers"), "stock"),
    "tracker": {"off": "none", "wb": "wandb"},
}
"""Options of groups as others call them."""

DEVICES = {"cuda", "cpu", "gpu"}
"""What `hardware=` is not."""

MODULES = {
    "moex.app": "moex.cli.app",
    "moex.bits": "moex.predictors.packed_matmul",
    "moex.cache.capacity": "moex.cache.memory",
    "moex.cache.held": "moex.cache.variants.resident_rows",
    "moex.cache.resident_rows": "moex.cache.variants.resident_rows",
    "moex.cache.ledger": "moex.cache.stats",
    "moex.cache.row_cache": "moex.cache.variants.row_cache",
    "moex.cache.rows": "moex.cache.variants.row_cache",
    "moex.clean": "moex.cli.clean",
    "moex.console": "moex.cli.console",
    "moex.errors": "moex.cli.errors",
    "moex.files": "moex.runs.atomic",
    "moex.identity": "moex.runs.run_id",
    "moex.objective": "moex.cli.objective",
    "moex.paired": "analysis.paired",
    "moex.places": "moex.paths",
    "moex.prefetch.nets": "moex.predictors.nets",
    "moex.provenance": "moex.runs.provenance",
    "moex.quant.check": "moex.testing.quantizers",
    "moex.report": "moex.runs.report",
    "moex.runner.activations": "moex.train.activations",
    "moex.runner.baselines": "moex.bench.baselines",
    "moex.runner.budget": "moex.models.memory_needs",
    "moex.runner.calibrate": "moex.calibrate.measure",
    "moex.runner.checkpoint": "moex.models.checkpoint",
    "moex.runner.decode": "moex.models.packed.formats",
    "moex.runner.density": "moex.store.row_break_even",
    "moex.runner.equality": "moex.bench.equality",
    "moex.runner.fitting": "moex.calibrate.cost_fit",
    "moex.runner.fusing": "moex.models.conversion",
    "moex.runner.hf": "moex.models.experts_interface",
    "moex.runner.hosts": "moex.runner.host_executor",
    "moex.runner.hub": "moex.models.hub",
    "moex.runner.live": "moex.bench.rounds",
    "moex.runner.model": "moex.runner.offloaded",
    "moex.runner.parts": "moex.models.loader",
    "moex.runner.prepare": "moex.bench.setup",
    "moex.runner.quantized": "moex.quant.packing",
    "moex.runner.quantized_rows": "moex.store.bundles",
    "moex.runner.random_weights": "moex.models.random_weights",
    "moex.runner.residual": "moex.models.normed_lookahead",
    "moex.runner.routers": "moex.models.router_scores",
    "moex.runner.routing": "moex.runner.routing_replay",
    "moex.runner.rows": "moex.runner.neurons",
    "moex.runner.sampling": "moex.bench.sampling",
    "moex.runner.shards": "moex.models.shards",
    "moex.runner.texts": "moex.bench.prompts",
    "moex.runner.timeline": "moex.bench.timeline",
    "moex.runner.tokenizer": "moex.models.checkpoint",
    "moex.runner.work": "moex.runner.layer_forward",
    "moex.runner.workload": "moex.bench.workload",
    "moex.settings": "moex.cli.build",
    "moex.sim.compiled_curves": "moex.sim.curves.compiled",
    "moex.sim.costs": "moex.hardware.costs",
    "moex.sim.hardware": "moex.hardware.profile",
    "moex.sim.kernels": "moex.sim.curves.compiled",
    "moex.sim.link": "moex.hardware.link_model",
    "moex.sim.policy_curves": "moex.sim.curves.policies",
    "moex.sim.roofline": "moex.hardware.forecast",
    "moex.sim.rows": "moex.decisions.rows",
    "moex.sim.verdict": "moex.sim.bottleneck",
    "moex.sparsity.lean": "moex.predictors.quantized_lowrank",
    "moex.sparsity.lowrank": "moex.predictors.lowrank",
    "moex.store.gather": "moex.store.row_reader",
    "moex.store.kernel": "moex.store.linux_aio",
    "moex.store.pack": "moex.store.packing",
    "moex.store.packed_rows": "moex.store.row_slots",
    "moex.store.rows": "moex.store.row_slots",
    "moex.testing_prefetch": "moex.testing.prefetchers",
    "moex.trained": "moex.predictors.trained",
}
"""Modules that a plug-in may have imported, and where they are since 0.2.0."""

NEEDS = {
    "baseline=pregated": (
        "a model retrained so that each router chooses the next layer's experts (arXiv 2308.12066)",
        "baseline=mixtral_offloading",
    ),
    "baseline=daop": (
        "computing predicted experts early, on the CPU, from predicted inputs (arXiv 2501.10375)",
        "baseline=fiddler",
    ),
    "baseline=hybrimoe": (
        "queues of a layer's experts over CPU and GPU, ordered by their impact (arXiv 2504.05897)",
        "baseline=fiddler miss=hybrid cache=mrs hardware=rtx3060",
    ),
}
"""Published methods without a preset: the part that is missing, and the nearest preset."""
