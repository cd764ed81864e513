"""Writes the tables of conf/README.md, every configuration key, from the comments in conf/.

    python -m moex.cli.keys

A file's first comment says what it is, its first indented one how to run it. A key's meaning is the
comment behind its value, with the comments indented below; a mapping without any inside is one key.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[2] / "conf"
PRESETS = ("baseline", "ablation", "experiment")
WIDEST, MOST = 40, 4  # characters of a value, and different defaults of a key, that a table shows


def options(group: str) -> list[Path]:
    """The files of a group."""
    return sorted((CONF / group).glob("*.yaml"))


def groups() -> dict[str, tuple[str, str]]:
    """By group, its usual option and what it decides, as the main file lists them."""
    line = re.compile(r"^  (?:# )?- (?:override )?([\w/]+): (\w+) +# (.*)", re.MULTILINE)
    listed = line.findall((CONF / "config.yaml").read_text())
    return {group: (f"`{usual}`", what) for group, usual, what in listed if options(group)}


def header(path: Path) -> tuple[str, str]:
    """What a file is, and its first command."""
    first, *others = re.findall(r"^# +([^@].*)", path.read_text(), re.MULTILINE)
    commands = (line.partition("  #")[0].strip() for line in others if "python run.py" in line)
    return first, f"`{next(commands)}`"


def keys(path: Path) -> dict[str, tuple[str, str]]:
    """By dotted name the value and meaning of a file's keys, and of the file it starts from."""
    text, found = path.read_text(), dict[str, tuple[str, str]]()
    for base in re.findall(r"^  - (?!_)(\w+)$", text, re.MULTILINE):
        found |= keys(path.with_stem(base))
    package = path.parent.relative_to(CONF).as_posix().strip(".").replace("/", ".")
    for name, value, meaning in _keys(yaml.compose(text), text, "" if "# @" in text else package):
        found[name] = value, meaning or found.get(name, ("", ""))[1]
    return found


def _keys(tree: Any, text: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, node in tree.value:
        name = f"{prefix}.{key.value}" if prefix else key.value
        in_line = node.end_mark.line == key.end_mark.line
        value = text[node.start_mark.index : node.end_mark.index]
        rest = text[(node if in_line else key).end_mark.index :]
        comments = re.findall(r"\A[^\n#]*(?:#.*)?(?:\n +#.*)*", rest)[0]
        meaning = " ".join(re.findall("# (.*)", comments))
        inner = list(_keys(node, text, name)) if isinstance(node, yaml.MappingNode) else []
        explained = any(each[-1] for each in inner)
        if key.value not in ("defaults", "_target_") and (meaning or not explained):
            yield name, value if in_line and len(value) <= WIDEST else "...", meaning
        yield from inner if explained else ()


def page() -> str:
    """All tables: groups, what modes ignore, keys of the main file, and every group's."""
    names = ((f"[{g}](#{g.replace('/', '')})", *about) for g, about in groups().items())
    parts = ["## Groups", _table("group | default | what it decides", names)]
    parts += ["## Overrides that are ignored", _table("with | ignored", _ignored())]
    parts += ["## Keys outside of groups", _key_table(options(""))]
    for group in groups():
        rows = ((f"[{p.stem}]({p.relative_to(CONF)})", *header(p)) for p in options(group))
        parts += [f"## {group}", _table("option | what it is | command", rows)]
        parts += [] if group in PRESETS else [_key_table(options(group))]
    return "\n\n".join(parts) + "\n"


def group_help(group: str) -> str:
    """A group's options and keys, as `python run.py GROUP --help` prints them."""
    usual, what = groups().get(group, ("none", "settings of Hydra"))
    chosen = options(group)
    wide = max(len(path.stem) for path in chosen)
    lines = [f"{group}: {what}; default {usual.strip('`')}", ""]
    lines += [f"  {group}={path.stem:{wide}}  {header(path)[0]}" for path in chosen]
    found = [] if group in PRESETS else [*_found(chosen)]
    wide = max((len(name) for name, _, _ in found), default=0)
    lines += ["", "Keys, with their defaults:"] if found else []
    lines += [
        f"  {name:{wide}}  {defaults.replace('`', '')}: {meaning}"
        for name, defaults, meaning in found
    ]
    return "\n".join([*lines, "", f"  python run.py {group}=OPTION KEY=VALUE", ""])


def _ignored() -> Iterator[tuple[str, str]]:
    for path in (*options("mode"), *options("runner")):
        unused = yaml.safe_load(path.read_text()).get("unused", ["nothing"])
        plain = (re.sub(r"(.+)\(\?!(.+)\)", r"\1 (not \1\2)", word) for word in unused)
        yield f"`{path.parent.name}={path.stem}`", ", ".join(plain)


def _key_table(files: list[Path]) -> str:
    """A row for every key and meaning; where files differ, each default with its options."""
    rows = ((f"`{name}`", defaults, meaning) for name, defaults, meaning in _found(files))
    return _table("key | default | meaning", rows)


def _found(files: list[Path]) -> Iterator[tuple[str, str, str]]:
    """Name, defaults and meaning of every key of these files."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in files:
        for name, (value, meaning) in keys(path).items():
            found.setdefault((name, meaning), {}).setdefault(value, []).append(path.stem)
    for (name, meaning), defaults in found.items():
        differ = [*map(len, defaults.values())] != [len(files)]
        each = [f"`{value}`" + f" ({', '.join(of)})" * differ for value, of in defaults.items()]
        yield name, "; ".join(each) if len(each) <= MOST else "*by option*", meaning


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    rule = re.sub(r"\w[\w ]*\w", "---", head)
    return "\n".join(f"| {line} |" for line in (head, rule, *lines))


if __name__ == "__main__":
    introduction = (CONF / "README.md").read_text().partition("\n## ")[0].rstrip()
    (CONF / "README.md").write_text(f"{introduction}\n\n{page()}")
