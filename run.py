"""`python run.py cache=lru prefetch=gate`: every option is a file in conf/."""

import os
import signal
import sys

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors arrive here, to be printed as one line
# Hydra takes sweepers and launchers from packages of the name hydra_plugins alone.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "moex", "sweeps"))

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | None:
    """Run one configuration; return its objective, for sweepers."""
    from moex.cli.app import run
    from moex.cli.errors import forget, leave, one_line
    from moex.cli.sweep import in_sweep

    try:
        return run(config)
    except Exception as error:
        if not in_sweep():
            leave(error)
        print(f"moex: {one_line(error)}", file=sys.stderr)
        forget(error)
        raise


if __name__ == "__main__":
    from moex.cli.errors import leave, register_resolvers
    from moex.cli.overrides import (
        asked_group,
        given_twice,
        implied,
        named_models,
        options_first,
        refuse_groups,
    )

    register_resolvers()
    sys.argv[1:] = options_first(implied(named_models(sys.argv[1:])))
    for key in given_twice(sys.argv[1:]):
        print(f"moex: {key}= is given twice: the last one counts", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if group := asked_group(sys.argv[1:]):
            from moex.cli.keys import group_help

            print(group_help(group), end="")
        else:
            refuse_groups(sys.argv[1:])
            main()
    except KeyboardInterrupt:
        sys.exit("moex: stopped; type the command again: what has finished is not run twice")
    except Exception as error:
        leave(error)
